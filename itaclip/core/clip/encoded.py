"""CLIP's image tower up to where methods begin: the ordinary blocks, run once for all methods.

Shapes: B windows, P tokens before N patches on a grid of r x c, D width, E joint space, h heads
of d channels.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from itaclip.core.clip.blocks import Projections
from itaclip.core.clip.towers import Grid, PatchProjection, Tower, TowerBlock


@dataclass(frozen=True)
class Needs:
    """Blocks that a method reads, counted from 1; nothing else is kept.

    Attributes:
        outputs: blocks whose outputs are read; 0 is the embedding.
        projections: blocks whose queries, keys and values are read.
    """

    outputs: frozenset[int] = frozenset()
    projections: frozenset[int] = frozenset()

    @classmethod
    def of(cls, outputs: Iterable[int] = (), projections: Iterable[int] = ()) -> Needs:
        """Build from any collections of block numbers."""
        return cls(frozenset(outputs), frozenset(projections))

    def __or__(self, other: Needs) -> Needs:
        return Needs(self.outputs | other.outputs, self.projections | other.projections)


@dataclass(frozen=True)
class Step:
    """One ordinary block at work.

    Attributes:
        number: the block's number, counted from 1.
        block: the block.
        input: B x (P + N) x D, the output of the block before; empty if an engine did not return it.
        projections: the block's queries, keys and values.
    """

    number: int
    block: TowerBlock
    input: Tensor
    projections: Projections


def steps(tower: Tower, x: Tensor, grid: Grid, last: int) -> Iterator[Step]:
    """Run embedded tokens, B x (P + N) x D, through the blocks one by one, keeping nothing.

    Args:
        tower: the image tower.
        x: the tokens.
        grid: rows and columns of patches.
        last: the last block that is read; its own output is not computed.
    """
    for number, block in enumerate(tower.blocks(grid)[:last], 1):
        p = block.project(x)
        yield Step(number, block, x, p)
        if number < last:
            x = block.run(x, p)


class EncodedWindows:
    """Outputs of the ordinary blocks for a batch of windows.

    Attributes:
        blocks: the tower's blocks; ``block(l)`` counts from 1.
        grid: rows and columns of patches.
        prefix: number of tokens before the patches, P; 0 if the tower has no class token.
    """

    def __init__(
        self,
        tower: Tower,
        grid: Grid,
        outputs: dict[int, Tensor],
        projections: dict[int, Projections],
        prefix: int | None = None,
    ) -> None:
        self.grid = grid
        self.prefix = tower.prefix if prefix is None else prefix
        self.blocks = tower.blocks(grid)
        self._tower = tower
        self._outputs, self._projections = outputs, projections
        self._projection: PatchProjection = "values"

    @classmethod
    def run(cls, tower: Tower, x: Tensor, grid: Grid, needs: Needs) -> EncodedWindows:
        """Run embedded tokens, B x (P + N) x D, through the blocks up to the last one that is read."""
        outputs, projections = ({0: x} if 0 in needs.outputs else {}), {}
        last_output, last_projection = max(needs.outputs, default=0), max(needs.projections, default=0)
        for number, block in enumerate(tower.blocks(grid), 1):
            if number > max(last_output, last_projection):
                break
            p = block.project(x)
            if number in needs.projections:
                projections[number] = p
            if number <= last_output or number < last_projection:
                x = block.run(x, p)
            if number in needs.outputs:
                outputs[number] = x
        return cls(tower, grid, outputs, projections)

    def steps(self) -> Iterator[Step]:
        """Go through the blocks again, if the projections of all of them were kept."""
        for number in sorted(self._projections):
            p = self._projections[number]
            yield Step(number, self.block(number), self._outputs.get(number - 1, p.value.new_empty(0)), p)

    def projected_as(self, projection: PatchProjection) -> EncodedWindows:
        """Copy the encoded windows with another way of mapping a pooling head's patches into the joint space."""
        if projection == self._projection:
            return self
        other = copy.copy(self)
        other._projection = projection
        return other

    @property
    def depth(self) -> int:
        """Number of blocks, L."""
        return len(self.blocks)

    def block(self, number: int) -> TowerBlock:
        """Get a block by its number, counted from 1."""
        return self.blocks[number - 1]

    @property
    def last(self) -> TowerBlock:
        """Block L."""
        return self.blocks[-1]

    @property
    def vision_head(self) -> Any:
        """Blocks and norm after the backbone (dino.txt); None in other towers."""
        return self._tower.vision_head

    def output(self, number: int) -> Tensor:
        """Get the ordinary output ``y_l`` of a block listed in the method's needs: B x (P + N) x D."""
        return self._outputs[number]

    def projections(self, number: int) -> Projections:
        """Get the queries, keys and values of a block listed in the method's needs."""
        return self._projections[number]

    def patches(self, tokens: Tensor) -> Tensor:
        """Drop the tokens before the patches: B x (P + N) x C to B x N x C."""
        return tokens[:, self.prefix :]

    def summary(self, tokens: Tensor) -> Tensor:
        """Get one token for the whole window, B x 1 x C: the class token, else the mean of the patches."""
        return tokens[:, :1] if self.prefix else tokens.mean(1, keepdim=True)

    def norm(self, x: Tensor) -> Tensor:
        """Apply the tower's last norm, ``ln_post``."""
        return self._tower.norm(x)

    def joint(self, normed: Tensor) -> Tensor:
        """Map into the joint space of images and texts: ... x D to ... x E."""
        return self._tower.joint(normed, self._projection)

    def on_grid(self, patches: Tensor) -> Tensor:
        """Reshape patches from B x N x C to B x r x c x C."""
        return patches.unflatten(1, self.grid)

    def to_joint_space(self, x: Tensor) -> Tensor:
        """Apply the usual last steps, norm and projection, to all tokens and return the patches.

        Args:
            x: B x (P + N) x D.

        Returns:
            B x r x c x E.
        """
        return self.on_grid(self.patches(self.joint(self.norm(x))))
