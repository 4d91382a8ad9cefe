"""Convert query logits to a label map (ITACLIP, section 7). Shapes: Q queries, K classes, H x W pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.core.settings import Settings


def class_scores(logits: Tensor, queries_per_class: Sequence[int], settings: Settings) -> Tensor:
    """Apply the softmax over queries, keep the best query of every class, and drop small areas.

    Args:
        logits: Q x H x W.
        queries_per_class: K numbers that sum to Q. The queries of a class are contiguous.
        settings: uses `logit_scale` and `area_thd`.

    Returns:
        K x H x W in [0, 1]. Scores need not sum to 1, because synonyms share the softmax.
    """
    probabilities = (logits * settings.logit_scale).softmax(0)
    if max(queries_per_class) == 1:
        scores = probabilities
    else:
        parts = probabilities.split(list(queries_per_class))
        scores = torch.stack([part.amax(0) if len(part) > 1 else part[0] for part in parts])
    if settings.area_thd is not None:
        scores = drop_small_areas(scores, settings.area_thd)
    return scores


def drop_small_areas(scores: Tensor, threshold: float) -> Tensor:
    """Zero the scores of classes other than 0 that cover at most `threshold` of the foreground.

    Their pixels go to the next best class, not to the background.
    """
    foreground = count_values(scores.argmax(0), len(scores))[1:].to(scores.dtype)
    kept = foreground > threshold * foreground.sum()
    return scores * F.pad(kept.to(scores.dtype), (1, 0), value=1)[:, None, None]


def count_values(values: Tensor, bins: int) -> Tensor:
    """Count how often each of 0..bins-1 occurs; returns `bins` int64 values.

    `torch.bincount` would make the host wait for the GPU."""
    flat = values.flatten()
    return flat.new_zeros(bins).scatter_add_(0, flat, torch.ones_like(flat))


def label_map(scores: Tensor, settings: Settings) -> Tensor:
    """Choose the best class of every pixel, apply the threshold, then close the map (ITACLIP only).

    Args:
        scores: K x H x W.
        settings: uses `prob_thd` and `closing`.

    Returns:
        H x W int64 class ids.
    """
    best, labels = scores.max(0)
    labels = labels.masked_fill(best < settings.prob_thd, 0)
    return close_labels(labels) if settings.closing else labels


def close_labels(labels: Tensor) -> Tensor:
    """Apply a grey-scale closing to the label *numbers* with a 3 x 3 square: dilate, then erode.

    Higher class ids win over lower ones, so the result depends on the order of the classes,
    as in the published numbers. Pixels beyond the border are ignored.
    """
    image = labels[None].float()
    dilated = F.max_pool2d(image, 3, stride=1, padding=1)
    eroded = -F.max_pool2d(-dilated, 3, stride=1, padding=1)
    return eroded[0].to(labels.dtype)
