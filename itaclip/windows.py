"""Sliding windows, and stitching their maps with two small matrices.

ITACLIP, section 5. Windows form a product grid of rows and columns, and upsampling,
adding, dividing by the count and resizing are all linear and separable. So the whole
of it equals ``R L C'``: L holds the patch logits of all windows side by side, R turns
its rows into pixel rows of the result, C its columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Padding: TypeAlias = Literal["end", "centre"]


@dataclass(frozen=True)
class Axis:
    """Windows along one axis of an image.

    Attributes:
        size: pixels of the (resized) image.
        window: pixels of one window, never more than the image has.
        padded: the window rounded up to whole patches.
        before: pixels of padding in front of the window; the rest lies behind it.
        patches: patches along a window.
        starts: first pixel of every window; the last one ends at the border.
    """

    size: int
    window: int
    padded: int
    before: int
    patches: int
    starts: tuple[int, ...]


def plan_axis(size: int, crop: int, stride: int, patch: int, padding: Padding = "end") -> Axis:
    """Lay windows of `crop` pixels over `size` pixels; 0 makes one window of it all.

    A window that is no whole number of patches is padded at its end, or in halves around it
    ("centre", as ClearCLIP does; the smaller half comes first).
    """
    window = min(size, crop) if crop else size
    count = max(size - window + stride - 1, 0) // stride + 1
    starts = tuple(min(i * stride, size - window) for i in range(count))
    patches = -(-window // patch)
    before = (patches * patch - window) // 2 if padding == "centre" else 0
    return Axis(size, window, patches * patch, before, patches, starts)


@dataclass(frozen=True)
class WindowPlan:
    """The windows of one image, row by row."""

    rows: Axis
    columns: Axis

    @classmethod
    def of(cls, size: tuple[int, int], crop: int, stride: int, patch: int, padding: Padding = "end") -> WindowPlan:
        """Plan the windows of an image of (height, width) pixels."""
        return cls(*(plan_axis(side, crop, stride, patch, padding) for side in size))

    @property
    def count(self) -> int:
        """Number of windows."""
        return len(self.rows.starts) * len(self.columns.starts)

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width in pixels of what is encoded for every window."""
        return self.rows.padded, self.columns.padded

    @property
    def grid(self) -> tuple[int, int]:
        """Patches of a window, rows and columns."""
        return self.rows.patches, self.columns.patches


def cut_windows(image: Tensor, plan: WindowPlan, first: int, last: int) -> Tensor:
    """Windows `first` to `last` (excluded) of an image, without a loop.

    Args:
        image: 3 x H x W, normalised. Windows that are no whole patches are padded where
            the plan says, with zeros, which is the mean colour.

    Returns:
        n x 3 x padded height x padded width.
    """
    index = torch.arange(first, last)
    across = len(plan.columns.starts)
    top = torch.tensor(plan.rows.starts)[index // across]
    left = torch.tensor(plan.columns.starts)[index % across]
    rows = (top[:, None] + torch.arange(plan.rows.window)).to(image.device)
    columns = (left[:, None] + torch.arange(plan.columns.window)).to(image.device)
    windows = image[:, rows[:, :, None], columns[:, None, :]].transpose(0, 1)
    margins = [
        side for axis in (plan.columns, plan.rows) for side in (axis.before, axis.padded - axis.window - axis.before)
    ]
    return F.pad(windows, margins) if any(margins) else windows


def stitch(logits: Tensor, plan: WindowPlan, size: tuple[int, int]) -> Tensor:
    """Mean of all windows' upsampled logits, resampled to the original image size.

    Args:
        logits: count x r x c x Q, the windows of `plan` in order.
        size: height and width of the result in pixels.

    Returns:
        Q x height x width in the dtype of `logits`.
    """
    rows, columns = plan.rows, plan.columns
    down, across = len(rows.starts), len(columns.starts)
    tiled = logits.view(down, across, rows.patches, columns.patches, -1).permute(4, 0, 2, 1, 3)
    tiled = tiled.reshape(-1, down * rows.patches, across * columns.patches)
    left, right = (
        stitching_matrix(axis, side).to(logits.device, logits.dtype)
        for axis, side in ((rows, size[0]), (columns, size[1]))
    )
    return left @ (tiled @ right.T)


@lru_cache(maxsize=64)
def stitching_matrix(axis: Axis, size: int) -> Tensor:
    """Patch values of all windows along an axis to `size` pixels: size x (windows * patches).

    Bilinear upsampling of each window, mean where windows overlap, bilinear resampling of
    the whole; padding is dropped. Rows sum to 1.
    """
    upsample = _resample(axis.patches, axis.padded)[axis.before : axis.before + axis.window]
    canvas = torch.zeros(axis.size, len(axis.starts), axis.patches, dtype=torch.float64)
    count = torch.zeros(axis.size, 1, 1, dtype=torch.float64)
    for i, start in enumerate(axis.starts):
        canvas[start : start + axis.window, i] += upsample
        count[start : start + axis.window] += 1
    return _resample(axis.size, size) @ (canvas / count).flatten(1)


def _resample(source: int, target: int) -> Tensor:
    """Bilinear resampling along one axis (half-pixel centres) as a target x source matrix."""
    identity = torch.eye(source, dtype=torch.float64)
    return F.interpolate(identity[None], size=target, mode="linear", align_corners=False)[0].T
