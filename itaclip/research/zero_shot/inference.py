"""Inference: from grid logits to class probabilities of whole images."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.core.windows import WindowPlan, cut_windows
from itaclip.research.zero_shot.settings import WindowSettings


def window_scores(grid_logits: Tensor, image_size: int, size: tuple[int, int]) -> Tensor:
    """Compute the class probabilities of windows.

    Args:
        grid_logits: B x K x h x w.
        image_size: side to which masks are resized before the sigmoid, for any window size.
        size: height and width of the windows in pixels.

    Returns:
        B x K x height x width in [0, 1], float32.
    """
    square = (image_size, image_size)
    scores = F.interpolate(grid_logits.float(), size=square, mode="bilinear", align_corners=False).sigmoid_()
    return scores if size == square else F.interpolate(scores, size=size, mode="bilinear", align_corners=False)


def seen_shift(classes: int, seen: tuple[int, ...], shift: float) -> Tensor:
    """Return the value to subtract from the probability of each class: K float32, `shift` for seen classes, otherwise
    0."""
    shifts = torch.zeros(classes)
    shifts[list(seen)] = shift
    return shifts


@torch.no_grad()
def segment(
    image: Tensor,
    size: tuple[int, int],
    logits_of: Callable[[Tensor], Tensor],
    image_size: int,
    patch_size: int,
    settings: WindowSettings,
    shifts: Tensor,
) -> Tensor:
    """Compute class scores of a whole image with sliding windows, averaged where they overlap.

    Args:
        image: 3 x H x W, normalised RGB.
        size: height and width of the result in pixels.
        logits_of: maps windows n x 3 x S x S to grid logits n x K x h x w.
        image_size: side S of the windows in pixels.
        patch_size: side of a patch in pixels.
        settings: stride and number of windows per pass.
        shifts: K values to subtract from the averaged probabilities, which equals subtracting
            them in every window.

    Returns:
        K x height x width float32 scores; they may be slightly negative because of `shifts`.
    """
    plan = WindowPlan.of((image.shape[1], image.shape[2]), image_size, settings.stride, patch_size)
    total = image.new_zeros(len(shifts), *image.shape[1:])
    visits = image.new_zeros(image.shape[1:])
    extent = (plan.rows.window, plan.columns.window)
    for first in range(0, plan.count, settings.per_batch):
        last = min(first + settings.per_batch, plan.count)
        scores = window_scores(logits_of(cut_windows(image, plan, first, last)), image_size, extent)
        for n, window in zip(range(first, last), scores, strict=True):
            row, column = divmod(n, len(plan.columns.starts))
            top, left = plan.rows.starts[row], plan.columns.starts[column]
            total[:, top : top + extent[0], left : left + extent[1]] += window
            visits[top : top + extent[0], left : left + extent[1]] += 1
    mean = total.div_(visits)
    if size != mean.shape[1:]:
        mean = F.interpolate(mean[None], size=size, mode="bilinear", align_corners=False)[0]
    return mean.sub_(shifts.to(mean.device)[:, None, None])
