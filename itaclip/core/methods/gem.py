"""GEM: self-self attention in a separate stream, beside the last blocks (Bousselham et al., CVPR 2024)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from itaclip.core.clip.towers import Positions
from itaclip.core.clip.trunk import Needs, Trunk
from itaclip.core.methods.attention import Recipe, generalised
from itaclip.core.methods.method import Method, Window
from itaclip.errors import ItaclipError


@dataclass(frozen=True)
class GEM(Method):
    """A stream that branches off before the last `depth` blocks; each adds its self-self attention.

    Attributes:
        recipe: what the attention of these blocks returns.
        depth: how many of the last blocks are read.
        residual: keep ``x +`` around the attention.
        feed_forward: keep the feed-forward network and its residual.
    """

    positions: Positions = "antialias"
    recipe: Recipe = generalised
    depth: int = field(default=6, kw_only=True)
    residual: bool = field(default=True, kw_only=True)
    feed_forward: bool = field(default=False, kw_only=True)

    reads_trunk_alone: ClassVar[bool] = True

    def needs(self, depth: int) -> Needs:
        if self.depth > depth:
            raise ItaclipError(f"the method changes the last {self.depth} blocks; this model has {depth}.")
        return Needs.of(outputs=[depth - self.depth], projections=range(depth - self.depth + 1, depth + 1))

    def tokens(self, trunk: Trunk, window: Window) -> Tensor:
        first = trunk.depth - self.depth
        x = trunk.output(first)
        for number in range(first + 1, trunk.depth + 1):
            p = trunk.projections(number)
            heads = self.recipe(p, p.value, trunk.grid)
            x = trunk.block(number).finish(x, heads, self.residual, self.feed_forward)
        return trunk.read_out(x)
