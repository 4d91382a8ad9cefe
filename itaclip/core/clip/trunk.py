"""CLIP's image tower up to where methods begin: the ordinary blocks, run once for all methods.

Shapes: B windows, P tokens before N patches on a grid of r x c, D width, E joint space, h heads
of d channels.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from itaclip.core.clip.blocks import Projections
from itaclip.core.clip.towers import Grid, PatchReading, Tower, TowerBlock


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


class Trunk:
    """Outputs of the ordinary blocks for a batch of windows.

    Attributes:
        blocks: the tower's blocks; ``block(l)`` counts from 1.
        grid: rows and columns of patches.
        prefix: number of tokens before the patches, P; 0 if the tower has no class token.
    """

    def __init__(self, tower: Tower, grid: Grid, outputs: dict[int, Tensor], projections: dict[int, Projections]):
        self.grid = grid
        self.prefix = tower.prefix
        self.blocks = tower.blocks(grid)
        self._tower = tower
        self._outputs, self._projections = outputs, projections
        self._reading: PatchReading = "values"

    @classmethod
    def run(cls, tower: Tower, x: Tensor, grid: Grid, needs: Needs) -> Trunk:
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

    def read_as(self, reading: PatchReading) -> Trunk:
        """Copy the trunk with another way of mapping a pooling head's patches into the joint space."""
        if reading == self._reading:
            return self
        other = copy.copy(self)
        other._reading = reading
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
        return self._tower.joint(normed, self._reading)

    def on_grid(self, patches: Tensor) -> Tensor:
        """Reshape patches from B x N x C to B x r x c x C."""
        return patches.unflatten(1, self.grid)

    def read_out(self, x: Tensor) -> Tensor:
        """Apply the usual last steps, norm and projection, to all tokens and return the patches.

        Args:
            x: B x (P + N) x D.

        Returns:
            B x r x c x E.
        """
        return self.on_grid(self.patches(self.joint(self.norm(x))))
