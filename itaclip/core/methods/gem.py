"""GEM: self-self attention in a separate stream, beside the last blocks (Bousselham et al., CVPR 2024)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from itaclip.core.clip.encoded import EncodedWindows, Needs
from itaclip.core.clip.towers import Positions
from itaclip.core.methods.attention import Attention, generalised
from itaclip.core.methods.method import Method, Window
from itaclip.errors import ItaclipError


@dataclass(frozen=True)
class GEM(Method):
    """A stream that branches off before the last `depth` blocks; each adds its self-self attention.

    Attributes:
        attention: what the attention of these blocks returns.
        depth: how many of the last blocks are read.
        residual: keep ``x +`` around the attention.
        feed_forward: keep the feed-forward network and its residual.
    """

    positions: Positions = "antialias"
    attention: Attention = generalised
    depth: int = field(default=6, kw_only=True)
    residual: bool = field(default=True, kw_only=True)
    feed_forward: bool = field(default=False, kw_only=True)

    reads_blocks_alone: ClassVar[bool] = True

    def needs(self, depth: int) -> Needs:
        if self.depth > depth:
            raise ItaclipError(f"the method changes the last {self.depth} blocks; this model has {depth}.")
        return Needs.of(outputs=[depth - self.depth], projections=range(depth - self.depth + 1, depth + 1))

    def tokens(self, encoded: EncodedWindows, window: Window) -> Tensor:
        first = encoded.depth - self.depth
        x = encoded.output(first)
        for number in range(first + 1, encoded.depth + 1):
            p = encoded.projections(number)
            heads = self.attention(p, p.value, encoded.grid)
            x = encoded.block(number).finish(x, heads, self.residual, self.feed_forward)
        return encoded.to_joint_space(x)
