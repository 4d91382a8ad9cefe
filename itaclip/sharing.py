"""Patch logits of one or several readings of the same windows, each step done once.

A reading is a method, its image engineering and a text bank. Readings that agree on the
windows share the views and blocks 1..L-1; those of one method share its features too.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from itaclip.clip import DenseEncoder, Method
from itaclip.errors import ItaclipError
from itaclip.settings import Settings
from itaclip.views import VIEWS, make_views, mix_views, view_features
from itaclip.windows import WindowPlan, cut_windows

_LOG = logging.getLogger(__name__)

Run: TypeAlias = tuple[int, int, int]
"""Windows of one image: its place, the first window, and the one after the last."""


@dataclass(frozen=True, eq=False)
class Reading:
    """One way from windows to patch logits.

    Attributes:
        settings: windows and image engineering are read.
        method: as `Settings.resolved_method` gives it.
        text: Q x E text bank; readings that share it hold the same tensor.
    """

    settings: Settings
    method: Method
    text: Tensor

    @property
    def trunk(self) -> Hashable:
        """Readings with equal trunks can share an encoder pass."""
        s = self.settings
        return s.slide_crop, s.slide_stride, s.padding, s.dtype, self.method.positions

    @property
    def views(self) -> Hashable:
        """What the pixels of the views depend on; readings of a pass agree unless they take the plain view."""
        s = self.settings
        return (s.blur_kernel, s.blur_sigma) if s.img_engineering else None

    @property
    def key(self) -> Hashable:
        """Readings with equal keys have equal logits."""
        s = self.settings
        weight = s.img_eng_coefficient if s.img_engineering else None
        return self.trunk, self.views, self.method, weight, id(self.text)


def shared_logits(
    encoder: DenseEncoder, images: Sequence[Tensor], plans: Sequence[WindowPlan], readings: Sequence[Reading]
) -> list[list[Tensor]]:
    """Logits of every patch of every window, for readings of equal trunk and views.

    Windows of different images share an encoder pass when their sizes agree. When a GPU's
    memory does not hold a pass, it is halved, and so are all that follow.

    Returns:
        Per reading and image, windows x r x c x Q float32; equal readings share the tensors.

    Raises:
        ItaclipError: not even a single window fits.
    """
    settings = next((r.settings for r in readings if r.settings.img_engineering), readings[0].settings)
    methods = list(dict.fromkeys(reading.method for reading in readings))
    distinct = {reading.key: reading for reading in readings}
    outputs = {
        key: [torch.empty(plan.count, *plan.grid, len(reading.text), device=image.device)
              for plan, image in zip(plans, images, strict=True)]
        for key, reading in distinct.items()
    }  # fmt: skip

    def encode(runs: Sequence[Run]) -> None:
        crops = torch.cat([cut_windows(images[i], plans[i], a, b) for i, a, b in runs])
        pixels = make_views(crops, settings)
        features = {
            method: view_features(tokens, len(crops), plans[runs[0][0]].grid)
            for method, tokens in zip(methods, encoder.read(pixels, methods), strict=True)
        }
        for key, reading in distinct.items():
            logits = mix_views(features[reading.method], reading.text.to(crops.device), reading.settings)
            for (i, a, b), part in zip(runs, logits.split([b - a for _, a, b in runs]), strict=True):
                outputs[key][i][a:b] = part

    per_pass = windows_per_pass(settings, images[0].device if images else torch.device("cpu"))
    waiting = deque(_passes(plans, min(per_pass, encoder.most_windows or per_pass)))
    while waiting:
        runs = waiting.popleft()
        try:
            encode(runs)
        except torch.OutOfMemoryError as error:
            count = sum(b - a for _, a, b in runs)
            if count == 1:
                raise ItaclipError(
                    "not even one window fits the memory of the device; take a smaller slide_crop, bf16, or "
                    "img_engineering=False."
                ) from error
            encoder.most_windows = max(1, count // 2)
            _LOG.warning("%d windows a pass do not fit the memory; %d are taken from now on.",
                         count, encoder.most_windows)  # fmt: skip
            rest = [runs, *waiting]
            waiting = deque(part for old in rest for part in _split(old, encoder.most_windows))
    return [outputs[reading.key] for reading in readings]


def grouped(readings: Sequence[Reading]) -> list[list[int]]:
    """Places of the readings that can share encoder passes, group by group."""
    groups: list[list[int]] = []
    for place, reading in enumerate(readings):
        for group in groups:
            first = readings[group[0]]
            blurs = {readings[i].views for i in group} | {reading.views}
            if first.trunk == reading.trunk and len(blurs - {None}) <= 1:
                group.append(place)
                break
        else:
            groups.append([place])
    return groups


def windows_per_pass(settings: Settings, device: torch.device) -> int:
    """Windows that an encoder pass takes, with all their views.

    Ten views fit the caches of a CPU; a GPU is filled by sixty.
    """
    batch = settings.batch_crops or (60 if device.type == "cuda" else 10)
    return max(1, batch // (VIEWS if settings.img_engineering else 1))


def _passes(plans: Sequence[WindowPlan], per_pass: int) -> Iterator[list[Run]]:
    """Windows of one encoder pass after the other."""
    waiting: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for i, plan in enumerate(plans):
        waiting.setdefault(plan.padded, []).extend((i, window) for window in range(plan.count))
    for windows in waiting.values():
        for start in range(0, len(windows), per_pass):
            yield _runs(windows[start : start + per_pass])


def _split(runs: Sequence[Run], per_pass: int) -> Iterator[list[Run]]:
    """The windows of a pass in smaller ones."""
    windows = [(image, window) for image, first, end in runs for window in range(first, end)]
    for start in range(0, len(windows), per_pass):
        yield _runs(windows[start : start + per_pass])


def _runs(windows: Sequence[tuple[int, int]]) -> list[Run]:
    """Consecutive (image, window) pairs, put together."""
    runs: list[Run] = []
    for image, window in windows:
        if runs and runs[-1][0] == image:
            runs[-1] = (image, runs[-1][1], window + 1)
        else:
            runs.append((image, window, window + 1))
    return runs
