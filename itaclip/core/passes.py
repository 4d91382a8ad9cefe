"""Compute the patch logits of several readings of the same windows, doing shared steps once.

A reading is a method, its image engineering and a text bank. Readings with the same windows
share the views, the ordinary blocks and a second encoder's features; readings with the same
method also share its features.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.common.progress import report
from itaclip.core.across import inputs_of, read_across, whole_plan
from itaclip.core.adaptive import Interleaved, rounds, view_weights
from itaclip.core.encoder import DenseEncoder
from itaclip.core.methods import Method, Window
from itaclip.core.regions.maps import Ids, dense_ranks, window_regions
from itaclip.core.second_encoders import SecondEncoder
from itaclip.core.settings import Settings
from itaclip.core.views import VIEWS, make_view, make_views, mix_views, turned, view_features, view_maps
from itaclip.core.windows import WindowPlan, cut_windows
from itaclip.errors import ItaclipError

_LOG = logging.getLogger(__name__)

Run: TypeAlias = tuple[int, int, int]
"""Consecutive windows of one image: index of the image, first window, last window (exclusive)."""

Unit: TypeAlias = tuple[int, int]
"""Unit of a pass: an image and one of its windows or, for a single image, a window and one of its views."""


@dataclass(frozen=True, eq=False)
class Reading:
    """One way from windows to patch logits.

    Attributes:
        settings: settings of the windows and the image engineering.
        method: the result of `Settings.resolved_method`.
        text: Q x E text bank; readings with the same bank hold the same tensor.
        multiple: window sides are rounded up to a multiple of this many pixels.
    """

    settings: Settings
    method: Method
    text: Tensor
    multiple: int

    @property
    def second(self) -> str | None:
        """Name of the second encoder, or None if the method reads none."""
        return self.settings.second_encoder if self.method.reads_features else None

    @property
    def trunk(self) -> Hashable:
        """Key of the encoder pass: readings with equal keys can share one."""
        s = self.settings
        return s.slide_crop, s.slide_stride, s.padding, s.dtype, self.method.positions, self.multiple, s.across_windows

    @property
    def features(self) -> Hashable:
        """Key of the features: readings of a pass with equal keys have equal features."""
        s, m = self.settings, self.method
        text = (id(self.text), s.logit_scale) if m.reads_text else None
        return m, self.second, s.regions if m.reads_regions else None, text

    @property
    def views(self) -> Hashable:
        """Key of the views' pixels, None for the plain view only; the other readings of a pass share one key."""
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
    """Compute the logits of every patch of every window, for readings with equal trunk and views.

    Windows of different images share an encoder pass if their sizes agree. If a pass does not
    fit into a GPU's memory, it is halved, as are all later ones.

    Args:
        encoder: CLIP's image tower.
        images: each 3 x H x W, normalised.
        plans: the windows of each image.
        readings: the readings.
        second: returns the second encoder with a given name.
        regions: per source, the region map of every image at its size, H x W.

    Returns:
        Per reading and image, windows x r x c x Q float32 on the method's grid; equal readings
        share the tensors.

    Raises:
        ItaclipError: not even a single window fits into memory.
    """
    shared = _Shared(encoder, images, plans, readings, second, regions)
    logits = shared.across_windows() if readings[0].settings.across_windows else shared.window_by_window()
    return [logits[reading.key] for reading in readings]


def interleaved_logits(
    encoder: DenseEncoder,
    image: Tensor,
    plan: WindowPlan,
    reading: Reading,
    second: Callable[[str], SecondEncoder],
    regions: Mapping[str, Ids],
) -> Iterator[Interleaved]:
    """Yield the logits of an image after every round of an interleaved sweep, see `itaclip.core.adaptive`.

    Args:
        encoder: CLIP's image tower.
        image: 3 x H x W, normalised.
        plan: its windows.
        reading: a reading with image engineering.
        second: returns the second encoder with a given name.
        regions: per source, the image's region map at its size, H x W.

    Raises:
        ItaclipError: as for `shared_logits`.
    """
    return _Shared(encoder, [image], [plan], [reading], second, {k: [v] for k, v in regions.items()}).interleaved()


class _Shared:
    """The arguments of `shared_logits`, and the steps common to all kinds of sweep."""

    def __init__(
        self,
        encoder: DenseEncoder,
        images: Sequence[Tensor],
        plans: Sequence[WindowPlan],
        readings: Sequence[Reading],
        second: Callable[[str], SecondEncoder],
        regions: Mapping[str, Sequence[Ids]],
    ) -> None:
        self.encoder, self.images, self.plans, self.regions = encoder, images, plans, regions
        self.settings = next((r.settings for r in readings if r.settings.img_engineering), readings[0].settings)
        self.views = VIEWS if self.settings.img_engineering else 1
        self.distinct = {reading.key: reading for reading in readings}
        self.ways = {reading.features: reading for reading in readings}
        self.helpers = {name: second(name) for name in dict.fromkeys(r.second for r in self.ways.values()) if name}

    def window_by_window(self) -> dict[Hashable, list[Tensor]]:
        """Compute the logits of every image, by reading key; each window is read on its own."""
        logits = {
            key: [torch.empty(plan.count, *plan.grid_of(self._patch(reading)), len(reading.text), device=image.device)
                  for plan, image in zip(self.plans, self.images, strict=True)]
            for key, reading in self.distinct.items()
        }  # fmt: skip

        def read(runs: Sequence[Run]) -> None:
            pixels, parts = self._pixels(runs), [(i, self.plans[i], a, b) for i, a, b in runs]
            found = self._second_features(pixels)
            windows = []
            for way in self.ways.values():
                window = self._window(way, pixels, found)
                if way.method.reads_regions:
                    ids, count = self._regions(way, parts)
                    seen = view_maps(ids, self.settings).to(pixels.device, non_blocking=True)
                    window = replace(window, regions=seen, region_count=count)
                windows.append((way.method, window))
            tokens = zip(self.ways, self.encoder.read(pixels, windows), strict=True)
            features = {key: view_features(t, len(pixels) // self.views) for key, t in tokens}
            for key, reading in self.distinct.items():
                mixed = mix_views(features[reading.features], reading.text.to(pixels.device), reading.settings)
                for (i, first, end), part in zip(runs, mixed.split([b - a for _, a, b in runs]), strict=True):
                    logits[key][i][first:end] = part

        self._in_passes(_passes(dict(enumerate(self.plans)), self._per_pass), lambda units: read(_runs(units)))
        return logits

    def interleaved(self) -> Iterator[Interleaved]:
        """Yield the logits of one image and one reading after each round. They are updated in place."""
        (plan,), (image,), (way,) = self.plans, self.images, self.distinct.values()
        text, size = way.text.to(image.device), plan.grid_of(self._patch(way))
        logits = torch.zeros(plan.count, VIEWS, *size, len(text), device=image.device)
        seen = torch.zeros(plan.count, VIEWS, dtype=torch.bool)

        def read(pairs: Sequence[Unit]) -> None:
            by_view = {view: [w for w, v in pairs if v == view] for view in range(VIEWS)}
            order = [(w, v) for v, windows in by_view.items() for w in windows]
            crops = {v: torch.cat([cut_windows(image, plan, w, w + 1) for w in ws]) for v, ws in by_view.items() if ws}
            pixels = torch.cat([make_view(crop, view, self.settings) for view, crop in crops.items()])
            window = self._window(way, pixels, self._second_features(pixels))
            if way.method.reads_regions:
                ids, count = self._regions(way, [(0, plan, w, w + 1) for w, _ in order])
                seen_ids = torch.stack([turned(one, v, 0) for one, (_, v) in zip(ids, order, strict=True)])
                window = replace(window, regions=seen_ids.to(image.device), region_count=count)
            (tokens,) = self.encoder.read(pixels, [(way.method, window)])
            found = F.normalize(tokens.float(), dim=-1) @ text.T
            for one, (w, v) in zip(found, order, strict=True):
                logits[w, v] = turned(one, v, 0)
                seen[w, v] = True

        weights = view_weights(way.settings)
        for pairs in rounds(plan, weights):
            step = self._per_pass * VIEWS
            self._in_passes([pairs[at : at + step] for at in range(0, len(pairs), step)], read, VIEWS)
            yield Interleaved(logits, seen, plan, weights)

    def across_windows(self) -> dict[Hashable, list[Tensor]]:
        """Compute the logits of every image, by reading key, with attention across windows, on one grid per image."""
        logits: dict[Hashable, list[Tensor]] = {key: [] for key in self.distinct}
        for i, image in enumerate(self.images):
            features = self._across(i)
            for key, reading in self.distinct.items():
                text = reading.text.to(image.device)
                logits[key].append(mix_views(features[reading.features], text, reading.settings))
        return logits

    def _across(self, i: int) -> dict[Hashable, Tensor]:
        """Compute an image's features as one window, by feature key: V x 1 x r x c x E, flipped views still flipped."""
        image, plan = self.images[i], self.plans[i]
        positions, multiple = next((way.method.positions, way.multiple) for way in self.ways.values())
        wanted = inputs_of(reduce(or_, (w.method.needs(self.encoder.depth) for w in self.ways.values())))
        entire = whole_plan(plan, self.encoder.patch_size, multiple)
        passes: list[tuple[dict[int, Tensor], dict[Hashable, Tensor]]] = []

        def read(runs: Sequence[Run]) -> None:
            pixels = self._pixels(runs)
            trunk = self.encoder.trunk(pixels, wanted, positions)
            found = self._second_features(pixels)
            passes.append(({number: trunk.output(number) for number in wanted.outputs}, found))

        def joined(parts: Sequence[Tensor]) -> Tensor:
            return torch.cat([part.unflatten(0, (self.views, -1)) for part in parts], dim=1).flatten(0, 1)

        self._in_passes(_passes({i: plan}, self._per_pass), lambda units: read(_runs(units)))
        outputs = {number: joined([blocks[number] for blocks, _ in passes]) for number in wanted.outputs}
        second = {key: joined([found[key] for _, found in passes]) for key in passes[0][1]}
        features: dict[Hashable, Tensor] = {}
        for key, way in self.ways.items():
            window = self._window(way, image, second)
            if way.method.reads_regions:
                ids, count = self._regions(way, [(i, entire, 0, 1)])
                window = replace(window, regions=ids.to(image.device), region_count=count)
            whole = view_features(read_across(self.encoder, way.method, outputs, plan, entire, image, window), 1)
            # flipped again, because mix_views undoes the flips
            features[key] = torch.stack([turned(maps, view, 1) for view, maps in enumerate(whole)])
        return features

    @property
    def _per_pass(self) -> int:
        """Number of windows per pass, each with all its views."""
        device = next((image.device for image in self.images), torch.device("cpu"))
        most = windows_per_pass(self.settings, device)
        return min(most, self.encoder.most_windows or most)

    def _in_passes(
        self, passes: Iterable[Sequence[Unit]], read: Callable[[Sequence[Unit]], None], views: int = 1
    ) -> None:
        """Read pass after pass; if one does not fit into a GPU's memory, halve it and all later ones.

        Args:
            passes: units of each pass: windows with all their views, or single views.
            read: reads a pass.
            views: number of units per window.

        Raises:
            ItaclipError: not even one unit fits.
        """
        encoder, waiting, done = self.encoder, deque(passes), 0
        while waiting:
            units = waiting.popleft()
            try:
                read(units)
                done += len(units)
                report("image", done, done + sum(map(len, waiting)))
            except torch.OutOfMemoryError as error:
                if len(units) == 1:
                    raise ItaclipError(
                        "not even one window fits into the memory of the device; use a smaller slide_crop, bf16, or "
                        "img_engineering=False."
                    ) from error
                most = max(1, len(units) // 2)
                encoder.most_windows = max(1, most // views)
                _LOG.warning("%d windows per pass do not fit into memory; %d are taken from now on.",
                             max(1, len(units) // views), encoder.most_windows)  # fmt: skip
                rest = [units, *waiting]
                waiting = deque(old[start : start + most] for old in rest for start in range(0, len(old), most))

    def _pixels(self, runs: Sequence[Run]) -> Tensor:
        """Cut windows and make all their views: (V * n) x 3 x h x w."""
        crops = torch.cat([cut_windows(self.images[i], self.plans[i], a, b) for i, a, b in runs])
        return make_views(crops, self.settings)

    def _second_features(self, pixels: Tensor) -> dict[Hashable, Tensor]:
        """Compute the second encoders' unit features, by feature key; each encoder runs once."""
        readers = [(key, w.second, w.method.reads_features) for key, w in self.ways.items()]
        found = {
            name: helper(pixels, {kind for _, its, kind in readers if its == name and kind})
            for name, helper in self.helpers.items()
        }
        return {key: F.normalize(getattr(found[name], kind), dim=1) for key, name, kind in readers if name and kind}

    def _window(self, way: Reading, pixels: Tensor, found: Mapping[Hashable, Tensor]) -> Window:
        """Collect what a method may read besides CLIP's blocks, except regions."""
        return Window(pixels, way.text.to(pixels.device), way.settings.logit_scale, found.get(way.features))

    def _regions(self, way: Reading, parts: Sequence[tuple[int, WindowPlan, int, int]]) -> tuple[Tensor, int]:
        """Get the region ids of windows, n x rows x columns on the host, from 0 without gaps, and the largest count."""
        maps, patch = self.regions[way.settings.regions], self._patch(way)
        ids, count = dense_ranks(np.concatenate([window_regions(maps[i], p, a, b, patch) for i, p, a, b in parts]))
        return torch.from_numpy(ids), count

    def _patch(self, reading: Reading) -> int:
        """Pixels between neighbouring positions of a reading's logits."""
        return self.helpers[reading.second].patch_size if reading.second else self.encoder.patch_size


def grouped(readings: Sequence[Reading]) -> list[list[int]]:
    """Group the indices of readings that can share encoder passes."""
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
    """Number of windows per encoder pass, each with all its views.

    Ten views fit into the caches of a CPU; sixty keep a GPU busy.
    """
    batch = settings.batch_crops or (60 if device.type == "cuda" else 10)
    return max(1, batch // (VIEWS if settings.img_engineering else 1))


def _passes(plans: Mapping[int, WindowPlan], per_pass: int) -> Iterator[list[Unit]]:
    """Yield the units of each encoder pass; images with windows of the same size share passes."""
    waiting: dict[tuple[int, int], list[Unit]] = {}
    for i, plan in plans.items():
        waiting.setdefault(plan.padded, []).extend((i, window) for window in range(plan.count))
    for windows in waiting.values():
        for start in range(0, len(windows), per_pass):
            yield windows[start : start + per_pass]


def _runs(windows: Sequence[Unit]) -> list[Run]:
    """Merge consecutive (image, window) pairs."""
    runs: list[Run] = []
    for image, window in windows:
        if runs and runs[-1][0] == image:
            runs[-1] = (image, runs[-1][1], window + 1)
        else:
            runs.append((image, window, window + 1))
    return runs
