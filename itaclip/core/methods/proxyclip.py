"""ProxyCLIP: a second encoder determines which patches attend to each other (Lan et al., ECCV 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.core.clip.blocks import Projections
from itaclip.core.clip.towers import Grid, TowerBlock
from itaclip.core.clip.trunk import Needs, Trunk
from itaclip.core.methods.method import FeatureKind, Method, Window
from itaclip.errors import ItaclipError


@dataclass(frozen=True)
class ProxyCLIP(Method):
    """``softmax(g (S - b mean(S)))`` on CLIP's last values, with S the second encoder's cosines.

    Attributes:
        shift: b. Pairs less similar than b times the mean are masked.
        scale: g, the inverse temperature.
    """

    shift: float = 1.2
    scale: float = 3.0

    reads_features: ClassVar[FeatureKind | None] = "tokens"

    def needs(self, depth: int) -> Needs:
        return Needs.of(projections=[depth])

    def tokens(self, trunk: Trunk, window: Window) -> Tensor:
        features = required(window.features, "features of a second encoder")
        similarity = cosines(features)
        weights = self.scale * (similarity - self.shift * similarity.mean((1, 2), keepdim=True))
        attention = masked_softmax(weights, weights >= 0)
        out = attended(trunk.last, attention, trunk.projections(trunk.depth), trunk.grid, features.shape[2:])
        return trunk.joint(trunk.norm(out)).unflatten(1, features.shape[2:])


def required(value: Tensor | None, what: str) -> Tensor:
    """Return the value, or raise if it is missing.

    Raises:
        ItaclipError: the value is None.
    """
    if value is None:
        raise ItaclipError(f"the method requires {what}; none were given.")
    return value


def cosines(features: Tensor) -> Tensor:
    """Compute the cosine of every pair of positions: B x C x H x W, unit over C, to B x HW x HW."""
    flat = features.flatten(2)
    return flat.transpose(1, 2) @ flat


def masked_softmax(weights: Tensor, allowed: Tensor) -> Tensor:
    """Apply the softmax to rows where `allowed`. Every position attends to itself, so that no row is empty."""
    itself = torch.eye(weights.shape[-1], dtype=torch.bool, device=weights.device)
    return weights.masked_fill(~(allowed | itself), -torch.inf).softmax(-1)


def attended(block: TowerBlock, attention: Tensor, p: Projections, grid: Grid, target: tuple[int, ...]) -> Tensor:
    """Apply one map for all heads to the patches' values, resized to its grid, then the output projection.

    Args:
        block: the block whose output projection is applied.
        attention: B x HW x HW, rows that sum to 1.
        p: projections of all tokens of the block, the patches last.
        grid: r x c, of the patches.
        target: H x W.

    Returns:
        B x HW x D float32.
    """
    patches = p.value[:, :, p.value.shape[2] - grid[0] * grid[1] :]
    values = patches.transpose(2, 3).flatten(1, 2).unflatten(2, grid)  # B x D x r x c, heads side by side
    values = F.interpolate(values.float(), size=tuple(target), mode="bilinear", align_corners=False)
    mixed = attention @ values.flatten(2).transpose(1, 2)
    return block.output(mixed.to(p.value.dtype)).float()
