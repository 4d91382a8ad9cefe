"""Put the windows of an image together before anything is read: one grid of patches for the whole image.

OV-Stitcher (arXiv 2604.08110), section "stitching". The grid has one place per whole patch of the image.
A window that begins at pixel y puts its patches from row ``y // patch`` on: a window off the grid moves
by less than a patch. Places that several windows show get their mean.

Shapes: L images, or views of an image, cut alike into n windows of r x c patches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itaclip.core.regions.maps import first_pixels
from itaclip.core.windows import Axis, WindowPlan


@dataclass(frozen=True)
class Span:
    """Patches of one window along an axis that lie on the image's grid.

    Attributes:
        place: the first place on the image's grid.
        patch: the first patch of the window; those before it show padding.
        count: number of patches; those after them show padding or lie beyond the grid.
    """

    place: int
    patch: int
    count: int


def image_grid(plan: WindowPlan, patch: int) -> tuple[int, int]:
    """Count the rows and columns of the whole patches of an image; at least one."""
    return max(1, plan.rows.size // patch), max(1, plan.columns.size // patch)


@lru_cache(maxsize=128)
def spans(axis: Axis, patch: int) -> tuple[Span, ...]:
    """Find where the patches of every window lie. Patches that show nothing but padding are dropped."""
    places = max(1, axis.size // patch)
    first = axis.before // patch
    shown = -(-(axis.before + axis.window) // patch) - first
    found = []
    for start in axis.starts:
        place = min(start // patch, places - 1)
        found.append(Span(place, first, min(shown, places - place)))
    return tuple(found)


@lru_cache(maxsize=64)
def window_shares(plan: WindowPlan, patch: int, device: torch.device) -> Tensor:
    """Return one over the number of windows that show each place: rows x columns."""
    sides = []
    for axis, places in zip((plan.rows, plan.columns), image_grid(plan, patch), strict=True):
        count = torch.zeros(places)
        for span in spans(axis, patch):
            count[span.place : span.place + span.count] += 1
        sides.append(count)
    return (1 / torch.outer(*sides)).to(device, non_blocking=True)


class Canvas:
    """Maps of an image that are filled window by window, in any order and number at a time.

    Memory is bounded by the image. Windows are added one after the other, so the result does not depend
    on how many come together. A window that was added counts once: a pass that ran out of memory can
    be repeated.

    Args:
        plan: the windows.
        patch: side of a patch in pixels.
    """

    def __init__(self, plan: WindowPlan, patch: int) -> None:
        self._plan, self._patch = plan, patch
        self._sum: Tensor | None = None
        self._added: set[int] = set()

    def add(self, maps: Tensor, first: int) -> None:
        """Add consecutive windows, L x n x r x c x ... in any dtype, the first of them number `first`."""
        if self._sum is None:
            size = image_grid(self._plan, self._patch)
            self._sum = torch.zeros(len(maps), *size, *maps.shape[4:], device=maps.device)
        down, right = spans(self._plan.rows, self._patch), spans(self._plan.columns, self._patch)
        for number, window in enumerate(maps.unbind(1), first):
            if number in self._added:
                continue
            y, x = down[number // len(right)], right[number % len(right)]
            part = window[:, y.patch : y.patch + y.count, x.patch : x.patch + x.count]
            self._sum[:, y.place : y.place + y.count, x.place : x.place + x.count] += part
            self._added.add(number)

    def mean(self) -> Tensor:
        """Compute the mean of the windows: L x rows x columns x ... float32. The canvas is used up.

        Raises:
            RuntimeError: a window is missing.
        """
        if self._sum is None or len(self._added) != self._plan.count:
            raise RuntimeError(f"{len(self._added)} of {self._plan.count} windows were added.")
        shares = window_shares(self._plan, self._patch, self._sum.device)
        found, self._sum = self._sum, None
        return found.mul_(shares.view(*shares.shape, *[1] * (found.ndim - 3)))


@lru_cache(maxsize=32)
def shown_places(plan: WindowPlan, patch: int, grid: tuple[int, int]) -> NDArray[np.int64]:
    """Find the place of another grid of the image that every patch of every window shows, by nearest neighbour.

    Args:
        plan: the windows.
        patch: side of the windows' patches in pixels; a patch is read at its first pixel.
        grid: rows and columns of the other grid, stretched over the image.

    Returns:
        n x r x c indices into the flattened grid; its size, rows * columns, for padding.
    """
    (rows, in_rows), (columns, in_columns) = (
        _nearest(axis, patch, places) for axis, places in zip((plan.rows, plan.columns), grid, strict=True)
    )
    index = rows[:, None, :, None] * grid[1] + columns[None, :, None]
    inside = in_rows[:, None, :, None] & in_columns[None, :, None]
    found = np.where(inside, index, math.prod(grid)).reshape(plan.count, *index.shape[2:])
    found.flags.writeable = False
    return found


def _nearest(axis: Axis, patch: int, places: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Place that each patch shows along an axis, and whether it lies inside the image: windows x patches."""
    pixels, within = first_pixels(axis, np.arange(axis.count), patch)
    return pixels * places // axis.size, np.broadcast_to(within, pixels.shape)
