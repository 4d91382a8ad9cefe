"""A first look that drops classes that are hardly there (this project's own).

Patch logits cost little next to maps at pixel size. A class whose score is low at every patch of every window hardly
wins a pixel, since pixels are weighted means of patches. It is dropped before maps are stitched, refined and decided.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from itaclip.core.decision import class_maxima
from itaclip.core.query_maps import FEATURES_FROM, PatchLogits, first_queries, queries_of

_TOGETHER = 1 << 24  # logits in memory


def shortlist(patches: PatchLogits, queries_per_class: Sequence[int], scale: float, most: int) -> list[int]:
    """Choose the classes with the highest score of any patch; the score is the softmax over all queries.

    Args:
        patches: logits of all windows.
        queries_per_class: K numbers that sum to Q.
        scale: factor of the logits.
        most: number of classes to choose, 1 to K.

    Returns:
        Ascending class ids; class 0, to which thresholds send pixels, is always among them.
    """
    total = torch.full((patches.values[..., 0].numel(),), float("-inf"), device=patches.values.device)
    for logits in _blocks(patches, scale):
        total = torch.logaddexp(total, logits.logsumexp(1))
    peaks = torch.cat([(logits - total[:, None]).amax(0) for logits in _blocks(patches, scale)])
    peaks = class_maxima(peaks, queries_per_class)
    peaks[0] = float("inf")
    return sorted(peaks.argsort(descending=True, stable=True)[:most].tolist())


def restricted(patches: PatchLogits, queries_per_class: Sequence[int], classes: Sequence[int]) -> PatchLogits:
    """Take the logits of some classes' queries."""
    queries, count = (
        queries_of(classes, first_queries(queries_per_class)),
        sum(queries_per_class[number] for number in classes),
    )
    if patches.text is None or count < FEATURES_FROM * patches.text.shape[1]:
        return PatchLogits(patches.logits(queries))
    return PatchLogits(patches.values, patches.text[queries])


def _blocks(patches: PatchLogits, scale: float) -> Iterator[Tensor]:
    """Yield the scaled logits of all patches, P x q, block by block of the queries."""
    step = max(1, _TOGETHER // patches.values[..., 0].numel())
    for first in range(0, patches.queries, step):
        yield patches.logits(slice(first, first + step)).flatten(0, 2) * scale
