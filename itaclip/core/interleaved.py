"""Views spread over windows: a sweep in rounds that can end early (this project's own).

The published sweep reads five views of every window and averages them. Windows overlap many
times over. If each is read in only one view, and its neighbours in other views, every pixel is
still seen in all views, and a fifth of the passes gives nearly the same labels. Each further round adds
an evenly spread part of the rest, until the labels hardly change; the last round completes the
sweep (docs/benchmarks.md).

Shapes: n windows of r x c patches, V views, Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from itaclip.core.settings import Settings
from itaclip.core.views import VIEWS
from itaclip.core.windows import WindowPlan, stitch

Pair = tuple[int, int]
"""A window and one of its views."""

# (3 row + column + 2 view) mod 10 sorts pairs into ten classes, each spread evenly over windows
# and views. The first two together read every window once; after that, distant classes come first.
_ORDER = (0, 5, 2, 7, 4, 9, 1, 6, 3, 8)


def rounds(plan: WindowPlan) -> list[list[Pair]]:
    """List all pairs of windows and views, round by round; the first round reads every window once."""
    across = plan.columns.count
    classes: list[list[Pair]] = [[] for _ in _ORDER]
    for window in range(plan.count):
        for view in range(VIEWS):
            classes[(3 * (window // across) + window % across + 2 * view) % len(_ORDER)].append((window, view))
    first, second, *others = (classes[number] for number in _ORDER)
    return [sorted(first + second), *(pairs for pairs in others if pairs)]


def view_weights(settings: Settings) -> tuple[float, ...]:
    """Compute the weights of the views in the logits, as in `mix_views`."""
    kept, turned = settings.img_eng_coefficient / 3, (1 - settings.img_eng_coefficient) / 2
    return (kept, kept, kept, turned, turned)


@dataclass(frozen=True, eq=False)
class Interleaved:
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

    def stitched(self, size: tuple[int, int]) -> Tensor:
        """Stitch to Q x height x width: the weighted mean of the views, each averaged over its windows.

        Where no window of a view covers a pixel, the mean of everything encoded there is used
        instead. Once every pair is encoded, the result equals that of `mix_views` and `stitch`.
        """
        if bool(self.seen.all()):
            weights = torch.tensor(self.weights, dtype=self.logits.dtype, device=self.logits.device)
            return stitch((self.logits * weights[:, None, None, None]).sum(1), self.plan, size)
        grid = self.logits.shape[2:4]
        sums, counts = [], []
        for view in range(len(self.weights)):
            there = self.seen[:, view].to(self.logits)[:, None, None, None]
            sums.append(stitch(self.logits[:, view], self.plan, size))
            counts.append(stitch(there.expand(-1, *grid, 1), self.plan, size))
        everything = sum(sums) / sum(counts)
        total = torch.zeros_like(sums[0])
        for weight, summed, count in zip(self.weights, sums, counts, strict=True):
            total += weight * torch.where(count > 1e-6, summed / count.clamp(min=1e-6), everything)
        return total
