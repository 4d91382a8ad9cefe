"""Convert query logits to a label map (ITACLIP, section 7). Shapes: Q queries, K classes, H x W pixels.

The published order is: softmax over all queries, best query of every class, area rule, best class, threshold,
closing. The softmax does not change which class is best, so the best classes are found by their logits while the sum
of the softmax runs on, block by block of the queries. The result is the same for any blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.core.query_maps import QueryMaps
from itaclip.core.scores import Kept, Scores
from itaclip.core.settings import Settings

_LOWEST = float("-inf")
_TOGETHER = 1 << 20  # values that a CPU's caches hold
_TOGETHER_ON_A_GPU = 1 << 24  # 64 MiB, beside the maps themselves


@dataclass(frozen=True)
class Ranking:
    """The best classes of every pixel. Shapes: k classes, P pixels.

    Attributes:
        classes: k x P int64, best first; -1 where there are fewer.
        logits: k x P, theirs, scaled; minus infinity for -1. Scores in their place where the maps are scores already.
        full: K x P, the same of all classes, or None.
        highest: P, the highest scaled logit of all queries; None if the maps are scores already.
        total: P, the sum over all queries of ``exp(logit - highest)``.
        allowed: K bool, the classes that no rule has dropped; None if there is no rule.
    """

    classes: Tensor
    logits: Tensor
    full: Tensor | None
    highest: Tensor | None
    total: Tensor
    allowed: Tensor | None = None

    def scores(self, logits: Tensor, pixels: slice = slice(None)) -> Tensor:
        """Compute the softmax over all queries for scaled logits of some pixels, ... x p; overwrites them."""
        if self.highest is None:
            return logits.clamp_(min=0)
        return logits.sub_(self.highest[pixels]).exp_().div_(self.total[pixels])


def decide(
    maps: QueryMaps, settings: Settings, kept: Kept, corrected: Callable[[Tensor], Tensor] | None = None,
    softmax: bool = True,
) -> tuple[Tensor, Scores[Tensor]]:  # fmt: skip
    """Compute labels and scores.

    Args:
        maps: logits of the queries, refined.
        settings: uses `logit_scale`, `area_thd`, `peak_thd`, `prob_thd` and `closing`.
        kept: which scores to keep.
        corrected: changes the label map at the end, H x W int64.
        softmax: False if the maps are scores in [0, 1] already.

    Returns:
        H x W int64 class ids, and the scores.
    """
    top, scale = min(maps.classes, 2 if kept == "full" else kept), settings.logit_scale if softmax else None
    ranking = rank_kept(maps, scale, settings, top, kept == "full")
    classes = ranking.classes.view(top, *maps.size)
    values = ranking.scores(ranking.logits.clone()).view(top, *maps.size)
    labels = label_map(classes[0], values[0], settings)
    if corrected is not None:
        labels = corrected(labels)
    own = _scores_of(labels.flatten(), ranking, maps, scale)
    if ranking.allowed is not None:
        own = own * ranking.allowed[labels.flatten()]
    full = None if ranking.full is None else ranking.scores(ranking.full).unflatten(1, maps.size)
    return labels, Scores(own.view(maps.size), classes.int(), values, full)


def rank_kept(maps: QueryMaps, scale: float | None, settings: Settings, top: int, full: bool = False) -> Ranking:
    """Find the best classes of every pixel among those that neither rule drops.

    The area rule drops classes other than 0 that cover at most `area_thd` of the foreground, and `peak_thd` classes
    whose best pixel scores less (RADSeg, arXiv 2511.19704, "prompt denoising"). Pixels of a dropped class go to the
    next best class, not to the background.
    """
    ranking, allowed = rank(maps, scale, top, full), None
    if settings.area_thd is not None:
        allowed = large_classes(count_values(ranking.classes[0], maps.classes), settings.area_thd)
    if settings.peak_thd:
        certain = class_peaks(maps, ranking, scale) >= settings.peak_thd
        allowed = certain if allowed is None else allowed & certain
    return ranking if allowed is None else rank_allowed(ranking, maps, scale, allowed)


def rank_allowed(ranking: Ranking, maps: QueryMaps, scale: float | None, allowed: Tensor) -> Ranking:
    """Rank again without the classes that a rule drops; what is kept is few, so it is cheap to read again.

    Args:
        ranking: of all classes; its scores stay those of a softmax over all queries.
        maps: the same maps.
        scale: as for `rank`.
        allowed: K bool.
    """
    again = rank(maps, scale, len(ranking.classes), allowed=allowed)
    if ranking.full is not None:
        ranking.full.masked_fill_(~allowed[:, None], _LOWEST)
    return replace(ranking, classes=again.classes, logits=again.logits, allowed=allowed)


def class_peaks(maps: QueryMaps, ranking: Ranking, scale: float | None) -> Tensor:
    """Find the score of the best pixel of every class: K."""
    peaks = torch.zeros(maps.classes, device=maps.device)
    for classes, block in maps.blocks():
        counts = [maps.queries_per_class[number] for number in classes]
        step = _pixels_together(len(block), maps.device)
        for first in range(0, maps.pixels, step):
            part = slice(first, min(first + step, maps.pixels))
            found = ranking.scores(class_maxima(_scaled(block[part], scale), counts), part).amax(1)
            of_block = slice(classes[0], classes[-1] + 1)
            peaks[of_block] = torch.maximum(peaks[of_block], found)
    return peaks


def large_classes(counts: Tensor, threshold: float) -> Tensor:
    """Find the classes that cover more than `threshold` of the foreground, and class 0: K bool.

    Args:
        counts: K int64, pixels whose best class each is.
        threshold: share in [0, 1].
    """
    foreground = counts[1:].float()
    return F.pad(foreground > threshold * foreground.sum(), (1, 0), value=True)


def rank(maps: QueryMaps, scale: float | None, top: int, full: bool = False, allowed: Tensor | None = None) -> Ranking:
    """Find the best classes of every pixel; of equal ones the smallest number is best.

    Args:
        maps: logits of the queries.
        scale: factor of the logits; None if the maps are scores already.
        top: number of classes, 1 to K.
        full: whether to keep the logits of all classes.
        allowed: K bool; others do not take part. The sum of the softmax is not computed then.
    """
    device, pixels = maps.device, maps.pixels
    found = Ranking(
        torch.full((top, pixels), -1, dtype=torch.int64, device=device),
        torch.full((top, pixels), _LOWEST, device=device),
        torch.empty(maps.classes, pixels, device=device) if full else None,
        None if scale is None else torch.full((pixels,), _LOWEST, device=device),
        torch.zeros(pixels, device=device),
    )
    only = None if allowed is None or maps.held else allowed.nonzero().flatten().tolist()  # may wait for the GPU
    for n, (classes, block) in enumerate(maps.blocks(only)):
        numbers = torch.arange(maps.classes, device=device)[slice(None) if maps.held else classes]
        counts = [maps.queries_per_class[number] for number in classes]
        refused = None if allowed is None else ~allowed[numbers]
        step = _pixels_together(len(block), device)
        for first in range(0, pixels, step):
            part = slice(first, min(first + step, pixels))
            logits = _scaled(block[part], scale)
            if allowed is None:
                _add_to_softmax(found, logits, part)
            best = class_maxima(logits, counts)
            if found.full is not None:
                found.full[classes[0] : classes[-1] + 1, part] = best
            if refused is not None:
                best = best.masked_fill(refused[:, None], _LOWEST)
            _add_to_best(found, best, numbers, part, n == 0 and allowed is None)
    return found


def _scaled(logits: Tensor, scale: float | None) -> Tensor:
    """Scale logits, or copy scores: q x p that may be overwritten."""
    return logits.clone() if scale is None else logits * scale


def _pixels_together(queries: int, device: torch.device) -> int:
    return max(1, (_TOGETHER if device.type == "cpu" else _TOGETHER_ON_A_GPU) // queries)


def class_maxima(logits: Tensor, queries_per_class: Sequence[int]) -> Tensor:
    """Find the highest logit of the queries of every class: Q x ... to K x ..."""
    if len(queries_per_class) == len(logits):
        return logits
    parts = logits.split(list(queries_per_class))
    return torch.stack([part.amax(0) if len(part) > 1 else part[0] for part in parts])


def _add_to_softmax(found: Ranking, logits: Tensor, part: slice) -> None:
    """Let the maximum and the sum of the softmax run on over further queries."""
    if found.highest is None:
        return
    before = found.highest[part]
    highest = torch.maximum(before, logits.amax(0))
    total = found.total[part] * (before - highest).exp()
    found.total[part] = total + (logits - highest).exp_().sum(0)
    found.highest[part] = highest


def _add_to_best(found: Ranking, logits: Tensor, numbers: Tensor, part: slice, first: bool) -> None:
    """Take further classes into the best ones; `logits` are c x p and may be overwritten.

    `first` says that these are the classes from 0 on, and that all take part.
    """
    places: slice | Tensor = part
    top = len(found.logits)
    if first and len(logits) >= top:
        for rank in range(top):
            best, where = logits.max(0)
            found.logits[rank, part] = best
            found.classes[rank, part] = where
            if rank < top - 1:
                logits.scatter_(0, where[None], _LOWEST)
        return
    if logits.device.type == "cpu":  # most pixels have better classes already
        better = (logits.amax(0) > found.logits[-1, part]).nonzero().flatten()
        if not len(better):
            return
        logits, places = logits[:, better], better + part.start
    earlier = found.classes[:, places].clone()
    logits = torch.cat([found.logits[:, places], logits])
    for rank in range(top):
        best, where = logits.max(0)
        found.logits[rank, places] = best
        old, new = earlier.gather(0, where.clamp(max=top - 1)[None])[0], numbers[(where - top).clamp(min=0)]
        found.classes[rank, places] = torch.where(where < top, old, new).masked_fill_(best == _LOWEST, -1)
        if rank < top - 1:
            logits.scatter_(0, where[None], _LOWEST)


def _scores_of(labels: Tensor, ranking: Ranking, maps: QueryMaps, scale: float | None) -> Tensor:
    """Compute the scores of the class of every pixel, P int64; those that are not among the best are read again."""
    own = torch.full_like(ranking.logits[0], _LOWEST)
    for classes, logits in zip(ranking.classes, ranking.logits, strict=True):
        own = torch.where(classes == labels, logits, own)
    rest: Tensor | slice = slice(None)
    if not labels.is_cuda:
        rest = (own == _LOWEST).nonzero().flatten()
        if not len(rest):
            return ranking.scores(own)
    wanted = labels[rest]
    for classes, block in maps.blocks(None if maps.held else wanted.unique().tolist()):
        counts = [maps.queries_per_class[number] for number in classes]
        best = class_maxima(_scaled(block[rest], scale), counts)
        rows = torch.full((maps.classes,), -1, device=labels.device)
        rows[slice(None) if maps.held else classes] = torch.arange(len(classes), device=labels.device)
        row = rows[wanted]
        read = best.gather(0, row.clamp(min=0)[None])[0]
        own[rest] = torch.where(row >= 0, read, own[rest])
    return ranking.scores(own)


def count_values(values: Tensor, bins: int) -> Tensor:
    """Count how often each of 0..bins-1 occurs; returns `bins` int64 values.

    `torch.bincount` would make the host wait for the GPU."""
    flat = values.flatten()
    return flat.new_zeros(bins).scatter_add_(0, flat, torch.ones_like(flat))


def label_map(classes: Tensor, scores: Tensor, settings: Settings) -> Tensor:
    """Apply the threshold to the best class of every pixel, then close the map (ITACLIP only).

    Args:
        classes: H x W int64, the best classes.
        scores: H x W, theirs.
        settings: uses `prob_thd` and `closing`.

    Returns:
        H x W int64 class ids.
    """
    # a score of 0 is no better than that of class 0
    labels = classes.masked_fill((scores < settings.prob_thd) | (scores == 0), 0)
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
