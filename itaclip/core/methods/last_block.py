"""The ten-line methods: they change the attention of the last block, and may drop other parts of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor

from itaclip.core.clip.encoded import EncodedWindows, Needs
from itaclip.core.methods.attention import Attention, query_key
from itaclip.core.methods.method import PUBLISHED_BLOCKS, Method, Window, scaled_layers
from itaclip.errors import ItaclipError


@dataclass(frozen=True)
class LastBlock(Method):
    """Read the last block with another attention: CLIP, MaskCLIP, SCLIP, ClearCLIP, NACLIP, ITACLIP.

    Attributes:
        attention: what the attention returns.
        residual: keep ``x +`` around the attention.
        feed_forward: keep the feed-forward network and its residual.
        middle_layers: blocks, counted from 1, whose maps are averaged and fused in equal parts
            with the last block's (ITACLIP).
    """

    attention: Attention = query_key
    residual: bool = field(default=True, kw_only=True)
    feed_forward: bool = field(default=True, kw_only=True)
    middle_layers: tuple[int, ...] = field(default=(), kw_only=True)

    reads_blocks_alone: ClassVar[bool] = True

    def needs(self, depth: int) -> Needs:
        # The last block's own maps are always used, so middle layers come before it.
        beyond = [layer for layer in self.middle_layers if not 1 <= layer < depth]
        if beyond:
            raise ItaclipError(
                f"middle_layers {list(self.middle_layers)}: {beyond} are not among 1..{depth - 1} of this "
                f"{depth}-block model; set middle_layers for it."
            )
        return Needs.of(outputs=[depth - 1], projections=[*self.middle_layers, depth])

    def tokens(self, encoded: EncodedWindows, window: Window) -> Tensor:
        """Compute ``A* = A_L / 2 + mean(A_l) / 2`` (ITACLIP, eq. 5) on the last values; ``A_L`` without middle
        layers."""
        p = encoded.projections(encoded.depth)
        out = self.attention(p, p.value, encoded.grid)
        if self.middle_layers:
            middle = [self.attention(encoded.projections(layer), p.value, encoded.grid) for layer in self.middle_layers]
            out = 0.5 * out + sum(middle) * (0.5 / len(middle))
        x = encoded.last.finish(encoded.output(encoded.depth - 1), out, self.residual, self.feed_forward)
        return encoded.to_joint_space(x)

    def for_depth(self, depth: int) -> LastBlock:
        if depth == PUBLISHED_BLOCKS or not self.middle_layers:
            return self
        return replace(self, middle_layers=scaled_layers(self.middle_layers, depth))
