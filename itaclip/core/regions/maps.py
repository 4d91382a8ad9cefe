"""Region maps in windows: integers that must not be blended, kept on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from itaclip.core.windows import Axis, WindowPlan

Ids = NDArray[np.integer]

_Map = TypeVar("_Map", bound=NDArray[Any])


def resize_map(ids: _Map, size: Sequence[int]) -> _Map:
    """Resize an H x W array, such as ids, to another height and width, by nearest neighbour.

    In whole numbers: OpenCV's `INTER_NEAREST` rounds its scale, and takes another pixel for one size in twenty.
    """
    if ids.shape == tuple(size):
        return ids
    rows, columns = (np.arange(want) * have // want for want, have in zip(size, ids.shape, strict=True))
    return ids[rows[:, None], columns]


def window_regions(ids: Ids, plan: WindowPlan, first: int, last: int, patch: int) -> Ids:
    """Sample the region ids at the positions of a second encoder's patches in some windows.

    Args:
        ids: H x W, for the whole image, at the size that `plan` was made for.
        plan: the windows.
        first: first window.
        last: last window (exclusive).
        patch: pixels between neighbouring positions.

    Returns:
        n x rows x columns. The padding is a region of its own, with the largest value.
    """
    numbers = np.arange(first, last)
    rows, in_rows = first_pixels(plan.rows, numbers // plan.columns.count, patch)
    columns, in_columns = first_pixels(plan.columns, numbers % plan.columns.count, patch)
    found = ids[rows[:, :, None], columns[:, None]]
    return np.where(in_rows[:, None] & in_columns[None], found, ids.max() + 1)


def first_pixels(axis: Axis, windows: NDArray[np.int64], patch: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Get the first pixel of every patch of the windows, n x patches, and whether it lies inside the image."""
    inside = np.arange(0, axis.padded, patch) - axis.before
    starts = np.minimum(windows * axis.stride, axis.size - axis.window)
    return starts[:, None] + inside.clip(0, axis.window - 1), (inside >= 0) & (inside < axis.window)


def dense_ranks(ids: Ids) -> tuple[NDArray[np.int64], int]:
    """Renumber the ids of every window from 0, keeping their order, without gaps.

    Args:
        ids: n x rows x columns.

    Returns:
        n x rows x columns, and the largest number of different ids in one window.
    """
    flat = ids.reshape(len(ids), -1)
    places = flat.argsort(axis=1, kind="stable")
    steps = np.diff(np.take_along_axis(flat, places, axis=1), axis=1) > 0
    ranks = np.pad(steps.cumsum(axis=1), ((0, 0), (1, 0)))
    dense = np.empty_like(ranks)
    np.put_along_axis(dense, places, ranks, axis=1)
    return dense.reshape(ids.shape), int(ranks.max()) + 1
