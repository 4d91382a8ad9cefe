"""CLIP's image tower up to where methods begin: the ordinary blocks, run once for all of them.

Shapes: B windows, N patches on a grid of r x c, D width, E joint space, h heads of d channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from itaclip.clip.blocks import Block, Projections, feed_forward, merge_heads, project, run_block

Grid = tuple[int, int]

# CLIP's channel statistics of 0..255 RGB values, as every published configuration rounds them.
MEAN = (122.771, 116.746, 104.094)
STD = (68.501, 66.632, 70.323)


@dataclass(frozen=True)
class Needs:
    """Which blocks a method reads, counted from 1, so that nothing else is kept.

    Attributes:
        outputs: blocks whose outputs are read; 0 is the embedding.
        projections: blocks whose queries, keys and values are read.
    """

    outputs: frozenset[int] = frozenset()
    projections: frozenset[int] = frozenset()

    @classmethod
    def of(cls, outputs: Iterable[int] = (), projections: Iterable[int] = ()) -> Needs:
        """From any collections of block numbers."""
        return cls(frozenset(outputs), frozenset(projections))

    def __or__(self, other: Needs) -> Needs:
        return Needs(self.outputs | other.outputs, self.projections | other.projections)


class Trunk:
    """What the ordinary blocks made of a batch of windows.

    Attributes:
        blocks: the tower's blocks; ``block(l)`` counts from 1.
        grid: rows and columns of patches.
    """

    def __init__(self, visual: Any, grid: Grid, outputs: dict[int, Tensor], projections: dict[int, Projections]):
        self.grid = grid
        self.blocks: Sequence[Block] = visual.transformer.resblocks
        self._visual = visual
        self._outputs, self._projections = outputs, projections

    @classmethod
    def run(cls, visual: Any, x: Tensor, grid: Grid, needs: Needs) -> Trunk:
        """Take embedded tokens, B x (1 + N) x D with the class token first, as far as anyone reads them."""
        blocks: Sequence[Block] = visual.transformer.resblocks
        outputs, projections = ({0: x} if 0 in needs.outputs else {}), {}
        last_output, last_projection = max(needs.outputs, default=0), max(needs.projections, default=0)
        for number, block in enumerate(blocks, 1):
            if number > max(last_output, last_projection):
                break
            p = project(block, x)
            if number in needs.projections:
                projections[number] = p
            if number <= last_output or number < last_projection:
                x = run_block(block, x, p)
            if number in needs.outputs:
                outputs[number] = x
        return cls(visual, grid, outputs, projections)

    @property
    def depth(self) -> int:
        """Number of blocks, L."""
        return len(self.blocks)

    def block(self, number: int) -> Block:
        """A block, counted from 1."""
        return self.blocks[number - 1]

    @property
    def last(self) -> Block:
        """Block L."""
        return self.blocks[-1]

    def output(self, number: int) -> Tensor:
        """The ordinary output ``y_l`` of a block that the method said it needs: B x (1 + N) x D."""
        return self._outputs[number]

    def projections(self, number: int) -> Projections:
        """Queries, keys and values of a block that the method said it needs."""
        return self._projections[number]

    def norm(self, x: Tensor) -> Tensor:
        """The tower's last norm, ``ln_post``."""
        normed: Tensor = self._visual.ln_post(x)
        return normed

    def joint(self, normed: Tensor) -> Tensor:
        """Into the joint space of images and texts: ... x D to ... x E."""
        return normed @ self._visual.proj

    def on_grid(self, tokens: Tensor) -> Tensor:
        """Patches B x N x C, without the class token, as B x r x c x C."""
        return tokens.unflatten(1, self.grid)

    def read_out(self, x: Tensor) -> Tensor:
        """The usual ending: norm and projection of all tokens, of which the patches are returned.

        Args:
            x: B x (1 + N) x D.

        Returns:
            B x r x c x E.
        """
        return self.on_grid(self.joint(self.norm(x))[:, 1:])


def finish_block(block: Block, x: Tensor, heads: Tensor, residual: bool, with_feed_forward: bool) -> Tensor:
    """What follows the attention in a block: output projection, residual, feed-forward network.

    Args:
        block: whose weights are used.
        x: B x N x D, the block's input.
        heads: B x h x N x d, what its attention returned.
        residual: add the input.
        with_feed_forward: run the feed-forward network, with its residual.
    """
    update = merge_heads(block, heads).to(x.dtype)
    x = x + update if residual else update
    return x + feed_forward(block, x) if with_feed_forward else x
