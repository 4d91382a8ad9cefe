"""Adaptive inference: views spread over windows, in rounds that can end early (this project's own).

As published, all five views of every window are encoded and averaged: the exact result. Here:

1. Round 1 encodes one view of each window, and other views of its neighbours. Because windows overlap many times
   over, every pixel is seen in all views, for a fifth of the passes.
2. Views that a window lacks are estimated from its neighbours, and all are averaged.
3. Each further round encodes the pairs of window and view that tell most: near the borders of the image, where few
   windows overlap.
4. Inference ends when a round changes at most a set share of the labels (docs/record.md).

Shapes: n windows of r x c patches, V views, Q queries; instead of Q logits there may be E features.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, reduce

import numpy as np
import torch
from torch import Tensor

from itaclip.core.settings import Settings
from itaclip.core.windows import Axis, WindowPlan, merge_patches, place_patches

Pair = tuple[int, int]
"""A window and one of its views."""

_ROUNDS = 2  # a round after the first reads half as many pairs: few enough to stop in time


@lru_cache(maxsize=16)
def rounds(plan: WindowPlan, weights: tuple[float, ...]) -> list[list[Pair]]:
    """List all pairs of windows and views, round by round; the first round reads every window once.

    The mean of view v at a place that `count` windows show varies like ``weight_v^2 / count``. The
    next pair is always the one that lowers the sum of this over all views and places most.

    Args:
        plan: the windows.
        weights: weights of the views.
    """
    covered = [_covered(axis) for axis in (plan.rows, plan.columns)]
    counts = np.zeros((len(weights), covered[0].shape[1], covered[1].shape[1]))
    gains = np.zeros((len(weights), plan.count))
    seen = np.zeros_like(gains, dtype=bool)

    def read(window: int, view: int) -> None:
        row, column = divmod(window, plan.columns.count)
        counts[view] += np.outer(covered[0][row], covered[1][column])
        seen[view, window] = True

    def weigh(view: int) -> None:
        # 1 / n - 1 / (n + 1), where none counts as half a window
        gain = np.where(counts[view] > 0, 1 / (np.maximum(counts[view], 1) * (counts[view] + 1)), 1)
        gains[view] = weights[view] ** 2 * (covered[0] @ gain @ covered[1].T).ravel()
        gains[view, seen[view]] = -1

    # neighbours differ, along rows and columns
    first = [(w, (w // plan.columns.count + 2 * (w % plan.columns.count)) % len(weights)) for w in range(plan.count)]
    for window, view in first:
        read(window, view)
    for view in range(len(weights)):
        weigh(view)
    others: list[Pair] = []
    while len(first) + len(others) < seen.size:
        view, window = (int(i) for i in np.unravel_index(gains.argmax(), gains.shape))
        read(window, view)
        weigh(view)
        others.append((window, view))
    step = -(-plan.count // _ROUNDS)
    return [first, *(others[start : start + step] for start in range(0, len(others), step))]


def view_weights(settings: Settings) -> tuple[float, ...]:
    """Compute the weights of the views in the logits, as in `mix_views`."""
    kept, turned = settings.img_eng_coefficient / 3, (1 - settings.img_eng_coefficient) / 2
    return (kept, kept, kept, turned, turned)


@dataclass(frozen=True, eq=False)
class PartialLogits:
    """Logits of the pairs encoded so far.

    Attributes:
        logits: n x V x r x c x Q, with flips undone; zero where `seen` is False.
        seen: n x V bool, on the host.
        plan: the windows.
        weights: weights of the views.
    """

    logits: Tensor
    seen: Tensor
    plan: WindowPlan
    weights: tuple[float, ...]

    @property
    def passes(self) -> int:
        """Number of pairs encoded so far."""
        return int(self.seen.sum())

    def mixed(self) -> Tensor:
        """Mix the views of every window, as `mix_views` does with all of them.

        A view that was not read of a window is estimated as this view's mean over the other
        windows, patch by patch, plus the mean by which the window's views that were read deviate
        from such means. Windows keep equal weights, whatever was read of them.

        Returns:
            n x r x c x Q.
        """
        views = [self.logits[:, view] for view in range(len(self.weights))]
        read = self.seen.to(self.logits)[..., None, None, None]
        if bool(self.seen.all()):
            return _sum(weight * view for weight, view in zip(self.weights, views, strict=True))
        patch = self.plan.padded[0] // self.logits.shape[2]
        grid = -(-self.plan.rows.size // patch), -(-self.plan.columns.size // patch)
        sums = [merge_patches(view, self.plan, grid, patch) for view in views]
        ones = torch.ones_like(self.logits[:, 0, :, :, :1])
        shares = [merge_patches(read[:, v] * ones, self.plan, grid, patch) for v in range(len(views))]
        everything = _sum(sums) / _sum(shares)
        means = [torch.where(n > 1e-6, s / n.clamp(min=1e-6), everything) for s, n in zip(sums, shares, strict=True)]
        expected = [place_patches(mean, self.plan, patch) for mean in means]
        deviation = _sum(read[:, v] * (views[v] - expected[v]) for v in range(len(views))) / read.sum(1)
        return _sum(
            weight * torch.where(read[:, v] > 0, views[v], expected[v] + deviation)
            for v, weight in enumerate(self.weights)
        )


def _covered(axis: Axis) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Mark which places along an axis each window shows, a patch apart: windows x places, 0 or 1."""
    places = np.arange(0, axis.size, axis.padded // axis.patches)
    starts = np.array(axis.starts)[:, None]
    return ((places >= starts) & (places < starts + axis.window)).astype(float)


def _sum(tensors: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, tensors)
