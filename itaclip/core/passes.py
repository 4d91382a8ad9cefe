"""Patch logits of one or several readings of the same windows, each step done once.

A reading is a method, its image engineering and a text bank. Readings that agree on the
windows share the views, the ordinary blocks and a second encoder's features; those of one
method share its features too.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.core.across import inputs_of, read_across, whole_plan
from itaclip.core.encoder import DenseEncoder
from itaclip.core.methods import Method, Window
from itaclip.core.regions import Ids, dense_ranks, window_regions
from itaclip.core.settings import Settings
from itaclip.core.views import VIEWS, make_views, mix_views, view_features, view_maps
from itaclip.core.windows import WindowPlan, cut_windows
from itaclip.encoders import Features, SecondEncoder
from itaclip.errors import ItaclipError

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
        multiple: pixels that windows are rounded up to.
    """

    settings: Settings
    method: Method
    text: Tensor
    multiple: int

    @property
    def second(self) -> str | None:
        """Name of the second encoder that the method reads, if it does."""
        return self.settings.second_encoder if self.method.reads_features else None

    @property
    def trunk(self) -> Hashable:
        """Readings with equal trunks can share an encoder pass."""
        s = self.settings
        return s.slide_crop, s.slide_stride, s.padding, s.dtype, self.method.positions, self.multiple, s.across_windows

    @property
    def features(self) -> Hashable:
        """Readings of a pass with equal ones have equal features."""
        s, m = self.settings, self.method
        text = (id(self.text), s.logit_scale) if m.reads_text else None
        return m, self.second, s.regions if m.reads_regions else None, text

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
        return self.trunk, self.views, self.features, weight, id(self.text)


def shared_logits(
    encoder: DenseEncoder,
    images: Sequence[Tensor],
    plans: Sequence[WindowPlan],
    readings: Sequence[Reading],
    second: Callable[[str], SecondEncoder],
    regions: Mapping[str, Sequence[Ids]],
) -> list[list[Tensor]]:
    """Logits of every patch of every window, for readings of equal trunk and views.

    Windows of different images share an encoder pass when their sizes agree. When a GPU's
    memory does not hold a pass, it is halved, and so are all that follow.

    Args:
        encoder: CLIP's image tower.
        images: each 3 x H x W, normalised.
        plans: the windows of each.
        readings: what is read.
        second: gives the second encoder of a name.
        regions: by source, a region map of every image at its size, H x W.

    Returns:
        Per reading and image, windows x r x c x Q float32 on the grid of the method; equal
        readings share the tensors.

    Raises:
        ItaclipError: not even a single window fits.
    """
    settings = next((r.settings for r in readings if r.settings.img_engineering), readings[0].settings)
    distinct = {reading.key: reading for reading in readings}
    ways = {reading.features: reading for reading in readings}
    helpers = {name: second(name) for name in dict.fromkeys(r.second for r in ways.values()) if name}

    def patch(reading: Reading) -> int:
        return helpers[reading.second].patch_size if reading.second else encoder.patch_size

    outputs = {
        key: [torch.empty(plan.count, *plan.grid_of(patch(reading)), len(reading.text), device=image.device)
              for plan, image in zip(plans, images, strict=True)]
        for key, reading in distinct.items()
    }  # fmt: skip

    def second_features(pixels: Tensor) -> dict[str, Features]:
        return {
            name: helper(pixels, {r.method.reads_features for r in ways.values() if r.second == name})
            for name, helper in helpers.items()
        }

    def window(reading: Reading, pixels: Tensor, runs: Sequence[Run], found: Mapping[str, Features]) -> Window:
        method, text = reading.method, reading.text.to(pixels.device)
        read = Window(pixels, text, reading.settings.logit_scale)
        if reading.second and method.reads_features:
            read = replace(read, features=F.normalize(getattr(found[reading.second], method.reads_features), dim=1))
        if method.reads_regions:
            maps = regions[reading.settings.regions]
            places = [window_regions(maps[i], plans[i], a, b, patch(reading)) for i, a, b in runs]
            ids, count = dense_ranks(np.concatenate(places))
            seen = view_maps(torch.from_numpy(ids), settings).to(pixels.device, non_blocking=True)
            read = replace(read, regions=seen, region_count=count)
        return read

    def encode(runs: Sequence[Run]) -> None:
        crops = torch.cat([cut_windows(images[i], plans[i], a, b) for i, a, b in runs])
        pixels = make_views(crops, settings)
        found = second_features(pixels)
        pairs = [(reading.method, window(reading, pixels, runs, found)) for reading in ways.values()]
        features = {
            way: view_features(tokens, len(crops))
            for way, tokens in zip(ways, encoder.read(pixels, pairs), strict=True)
        }
        for key, reading in distinct.items():
            logits = mix_views(features[reading.features], reading.text.to(crops.device), reading.settings)
            for (i, a, b), part in zip(runs, logits.split([b - a for _, a, b in runs]), strict=True):
                outputs[key][i][a:b] = part

    def read_whole(i: int) -> None:
        """One image's logits with attention across its windows."""
        plan = plans[i]
        wanted = inputs_of(reduce(or_, (reading.method.needs(len(encoder.blocks)) for reading in ways.values())))
        entire = whole_plan(plan, encoder.patch_size, readings[0].multiple)
        kept: dict[int, list[Tensor]] = {}
        seconds: dict[str, list[Features]] = {}
        step = encoder.most_windows or per_pass
        for first in range(0, plan.count, step):
            pixels = make_views(cut_windows(images[i], plan, first, min(first + step, plan.count)), settings)
            trunk = encoder.trunk(pixels, wanted, readings[0].method.positions)
            for number in wanted.outputs:
                kept.setdefault(number, []).append(trunk.output(number).unflatten(0, (views, -1)))
            for name, found in second_features(pixels).items():
                seconds.setdefault(name, []).append(found)
        outputs_of = {number: torch.cat(parts, dim=1).flatten(0, 1) for number, parts in kept.items()}
        for way, reading in ways.items():
            method, text = reading.method, reading.text.to(images[i].device)
            read = Window(images[i], text, reading.settings.logit_scale)
            if reading.second and method.reads_features:
                found_here = [getattr(found, method.reads_features) for found in seconds[reading.second]]
                parts = [part.unflatten(0, (views, -1)) for part in found_here]
                read = replace(read, features=torch.cat(parts, dim=1).flatten(0, 1))
            if method.reads_regions:
                whole_map = window_regions(regions[reading.settings.regions][i], entire, 0, 1, patch(reading))
                ids, count = dense_ranks(whole_map)
                read = replace(read, regions=torch.from_numpy(ids).to(images[i].device), region_count=count)
            whole = view_features(read_across(encoder, method, outputs_of, plan, entire, images[i], read), 1)
            if views > 1:  # mix_views turns them back
                whole = torch.cat([whole[:3], whole[3:4].flip(2), whole[4:].flip(3)])
            for key, other in distinct.items():
                if other.features == way:
                    outputs[key][i] = mix_views(whole, other.text.to(whole.device), other.settings)

    views = VIEWS if settings.img_engineering else 1
    per_pass = windows_per_pass(settings, images[0].device if images else torch.device("cpu"))
    if settings.across_windows:
        for place in range(len(images)):
            read_whole(place)
        return [outputs[reading.key] for reading in readings]
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
