"""One map per prompt, and the prompts that are worth decoding. Shapes: T prompts, n instances, h x w pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def prompt_map(semantic: Tensor, masks: Tensor, scores: Tensor, presence: Tensor) -> Tensor:
    """Fuse what SAM 3 finds for a prompt as SegEarth-OV3 describes: h x w in [0, 1].

    ``presence * max(semantic, max over instances of score * mask)``, all as probabilities.

    Args:
        semantic: h x w logits of the semantic head.
        masks: n x h x w logits of the instances that count; n may be 0.
        scores: n, in [0, 1]: SAM 3's own scores of instances, which include the presence.
        presence: a scalar in [0, 1]: whether the image shows the prompt at all.
    """
    found = semantic.sigmoid()
    if len(masks):
        found = torch.maximum(found, (masks.sigmoid() * scores[:, None, None]).amax(0))
    return found * presence


def kept_prompts(presence: Tensor, share: float, most: int) -> Tensor:
    """Choose the prompts whose presence in the preview is above a quantile, as ActiveSAM v1 does.

    Args:
        presence: T, in [0, 1].
        share: share of the prompts that stay, the best first.
        most: most prompts that stay. With at most so many, all do.

    Returns:
        Sorted indices, at least one.
    """
    if len(presence) <= most:
        return torch.arange(len(presence), device=presence.device)
    count = min(most, max(1, int(len(presence) * share)))
    return presence.topk(count).indices.sort().values


def class_maps(maps: Tensor, prompts: Tensor, queries_per_class: Sequence[int]) -> Tensor:
    """Take the best synonym of every class: K x h x w. A class without a decoded prompt is 0 everywhere.

    Args:
        maps: T' x h x w of the decoded prompts.
        prompts: T' indices among all Q queries.
        queries_per_class: K numbers that sum to Q.
    """
    owner = torch.repeat_interleave(torch.arange(len(queries_per_class)), torch.tensor(queries_per_class))
    classes = owner.to(maps.device)[prompts]
    found = maps.new_zeros(len(queries_per_class), *maps.shape[1:])
    return found.scatter_reduce_(0, classes[:, None, None].expand_as(maps), maps, "amax")
