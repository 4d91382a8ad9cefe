"""Logits of an image at pixel size, a block of queries at a time.

Patch logits are small; what is large are maps at pixel size, Q x H x W. Where they fit into `HELD` bytes
they are computed once and kept. Otherwise every block of queries is stitched and refined when it
is read, so that memory does not grow with the classes.

Stitching and refinement are linear and treat all maps alike, so they can also go before the product
with the texts. With more queries than `itaclip.core.patch_logits.FEATURES_FROM` says, patches are kept as
features; then the maps of the features are refined once, for any number of queries.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from itaclip.core.pamr import Refinement, masks_together
from itaclip.core.windows import WindowPlan, stitch

HELD = 256 << 20
"""Bytes of the maps of all queries up to which they are kept: 218 queries at 480 x 640 pixels."""

_PRODUCTS = 256  # queries in a block of products, which are computed as they are read

_FEATURES_HELD = 1 << 30
"""Bytes of the maps of all features up to which they are kept, to save the refinement of every query."""


FEATURES_FROM = 2
"""Patches are kept as features, not logits, from so many times more queries than features on. Below that, logits
round as they always did."""


@dataclass(frozen=True, eq=False)
class PatchLogits:
    """Logits of the patches of an image.

    Attributes:
        values: n x r x c x Q logits float32, or n x r x c x E features, whose products with the texts they are.
        text: Q x E text bank, or None if `values` are the logits.
    """

    values: Tensor
    text: Tensor | None = None

    @property
    def queries(self) -> int:
        """Number of queries, Q."""
        return self.values.shape[-1] if self.text is None else len(self.text)

    def logits(self, queries: slice | Tensor = slice(None)) -> Tensor:
        """Logits of some queries: n x r x c x q."""
        return self.values[..., queries] if self.text is None else self.values @ self.text[queries].T


@dataclass(frozen=True, eq=False)
class Block:
    """Logits of some queries; ``block[pixels]`` reads them, q x pixels, at a slice or at indices.

    Attributes:
        maps: q x (H * W) logits, or E x (H * W) features.
        text: q x E, if the maps are features.
    """

    maps: Tensor
    text: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of queries, q."""
        return len(self.maps if self.text is None else self.text)

    def __getitem__(self, pixels: slice | Tensor) -> Tensor:
        """Logits at some pixels; read-only."""
        return self.maps[:, pixels] if self.text is None else self.text @ self.maps[:, pixels]


class QueryMaps:
    """Maps of the queries of an image, Q x H x W.

    Args:
        patches: logits of the windows.
        plan: the windows.
        size: height and width of the maps.
        queries_per_class: K numbers that sum to Q. The queries of a class are contiguous.
        refinement: refines the maps; None leaves them as stitched.
    """

    def __init__(
        self, patches: PatchLogits, plan: WindowPlan, size: tuple[int, int], queries_per_class: Sequence[int],
        refinement: Refinement | None = None,
    ) -> None:  # fmt: skip
        self.size, self.queries_per_class = size, tuple(queries_per_class)
        self._patches, self._plan, self._refinement = patches, plan, refinement
        self._bytes = 4 * size[0] * size[1]
        self.held = patches.queries * self._bytes <= HELD
        """Whether the maps of all queries are kept."""

    @property
    def classes(self) -> int:
        """Number of classes, K."""
        return len(self.queries_per_class)

    @property
    def pixels(self) -> int:
        """Number of pixels, H * W."""
        return self.size[0] * self.size[1]

    @property
    def device(self) -> torch.device:
        """Device of the maps."""
        return self._patches.values.device

    def blocks(self, only: Sequence[int] | None = None) -> Iterator[tuple[Sequence[int], Block]]:
        """Yield classes and the maps of their queries, block by block, in the order of the classes.

        Args:
            only: classes, ascending; None for all. Where the maps are kept, all come nevertheless, as one block.

        Yields:
            The classes of a block, and the maps of all their queries.
        """
        if self.held:
            yield range(self.classes), Block(self._all)
            return
        numbers = range(self.classes) if only is None else only
        firsts = first_queries(self.queries_per_class)
        most = masks_together(self.pixels, self.device) if self._features is None else _PRODUCTS
        block, count = list[int](), 0
        for number in numbers:
            if block and count + self.queries_per_class[number] > most:
                yield block, self._block(queries_of(block, firsts))
                block, count = [], 0
            block.append(number)
            count += self.queries_per_class[number]
        if block:
            yield block, self._block(queries_of(block, firsts))

    @cached_property
    def _all(self) -> Tensor:
        """Maps of all queries, Q x (H * W)."""
        count = self._patches.queries
        most = masks_together(self.pixels, self.device)
        if self._refinement is None or count <= most:
            return self._block(slice(None))[:]
        maps = torch.empty(count, self.pixels, device=self.device)
        for first in range(0, count, most):
            maps[first : first + most] = self._block(slice(first, first + most))[:]
        return maps

    @cached_property
    def _features(self) -> Tensor | None:
        """Maps of the features, E x (H * W), if the patches hold features and there is room."""
        width = self._patches.values.shape[-1]
        if self._patches.text is None or width * self._bytes > _FEATURES_HELD:
            return None
        maps = torch.empty(width, self.pixels, device=self.device)
        most = masks_together(self.pixels, self.device)
        for first in range(0, width, most):
            maps[first : first + most] = self._refined(self._patches.values[..., first : first + most], width)
        return maps

    def _block(self, queries: slice | Tensor) -> Block:
        """Make the maps of some queries."""
        if self._features is not None:
            assert self._patches.text is not None
            return Block(self._features, self._patches.text[queries])
        return Block(self._refined(self._patches.logits(queries), self._patches.queries))

    def _refined(self, values: Tensor, total: int) -> Tensor:
        stitched = stitch(values, self._plan, self.size)
        if self._refinement is not None:
            stitched = self._refinement(stitched, total)
        return stitched.flatten(1)


def ready_maps(maps: Tensor, queries_per_class: Sequence[int]) -> QueryMaps:
    """Take Q x H x W logits, stitched and refined already."""
    height, width = maps.shape[1:]
    plan = WindowPlan.of((height, width), 0, 1, patch=1)
    found = QueryMaps(PatchLogits(maps.movedim(0, 2)[None]), plan, (height, width), queries_per_class)
    found.held, found._all = True, maps.flatten(1)
    return found


def first_queries(queries_per_class: Sequence[int]) -> list[int]:
    """Return the number of the first query of every class, and at the end that of all queries."""
    return [0, *itertools.accumulate(queries_per_class)]


def queries_of(classes: Sequence[int], firsts: Sequence[int]) -> slice | Tensor:
    """List the queries of some classes, ascending: a slice if the classes follow each other.

    Args:
        classes: class ids.
        firsts: from `first_queries`.
    """
    if classes[-1] - classes[0] == len(classes) - 1:
        return slice(firsts[classes[0]], firsts[classes[-1] + 1])
    return torch.tensor([query for number in classes for query in range(firsts[number], firsts[number + 1])])
