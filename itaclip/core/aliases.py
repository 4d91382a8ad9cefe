"""One map per class, from its words weighted by how well they describe the window (VIP, ICML 2026, arXiv 2605.12325).

Elsewhere a class takes the score of its best word at every pixel. Here the words of a class, its aliases, are weighted
window by window before anything is stitched: those that are near the window as a whole count more. Written from a
description of the published code at 5bd25ee; no recording of it exists here. There, the features of an alias are
not normalised again after the mean over its templates; here they are, as in every method.

Shapes: n windows of r x c patches, E features, Q queries, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.core.query_maps import PatchLogits

_TOGETHER = 1 << 24  # logits in memory


def class_logits(
    patches: PatchLogits, queries_per_class: Sequence[int], scale: float, temperature: float, sharpness: float
) -> PatchLogits:
    """Join the logits of every class's aliases, as VIP does.

    With g the unit mean of a window's patch features and t_k the unit feature of alias k of N, the weights are
    ``w = softmax(g t / temperature)`` among the N, the scores ``S_k = scale N w_k cos_k``, and the
    class has ``log(sum_k exp(sharpness S_k)) / sharpness``.

    Args:
        patches: features of the windows, with the text bank.
        queries_per_class: K numbers that sum to Q.
        scale: factor of the cosines, positive.
        temperature: positive; small values choose one alias, large ones weigh all alike.
        sharpness: positive; large values take the best alias of a patch. A class of N equal aliases gains
            ``log(N) / sharpness``.

    Returns:
        n x r x c x K logits, which times `scale` are VIP's.
    """
    features, text = patches.values, patches.text
    assert text is not None
    counts = torch.tensor(queries_per_class, device=features.device)
    owner = torch.repeat_interleave(torch.arange(len(counts), device=features.device), counts, output_size=len(text))
    window = F.normalize(features.flatten(1, 2).mean(1), dim=-1)
    weights = _softmax_by_class(window @ text.T / temperature, owner, len(counts)) * counts[owner]
    found = features.new_empty(*features.shape[:3], len(counts))
    step = max(1, _TOGETHER // (features[0, ..., 0].numel() * len(text)))
    for first in range(0, len(features), step):
        part = slice(first, first + step)
        scores = scale * weights[part, None, None] * (features[part] @ text.T)
        found[part] = _logsumexp_by_class(sharpness * scores, owner, len(counts)) / (sharpness * scale)
    return PatchLogits(found)


def _maxima(values: Tensor, owner: Tensor, classes: int) -> Tensor:
    lowest = values.new_full((*values.shape[:-1], classes), -torch.inf)
    return lowest.scatter_reduce(-1, owner.expand_as(values), values, "amax")


def _softmax_by_class(values: Tensor, owner: Tensor, classes: int) -> Tensor:
    raised = (values - _maxima(values, owner, classes)[..., owner]).exp()
    return raised / raised.new_zeros(*values.shape[:-1], classes).index_add_(-1, owner, raised)[..., owner]


def _logsumexp_by_class(values: Tensor, owner: Tensor, classes: int) -> Tensor:
    highest = _maxima(values, owner, classes)
    raised = (values - highest[..., owner]).exp()
    return highest + raised.new_zeros(highest.shape).index_add_(-1, owner, raised).log()
