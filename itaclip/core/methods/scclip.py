"""SC-CLIP: CLIP calibrated by its own middle blocks (Bai et al., arXiv 2411.15869).

``y_l`` is the output of block l. Everything is computed per window, in a batch of B windows of
N patches on a grid of r x c; similarities are B x N x N.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.core.clip.blocks import attend
from itaclip.core.clip.encoded import EncodedWindows, Needs
from itaclip.core.clip.towers import Grid, TowerBlock
from itaclip.core.methods.method import PUBLISHED_BLOCKS, Method, Window, scaled_layers
from itaclip.devices import float64_device

_WEAK = 0.4
"""Similarities below this are dropped before they weight an average of features."""


@dataclass(frozen=True)
class SCCLIP(Method):
    """Repaired outliers, a middle block's similarities in the last attention, and two branches.

    Attributes:
        similarity_layer: block whose similarities determine which patches belong together.
        refine_layer: block whose similarities smooth the result.
        fused_layers: first and last block of the range whose sum is the second branch.
        class_weight: weight of the class token that is added to every patch; a tower without one
            uses the mean of its patches.
        neighbours: k of the local outlier factor.
        outlier_quantile: patches above this quantile of the factor are outliers.
    """

    similarity_layer: int = 9
    refine_layer: int = 4
    fused_layers: tuple[int, int] = (4, 10)
    class_weight: float = 0.3
    neighbours: int = 30
    outlier_quantile: float = 0.95

    def needs(self, depth: int) -> Needs:
        first, last = self.fused_layers
        return Needs.of(outputs=[self.similarity_layer, self.refine_layer, *range(first, last + 1), depth - 1])

    def tokens(self, encoded: EncodedWindows, window: Window) -> Tensor:
        y = encoded.output(encoded.depth - 1).float()
        outliers = self.outliers(encoded.patches(y))
        similarity_input = _repaired(
            encoded.patches(encoded.output(self.similarity_layer)).float(), outliers, encoded.grid
        )
        similarity = _cosines(similarity_input)
        centred = similarity - similarity.mean((1, 2), keepdim=True)
        bias = (3 * centred).masked_fill(centred < 0, -torch.inf)
        after = _averaging(_cosines(encoded.patches(encoded.output(self.refine_layer)).float()))

        repaired = _averaging(similarity) @ _repaired(encoded.patches(y), outliers, encoded.grid)
        x = self._last_block(encoded.last, repaired, encoded.summary(y), bias)
        first, last = self.fused_layers
        fused = (
            sum(encoded.output(layer).float() for layer in range(first + 1, last + 1)) + encoded.output(first).float()
        )
        x = x + self._last_block(encoded.last, encoded.patches(fused), encoded.summary(fused), bias)
        # smoothing is linear, so both branches are smoothed together
        return encoded.on_grid(encoded.joint(encoded.norm(after @ x)))

    def _last_block(self, block: TowerBlock, patches: Tensor, class_token: Tensor, bias: Tensor) -> Tensor:
        """Compute ``(softmax(M) + softmax(s k k')) / 2`` on the values, projected, plus the class token."""
        p = block.project(patches)
        given = bias.softmax(-1).to(p.value.dtype)[:, None] @ p.value
        heads = (given + attend(p.key, p.key, p.value)) / 2
        return block.merge_heads(heads).float() + self.class_weight * class_token

    def outliers(self, patches: Tensor) -> Tensor:
        """Find the patches that stand out: B x N bool, for B x N x D patches of block L - 1."""
        factor = outlier_factor(patches, self.neighbours)
        place = float64_device(factor.device)  # PyTorch ranks in 64-bit floats
        return factor > factor.to(place).quantile(self.outlier_quantile, dim=1, keepdim=True).to(factor.device)

    def for_depth(self, depth: int) -> SCCLIP:
        if depth == PUBLISHED_BLOCKS:
            return self
        similarity, refine, first, last = (
            (scaled_layers((layer,), depth) or (depth - 1,))[0]
            for layer in (self.similarity_layer, self.refine_layer, *self.fused_layers)
        )
        return replace(self, similarity_layer=similarity, refine_layer=refine, fused_layers=(first, last))


def outlier_factor(patches: Tensor, k: int) -> Tensor:
    """Compute the local outlier factor of every patch as SC-CLIP does: B x N, for B x N x D.

    Its reachability uses the k-distance of the patch itself where the textbook uses its
    neighbour's. No neighbour is farther away than that, so the density is its reciprocal.
    """
    k = min(k, patches.shape[1] - 1)
    if k < 1:
        return torch.ones_like(patches[..., 0])
    centred = patches - patches.mean(1, keepdim=True)
    squares = centred.square().sum(-1)
    distances = squares[:, :, None] + squares[:, None] - 2 * centred @ centred.transpose(1, 2)
    distances = distances.clamp(min=0).masked_fill(_diagonal(distances), -1)  # so that the patch itself comes first
    nearest, places = distances.topk(k + 1, dim=-1, largest=False, sorted=True)
    density = 1 / nearest[..., -1].clamp(min=torch.finfo(nearest.dtype).tiny)
    around = density.unsqueeze(1).expand_as(distances).gather(2, places[..., 1:]).mean(-1)
    return around / density


def _repaired(patches: Tensor, outliers: Tensor, grid: Grid) -> Tensor:
    """Replace outliers by the mean of their 8 neighbours, other outliers excluded; B x N x D."""
    kept = (~outliers).to(patches.dtype)[..., None]
    summed = _around(torch.cat([patches * kept, kept], dim=-1), grid)
    count = summed[..., -1:]
    mean = summed[..., :-1] / count.clamp(min=1)
    return torch.where(outliers[..., None] & (count > 0.5), mean, patches)


def _around(patches: Tensor, grid: Grid) -> Tensor:
    """Sum the 3 x 3 patches around each patch: B x N x C."""
    image = patches.transpose(1, 2).unflatten(2, grid)
    summed = F.avg_pool2d(image, 3, stride=1, padding=1, divisor_override=1)
    return summed.flatten(2).transpose(1, 2)


def _cosines(patches: Tensor) -> Tensor:
    unit = F.normalize(patches, dim=-1)
    return unit @ unit.transpose(1, 2)


def _averaging(similarity: Tensor) -> Tensor:
    """Convert similarities to rows of weights, dropping weak ones."""
    strong = similarity.masked_fill(similarity < _WEAK, 0)
    return strong / (strong.sum(-1, keepdim=True) + 1e-6)


def _diagonal(square: Tensor) -> Tensor:
    return torch.eye(square.shape[-1], dtype=torch.bool, device=square.device)
