"""ResCLIP: middle blocks' attention and a first result, added to another method's attention (Yang et al., CVPR 2025).

Shapes: B windows, N patches on r x c, Q queries, h heads; similarities and maps are
B x h x (P + N) x (P + N), with P tokens before the patches: CLIP's class token, or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.core.clip.blocks import Projections
from itaclip.core.clip.encoded import EncodedWindows, Needs
from itaclip.core.clip.towers import Grid
from itaclip.core.methods.attention import gaussian_window
from itaclip.core.methods.method import PUBLISHED_BLOCKS, Method, Window, scaled_layers
from itaclip.core.methods.proxyclip import required
from itaclip.core.pamr import pamr

Base: TypeAlias = Literal["naclip", "clearclip", "sclip"]

_STD = 5.0
"""Standard deviation of NACLIP's window in patches, and of the feedback's smoothing in positions of a row."""

_SMOOTHING_PLACES = 31


@dataclass(frozen=True)
class ResCLIP(Method):
    """Residual attention (RCS) and semantic feedback (SFR) on top of a base.

    Attributes:
        base: the method whose attention is refined: "naclip", "clearclip" or "sclip".
        layers: blocks whose ordinary maps are averaged.
        residual_scale: t_r, multiplies the final map.
        residual_weight: l_r, the weight of the middle blocks' map.
        feedback_scale: t_f, multiplies the similarities; None disables the feedback.
        feedback_weight: l_f, the weight of the feedback.
        threshold: pixels whose best query scores less count as query 0.
        decay: patches of the same label count less the farther apart they are, unless the
            straight line between them stays within the label.
    """

    base: Base = "naclip"
    layers: tuple[int, ...] = (6, 7, 8, 9)
    residual_scale: float = 2.0
    residual_weight: float = 0.3
    feedback_scale: float | None = 2.1
    feedback_weight: float = 0.7
    threshold: float = 0.1
    decay: bool = True

    reads_text: ClassVar[bool] = True

    def needs(self, depth: int) -> Needs:
        return Needs.of(outputs=[depth - 1], projections=[*self.layers, depth])

    def tokens(self, encoded: EncodedWindows, window: Window) -> Tensor:
        residual = _mean_map([encoded.projections(layer) for layer in self.layers])
        tokens = self._last_block(encoded, residual, None)
        if self.feedback_scale is None:
            return tokens
        feedback = self.feedback(self.patch_labels(tokens, window), encoded.grid, encoded.prefix)
        return self._last_block(encoded, residual, feedback)

    def _last_block(self, encoded: EncodedWindows, residual: Tensor, feedback: Tensor | None) -> Tensor:
        p = encoded.projections(encoded.depth)
        scale = p.query.shape[-1] ** -0.5
        similar = {"naclip": [(p.key, p.key)], "clearclip": [(p.query, p.query)],
                 "sclip": [(p.query, p.query), (p.key, p.key)]}[self.base]  # fmt: skip
        attention: Tensor | float = 0.0
        for a, b in similar:
            similarity = (a * scale @ b.transpose(-1, -2)).float()
            if feedback is not None and self.feedback_scale is not None:
                weight = self.feedback_weight
                similarity = self.feedback_scale * ((1 - weight) * similarity + (weight * feedback)[:, None])
            if self.base == "naclip":
                similarity = similarity + gaussian_window(encoded.grid, _STD, encoded.prefix, similarity.device)
            attention = attention + similarity.softmax(-1)
        attention = self.residual_scale * torch.lerp(torch.as_tensor(attention), residual, self.residual_weight)
        heads = attention.to(p.value.dtype) @ p.value
        whole = self.base == "sclip"  # the others return only the attention
        x = encoded.last.finish(encoded.output(encoded.depth - 1), heads, whole, whole)
        return encoded.to_joint_space(x.float())

    def patch_labels(self, tokens: Tensor, window: Window) -> Tensor:
        """Find the most frequent query among the pixels of every patch in a first result: B x N int64.

        Args:
            tokens: B x r x c x E, from the base without feedback.
            window: provides the pixels that guide the refinement.
        """
        text = required(window.text, "the text bank")
        grid, size = tokens.shape[1:3], window.pixels.shape[2:]
        logits = F.normalize(tokens.float(), dim=-1) @ text.T
        maps = F.interpolate(logits.permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=False)
        patch = size[0] // grid[0]
        dilations = (patch // 2, patch)  # 8 and 16, as published, for patches of 16 pixels
        refined = torch.stack(
            [pamr(m, guide.float(), 10, dilations) for m, guide in zip(maps, window.pixels, strict=True)]
        )
        scores = (refined * window.logit_scale).flatten(2).transpose(1, 2).contiguous()  # queries contiguous
        best, label = (found.unflatten(1, size) for found in scores.softmax(2).max(2))
        label = label.masked_fill(best < self.threshold, 0)
        patches = label.unflatten(2, (grid[1], -1)).unflatten(1, (grid[0], -1)).transpose(2, 3).flatten(3).flatten(1, 2)
        counts = patches.new_zeros(*patches.shape[:2], len(text)).scatter_add_(2, patches, torch.ones_like(patches))
        queries = len(text)  # count and label in one number: the smallest label wins a tie on every device
        order = torch.arange(queries - 1, -1, -1, device=counts.device)
        return (counts * queries + order).argmax(2)

    def feedback(self, labels: Tensor, grid: Grid, prefix: int) -> Tensor:
        """Rate how far patches belong together in a first result, in [0, 1].

        Returns:
            B x (P + N) x (P + N) float16, as published.
        """
        agree = (labels[:, :, None] == labels[:, None]).float()
        if self.decay:
            agree = agree * _decay(labels, grid)
        smoothed = agree @ smoothing(labels.shape[1], labels.device)
        belong = smoothed / (smoothed.sum(-1, keepdim=True) + 1e-8)
        return F.pad((belong / belong.amax((1, 2), keepdim=True)).half(), (prefix, 0, prefix, 0))

    def for_depth(self, depth: int) -> ResCLIP:
        return self if depth == PUBLISHED_BLOCKS else replace(self, layers=scaled_layers(self.layers, depth))


def _mean_map(middle: Sequence[Projections]) -> Tensor:
    """Average the ordinary maps ``softmax(s q k')``, per head."""
    scale = middle[0].query.shape[-1] ** -0.5
    total = sum((p.query * scale @ p.key.transpose(-1, -2)).float().softmax(-1) for p in middle)
    return torch.as_tensor(total) / len(middle)


def _decay(labels: Tensor, grid: Grid) -> Tensor:
    """Compute exp(-p / P) where the straight line from i to j meets a label other than i's, else 1: B x N x N.

    p is the Chebyshev distance in patches, P the largest one of the grid. Of P + 1 samples along
    the line, the first p + 1 count, as published.
    """
    distance, steps = distances(grid, labels.device)
    farthest = len(steps) - 1
    crossed = torch.zeros(len(labels), *distance.shape, dtype=torch.bool, device=labels.device)
    for number, places in enumerate(steps):
        met = labels[:, places.flatten()].view_as(crossed)
        crossed |= (met != labels[:, :, None]) & (distance >= number)
    return torch.where(crossed, torch.exp(-distance.float() / max(farthest, 1)), 1.0)


@lru_cache(maxsize=8)
def distances(grid: Grid, device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """Compute Chebyshev distances N x N, and for t = 0, 1/P, ..., 1 the patch at i + t (j - i), N x N."""
    rows, columns = grid
    y, x = (side.flatten() for side in torch.meshgrid(
        torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij"))  # fmt: skip
    down, across = y[None] - y[:, None], x[None] - x[:, None]
    farthest = max(rows, columns) - 1
    steps = []
    for t in torch.linspace(0, 1, farthest + 1, device=device):
        # in float32 and in this order, as published: it determines how halves are rounded
        at_y, at_x = (torch.round(a[:, None] * (1 - t) + a * t) for a in (y.float(), x.float()))
        steps.append((at_y * columns + at_x).long())
    return torch.maximum(down.abs(), across.abs()), steps


@lru_cache(maxsize=8)
def smoothing(places: int, device: torch.device) -> Tensor:
    """Make the matrix of Gaussian smoothing of a row of `places` values, with zeros beyond its ends; symmetric."""
    size = min(places, _SMOOTHING_PLACES)
    reach = (size if size % 2 else size - 1) // 2
    at = torch.arange(places, device=device)
    apart = (at[:, None] - at).abs()
    return torch.exp(-apart.float().square() / (2 * _STD**2)).masked_fill(apart > reach, 0)
