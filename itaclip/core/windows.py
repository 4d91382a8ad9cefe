"""Cut sliding windows, and stitch their maps with two small matrices.

ITACLIP, section 5. Windows form a product grid of rows and columns, and upsampling,
adding, dividing by the count and resizing are all linear and separable. Together they
equal ``R L C'``: L holds the patch logits of all windows side by side, R maps its rows
to pixel rows of the result, and C its columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.devices import float64_device

Padding: TypeAlias = Literal["end", "centre"]


@dataclass(frozen=True)
class Axis:
    """Windows along one axis of an image.

    Attributes:
        size: pixels of the (resized) image.
        window: pixels of one window, at most the image size.
        stride: pixels from one window to the next; the last one ends at the border.
        padded: the window rounded up to whole patches.
        before: pixels of padding before the window; the rest follows it.
        patches: patches along a window.
    """

    size: int
    window: int
    stride: int
    padded: int
    before: int
    patches: int

    @property
    def count(self) -> int:
        """Number of windows."""
        return -(-(self.size - self.window) // self.stride) + 1

    @property
    def starts(self) -> tuple[int, ...]:
        """First pixel of every window."""
        return tuple(min(i * self.stride, self.size - self.window) for i in range(self.count))


def plan_axis(
    size: int, crop: int, stride: int, patch: int, padding: Padding = "end", multiple: int | None = None
) -> Axis:
    """Lay windows of `crop` pixels over `size` pixels; 0 makes a single window.

    A window that is not a whole number of patches is padded at its end, or half on each side
    ("centre", as ClearCLIP does; the smaller half comes first). `multiple` replaces the patch size
    in rounding up, for a second encoder with another patch size.
    """
    window = min(size, crop) if crop else size
    multiple = multiple or patch
    padded = -(-window // multiple) * multiple
    before = (padded - window) // 2 if padding == "centre" else 0
    return Axis(size, window, stride, padded, before, padded // patch)


@dataclass(frozen=True)
class WindowPlan:
    """The windows of one image, row by row."""

    rows: Axis
    columns: Axis

    @classmethod
    def of(
        cls, size: tuple[int, int], crop: int, stride: int, patch: int, padding: Padding = "end",
        multiple: int | None = None,
    ) -> WindowPlan:  # fmt: skip
        """Plan the windows of an image of (height, width) pixels, see `plan_axis`."""
        return cls(*(plan_axis(side, crop, stride, patch, padding, multiple) for side in size))

    def grid_of(self, patch: int) -> tuple[int, int]:
        """Count the rows and columns of another encoder's patches in a window."""
        return self.padded[0] // patch, self.padded[1] // patch

    @property
    def count(self) -> int:
        """Number of windows."""
        return self.rows.count * self.columns.count

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width in pixels of an encoded window, padding included."""
        return self.rows.padded, self.columns.padded

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches in a window."""
        return self.rows.patches, self.columns.patches


def cut_windows(image: Tensor, plan: WindowPlan, first: int, last: int) -> Tensor:
    """Cut windows `first` to `last` (exclusive) from an image, without a loop.

    Args:
        image: 3 x H x W, normalised. Windows that are not whole patches are padded as
            planned with zeros, the mean colour.

    Returns:
        n x 3 x padded height x padded width.
    """
    index = torch.arange(first, last, device=image.device)
    across = plan.columns.count
    rows = _pixels(plan.rows, index // across)
    columns = _pixels(plan.columns, index % across)
    windows = image[:, rows[:, :, None], columns[:, None, :]].transpose(0, 1)
    margins = [
        side for axis in (plan.columns, plan.rows) for side in (axis.before, axis.padded - axis.window - axis.before)
    ]
    return F.pad(windows, margins) if any(margins) else windows


def _pixels(axis: Axis, windows: Tensor) -> Tensor:
    """Get the pixel positions of windows, given their indices: n x window."""
    return window_starts(axis, windows)[:, None] + torch.arange(axis.window, device=windows.device)


def window_starts(axis: Axis, windows: Tensor) -> Tensor:
    """Compute the first pixels of windows, given their indices, where these are: a copy from the host would wait."""
    return (windows * axis.stride).clamp(max=axis.size - axis.window)


def stitch(logits: Tensor, plan: WindowPlan, size: tuple[int, int]) -> Tensor:
    """Average the upsampled logits of all windows, and resample them to the original image size.

    Args:
        logits: count x r x c x Q, the windows of `plan` in order, on any grid.
        size: height and width of the result in pixels.

    Returns:
        Q x height x width in the dtype of `logits`.
    """
    rows, columns = (replace(a, patches=n) for a, n in zip((plan.rows, plan.columns), logits.shape[1:3], strict=True))
    down, across = rows.count, columns.count
    tiled = logits.view(down, across, rows.patches, columns.patches, -1).permute(4, 0, 2, 1, 3)
    tiled = tiled.reshape(-1, down * rows.patches, across * columns.patches)
    left, right = (
        stitching_matrix(axis, side, logits.device, logits.dtype)
        for axis, side in ((rows, size[0]), (columns, size[1]))
    )
    return left @ (tiled @ right.T)


@lru_cache(maxsize=16)
def stitching_matrix(axis: Axis, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Build the matrix from window patches along an axis to `size` pixels: size x (windows * patches).

    It upsamples each window bilinearly, averages where windows overlap, and resamples the
    whole bilinearly; padding is dropped. Rows sum to 1. It is computed in float64, on the GPU if
    possible: a copy from the host would wait for all pending GPU work.
    """
    place = float64_device(device)
    windows = torch.arange(axis.count, device=place)
    upsample = resampling_matrix(axis.patches, axis.padded, place)[axis.before : axis.before + axis.window]
    canvas = torch.zeros(axis.size, axis.count, axis.patches, dtype=torch.float64, device=place)
    canvas[_pixels(axis, windows), windows[:, None]] = upsample.expand(axis.count, -1, -1)
    mean = canvas / canvas.sum((1, 2), keepdim=True)  # a window's weights sum to 1, so this counts the windows
    return (resampling_matrix(axis.size, size, place) @ mean.flatten(1)).to(dtype).to(device)


def merge_patches(maps: Tensor, plan: WindowPlan, grid: tuple[int, int], patch: int) -> Tensor:
    """Merge the patches of all windows into one grid of the whole image, averaging where windows overlap.

    Args:
        maps: count x r x c x D, the windows of `plan` in order, from an encoder with patches of
            `patch` pixels.
        plan: the windows.
        grid: rows and columns of the result; its patches start at the image's first pixel.
        patch: side of a patch in pixels.

    Returns:
        rows x columns x D. Window patches that lie on the grid are copied; others are
        interpolated bilinearly.
    """
    rows, columns = (replace(a, patches=n) for a, n in zip((plan.rows, plan.columns), maps.shape[1:3], strict=True))
    left, right = (
        merging_matrix(axis, n, patch, maps.device, maps.dtype) for axis, n in zip((rows, columns), grid, strict=True)
    )
    tiled = maps.view(rows.count, columns.count, rows.patches, columns.patches, -1).permute(4, 0, 2, 1, 3)
    tiled = tiled.reshape(-1, rows.count * rows.patches, columns.count * columns.patches)
    return (left @ tiled @ right.T).permute(1, 2, 0)


@lru_cache(maxsize=16)
def merging_matrix(axis: Axis, count: int, patch: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Build the matrix from window patches along an axis to `count` image patches: count x (windows * patches)."""
    place = float64_device(device)
    centres = ((torch.arange(count, device=place).double() + 0.5) * patch).clamp(max=axis.size - 0.5)
    starts = window_starts(axis, torch.arange(axis.count, device=place)).double()
    inside = centres[:, None] - starts  # pixels from the window's first pixel
    seen = (inside > 0) & (inside < axis.window)
    at = ((inside + axis.before) / patch - 0.5).clamp(0, axis.patches - 1)[..., None]
    patches = torch.arange(axis.patches, device=place).double()
    weights = (1 - (at - patches).abs()).clamp(min=0) * seen[..., None]
    return (weights / weights.sum((1, 2), keepdim=True)).flatten(1).to(dtype).to(device)


def place_patches(grid: Tensor, plan: WindowPlan, patch: int) -> Tensor:
    """Read a grid of the whole image at the patches of every window; the reverse of `merge_patches`.

    Args:
        grid: rows x columns x D, from the image's first pixel on.
        plan: the windows.
        patch: side of a patch in pixels.

    Returns:
        count x r x c x D, interpolated bilinearly.
    """
    rows, columns = (replace(axis, patches=axis.padded // patch) for axis in (plan.rows, plan.columns))
    left, right = (
        placing_matrix(axis, n, patch, grid.device, grid.dtype)
        for axis, n in zip((rows, columns), grid.shape[:2], strict=True)
    )
    tiled = left @ grid.permute(2, 0, 1) @ right.T
    parts = tiled.view(-1, rows.count, rows.patches, columns.count, columns.patches)
    return parts.permute(1, 3, 2, 4, 0).flatten(0, 1)


@lru_cache(maxsize=16)
def placing_matrix(axis: Axis, count: int, patch: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Build the matrix from `count` image patches to window patches along an axis: (windows * patches) x count."""
    place = float64_device(device)
    starts = window_starts(axis, torch.arange(axis.count, device=place)).double()
    centres = starts[:, None] - axis.before + (torch.arange(axis.patches, device=place).double() + 0.5) * patch
    at = (centres / patch - 0.5).clamp(0, count - 1).flatten()[:, None]
    weights = (1 - (at - torch.arange(count, device=place).double()).abs()).clamp(min=0)
    return weights.to(dtype).to(device)


def resampling_matrix(source: int, target: int, device: torch.device) -> Tensor:
    """Build the target x source matrix of bilinear resampling along one axis (half-pixel centres)."""
    identity = torch.eye(source, dtype=torch.float64, device=device)
    return F.interpolate(identity[None], size=target, mode="linear", align_corners=False)[0].T
