"""Compute the patch logits of several variants (`itaclip.core.variant`) of the same windows; shared steps run once."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.common.progress import report
from itaclip.core.adaptive import PartialLogits, rounds, view_weights
from itaclip.core.choices import Turns
from itaclip.core.clip.encoded import Needs
from itaclip.core.encoder import DenseEncoder
from itaclip.core.methods import StitchedBlocks, StitchedFeatures, WholeImageMethod, Window
from itaclip.core.query_maps import PatchLogits
from itaclip.core.regions.maps import Ids, dense_ranks, resize_map, window_regions
from itaclip.core.second_encoders import LAST_BLOCK, SecondEncoder
from itaclip.core.settings import Settings
from itaclip.core.stitching import Canvas, image_grid
from itaclip.core.variant import Variant
from itaclip.core.views import VIEWS, make_view, make_views, mix_views, turn_views, turned, view_features, view_maps
from itaclip.core.whole_image import WholeImage, WindowReader, regions_shown
from itaclip.core.windows import WindowPlan, cut_windows
from itaclip.errors import ItaclipError

_LOG = logging.getLogger(__name__)

Run: TypeAlias = tuple[int, int, int]
"""Consecutive windows of one image: index of the image, first window, last window (exclusive)."""

Unit: TypeAlias = tuple[int, int]
"""Unit of a batch: an image and one of its windows or, for a single image, a window and one of its views."""


def shared_logits(
    encoder: DenseEncoder,
    images: Sequence[Tensor],
    plans: Sequence[WindowPlan],
    variants: Sequence[Variant],
    second: Callable[[str], SecondEncoder],
    regions: Mapping[str, Sequence[Ids]],
) -> list[list[PatchLogits]]:
    """Compute the logits of every patch of every window, for variants with equal encoder inputs.

    Windows of different images share a batch if their sizes agree. If a batch does not fit
    into a GPU's memory, it is halved, as are all later ones.

    Args:
        encoder: CLIP's image tower.
        images: each 3 x H x W, normalised.
        plans: the windows of each image.
        variants: the variants.
        second: returns the second encoder with a given name.
        regions: per source, the region map of every image at its size, H x W.

    Returns:
        Per variant and image, those of windows x r x c patches on the method's grid, or of 1 x H x W of
        the whole image for a method that reads whole images; equal variants share them.

    Raises:
        ItaclipError: not even a single window fits into memory.
    """
    shared = _Shared(encoder, images, plans, variants, second, regions)
    whole = isinstance(variants[0].method, WholeImageMethod)
    kept = shared.whole_images() if whole else shared.window_by_window()
    logits = {key: [shared.distinct[key].patch_logits(values) for values in found] for key, found in kept.items()}
    return [logits[variant.logits_key] for variant in variants]


def adaptive_logits(
    encoder: DenseEncoder,
    image: Tensor,
    plan: WindowPlan,
    variant: Variant,
    second: Callable[[str], SecondEncoder],
    regions: Mapping[str, Ids],
) -> Iterator[PartialLogits]:
    """Yield the logits of an image after every round of adaptive inference, see `itaclip.core.adaptive`.

    Args:
        encoder: CLIP's image tower.
        image: 3 x H x W, normalised.
        plan: its windows.
        variant: a variant with image engineering.
        second: returns the second encoder with a given name.
        regions: per source, the image's region map at its size, H x W.

    Raises:
        ItaclipError: as for `shared_logits`.
    """
    return _Shared(encoder, [image], [plan], [variant], second, {k: [v] for k, v in regions.items()}).round_by_round()


class _Shared:
    """The arguments of `shared_logits`, and the steps common to windows, rounds and whole images."""

    def __init__(
        self,
        encoder: DenseEncoder,
        images: Sequence[Tensor],
        plans: Sequence[WindowPlan],
        variants: Sequence[Variant],
        second: Callable[[str], SecondEncoder],
        regions: Mapping[str, Sequence[Ids]],
    ) -> None:
        self.encoder, self.images, self.plans, self.regions = encoder, images, plans, regions
        self.settings = next((r.settings for r in variants if r.settings.img_engineering), variants[0].settings)
        self.views = VIEWS if self.settings.img_engineering else 1
        self.distinct = {variant.logits_key: variant for variant in variants}
        self.by_features = {variant.feature_key: variant for variant in variants}
        self._of_images: dict[tuple[Hashable, int], Tensor] = {}  # `Method.image_feature` by feature key and image
        self.second_encoders = {
            name: second(name) for name in dict.fromkeys(r.second_encoder for r in self.by_features.values()) if name
        }

    def window_by_window(self) -> dict[Hashable, list[Tensor]]:
        """Compute the logits or features of every image, by variant key; each window is read on its own."""
        logits = {
            key: [torch.empty(plan.count, *plan.grid_of(self._patch(variant)), variant.channels, device=image.device)
                  for plan, image in zip(self.plans, self.images, strict=True)]
            for key, variant in self.distinct.items()
        }  # fmt: skip

        def read(runs: Sequence[Run]) -> None:
            pixels, spans = self._pixels(runs), [(i, self.plans[i], a, b) for i, a, b in runs]
            found = self._second_features(pixels)
            windows = []
            for variant in self.by_features.values():
                window = self._window(variant, pixels, found)
                if variant.method.reads_regions:
                    ids, count = self._regions(variant, spans)
                    seen = view_maps(ids, self.settings).to(pixels.device, non_blocking=True)
                    window = replace(window, regions=seen, region_count=count)
                if variant.method.reads_image:
                    window = replace(window, image=self._image_features(variant, runs))
                windows.append((variant.method, window))
            tokens = zip(self.by_features, self.encoder.tokens(pixels, windows), strict=True)
            features = {
                key: view_features(found, len(pixels) // self.views, not self.by_features[key].method.returns_logits)
                for key, found in tokens
            }
            for key, variant in self.distinct.items():
                mixed = mix_views(features[variant.feature_key], variant.text_on(pixels.device), variant.settings)
                for (i, first, end), part in zip(runs, mixed.split([b - a for _, a, b in runs]), strict=True):
                    logits[key][i][first:end] = part

        self._in_batches(_groups(dict(enumerate(self.plans))), lambda units: read(_runs(units)), self._turns())
        return logits

    def round_by_round(self) -> Iterator[PartialLogits]:
        """Yield the logits of one image and one variant after each round. They are updated in place."""
        (plan,), (image,), (variant,) = self.plans, self.images, self.distinct.values()
        text, size = variant.text_on(image.device), plan.grid_of(self._patch(variant))
        logits = torch.zeros(plan.count, VIEWS, *size, variant.channels, device=image.device)
        seen = torch.zeros(plan.count, VIEWS, dtype=torch.bool)

        def read(pairs: Sequence[Unit]) -> None:
            by_view = {view: [w for w, v in pairs if v == view] for view in range(VIEWS)}
            order = [(w, v) for v, windows in by_view.items() for w in windows]
            crops = {v: torch.cat([cut_windows(image, plan, w, w + 1) for w in ws]) for v, ws in by_view.items() if ws}
            pixels = torch.cat([make_view(crop, view, self.settings) for view, crop in crops.items()])
            window = self._window(variant, pixels, self._second_features(pixels))
            if variant.method.reads_regions:
                ids, count = self._regions(variant, [(0, plan, w, w + 1) for w, _ in order])
                seen_ids = torch.stack([turned(one, v, 0) for one, (_, v) in zip(ids, order, strict=True)])
                window = replace(window, regions=seen_ids.to(image.device), region_count=count)
            if variant.method.reads_image:
                of_image = self._image_features(variant, [(0, 0, 1)])
                window = replace(window, image=of_image[:1].expand(len(order), -1))
            (tokens,) = self.encoder.tokens(pixels, [(variant.method, window)])
            found = tokens.float() if variant.method.returns_logits else F.normalize(tokens.float(), dim=-1)
            found = found if text is None else found @ text.T
            for one, (w, v) in zip(found, order, strict=True):
                logits[w, v] = turned(one, v, 0)
                seen[w, v] = True

        weights, turns = view_weights(variant.settings), self._turns()
        for pairs in rounds(plan, weights):
            self._in_batches([pairs], read, turns, VIEWS)
            yield PartialLogits(logits, seen, plan, weights)

    def _image_features(self, variant: Variant, runs: Sequence[Run]) -> Tensor:
        """Compute what a method reads of the whole images of windows, once an image: (V * n) x E."""
        method, found = variant.method, self._of_images
        for i, _, _ in runs:
            if (variant.feature_key, i) not in found:
                size = self.images[i].shape[-2], self.images[i].shape[-1]
                whole = WindowPlan.of(size, 0, 1, self.encoder.patch_size, variant.settings.padding)
                pixels = cut_windows(self.images[i], whole, 0, 1)
                encoded = self.encoder.encode(pixels, method.needs(self.encoder.depth), method.positions)
                found[variant.feature_key, i] = method.image_feature(encoded)
        of_windows = [found[variant.feature_key, i].expand(last - first, -1) for i, first, last in runs]
        return torch.cat(of_windows * self.views)

    def whole_images(self) -> dict[Hashable, list[Tensor]]:
        """Compute the logits or features of every image, by variant key, for methods that read whole images."""
        logits: dict[Hashable, list[Tensor]] = {key: [] for key in self.distinct}
        for i, image in enumerate(self.images):
            tokens = self._whole_image(i)
            for key, variant in self.distinct.items():
                flipped = turn_views(tokens[variant.feature_key][:, None])[:, 0]  # mix_views undoes the flips
                features = view_features(flipped, 1)
                logits[key].append(mix_views(features, variant.text_on(image.device), variant.settings))
        return logits

    def _whole_image(self, i: int) -> dict[Hashable, Tensor]:
        """Read an image: its tokens by feature key, V x H x W x E, no view flipped."""
        if isinstance(next(iter(self.by_features.values())).method, StitchedFeatures):
            return self._stitched_windows(i)
        image, plan, tower = self.images[i], self.plans[i], self.encoder.tower
        features = self._stitched_features(i)
        wholes = {}
        for key, variant in self.by_features.items():
            assert isinstance(variant.method, StitchedBlocks)
            patch = self._patch(variant)
            ids, count = dense_ranks(
                resize_map(self.regions[variant.settings.regions][i], image_grid(plan, patch))[None]
            )
            regions = torch.from_numpy(ids).to(image.device, non_blocking=True).expand(self.views, -1, -1)
            window = replace(self._window(variant, image, features), regions=regions, region_count=count)
            shown = regions_shown(ids[0], plan, tower.patch_size)
            wholes[key] = WholeImage(tower, variant.method, plan, window, patch, shown, self.views > 1)
        needs = Needs()
        for whole in wholes.values():
            needs |= whole.needs
        positions = next(variant.method.positions for variant in self.by_features.values())

        def read(units: Sequence[Unit]) -> None:
            ((_, first, last),) = runs = _runs(units)
            readers = [WindowReader(whole, first, last) for whole in wholes.values()]
            for step in self.encoder.steps(self._pixels(runs), needs, positions):
                for reader in readers:
                    reader.see(step)
            for reader in readers:
                reader.finish()

        self._in_batches(_groups({i: plan}), read)
        return {key: whole.tokens() for key, whole in wholes.items()}

    def _stitched_windows(self, i: int) -> dict[Hashable, Tensor]:
        """Stitch the features of windows, change those of the image, and map them into the joint space."""
        plan, methods = self.plans[i], {}
        for key, variant in self.by_features.items():
            assert isinstance(variant.method, StitchedFeatures)
            methods[key] = variant.method
        canvases = {key: Canvas(plan, self.encoder.patch_size) for key in methods}

        def read(units: Sequence[Unit]) -> None:
            ((_, first, _),) = runs = _runs(units)
            pixels = self._pixels(runs)
            windows = [(m, self._window(self.by_features[key], pixels, {})) for key, m in methods.items()]
            for key, maps in zip(methods, self.encoder.window_features(pixels, windows), strict=True):
                canvases[key].add(turn_views(maps.float().unflatten(0, (self.views, -1))), first)

        self._in_batches(_groups({i: plan}), read)
        return {key: self.encoder.joint(method.whole(canvases[key].mean()), method) for key, method in methods.items()}

    def _stitched_features(self, i: int) -> dict[Hashable, Tensor]:
        """Compute the second encoders' unit features of an image, by feature key: V x C x H x W."""
        plan = self.plans[i]
        read_by = {
            key: (variant.second_encoder, variant.method.reads_features) for key, variant in self.by_features.items()
        }
        asked = {
            (name, kind): self.second_encoders[name].patch_size for name, kind in read_by.values() if name and kind
        }
        canvases = {key: Canvas(plan, patch) for key, patch in asked.items()}

        def read(units: Sequence[Unit]) -> None:
            ((_, first, _),) = runs = _runs(units)
            pixels = self._pixels(runs)
            for name, encoder in self.second_encoders.items():
                found = encoder(pixels, {kind for its, kind in canvases if its == name})
                for (its, kind), canvas in canvases.items():
                    if its == name:
                        maps = getattr(found, kind)
                        maps = maps if kind == LAST_BLOCK else F.normalize(maps, dim=1)
                        canvas.add(turn_views(maps.movedim(1, 3).unflatten(0, (self.views, -1))), first)

        self._in_batches(_groups({i: plan}), read)
        features = {}
        for (name, kind), canvas in canvases.items():
            maps = canvas.mean().movedim(3, 1)
            maps = self.second_encoders[name].run_last_block(maps) if kind == LAST_BLOCK else maps
            features[name, kind] = F.normalize(maps, dim=1)
        return {key: features[name, kind] for key, (name, kind) in read_by.items() if name and kind}

    def _turns(self) -> Turns | None:
        """Let the windows per batch be chosen by what batches take, on a CPU; None where they are set."""
        encoder = self.encoder
        if self.settings.batch_crops or encoder.tower.device.type != "cpu" or encoder.is_compiled or not self.plans:
            return None
        return self.encoder.batch_turns(self.plans[0].padded, self.views)

    def _in_batches(
        self, groups: Iterable[Sequence[Unit]], read: Callable[[Sequence[Unit]], None], turns: Turns | None = None,
        views: int = 1,
    ) -> None:  # fmt: skip
        """Read batch after batch; if one does not fit into a GPU's memory, halve it and all later ones.

        Args:
            groups: units that can share batches: windows with all their views, or single views.
            read: reads a batch.
            turns: chooses the windows per batch; None for `windows_per_batch`.
            views: number of units per window.

        Raises:
            ItaclipError: not even one unit fits.
        """
        encoder, groups, done = self.encoder, list(groups), 0
        total, limit = sum(map(len, groups)), sys.maxsize
        device = next((image.device for image in self.images), torch.device("cpu"))
        for group in groups:
            start = 0
            while start < len(group):
                windows = int(turns.next()) if turns else windows_per_batch(self.settings, device)
                full = min(min(windows, encoder.most_windows or windows) * views, limit)
                units, began = group[start : start + full], time.perf_counter()
                try:
                    read(units)
                except torch.OutOfMemoryError as error:
                    if len(units) == 1:
                        raise ItaclipError(
                            "not even one window fits into the memory of the device; use a smaller slide_crop, bf16, "
                            "or img_engineering=False."
                        ) from error
                    limit = max(1, len(units) // 2)
                    encoder.most_windows = max(1, limit // views)
                    _LOG.warning("%d windows per batch do not fit into memory; %d are taken from now on.",
                                 max(1, len(units) // views), encoder.most_windows)  # fmt: skip
                    continue
                if turns and len(units) == windows * views:
                    turns.add(str(windows), (time.perf_counter() - began) / len(units))
                start, done = start + len(units), done + len(units)
                report("image", done, total)

    def _pixels(self, runs: Sequence[Run]) -> Tensor:
        """Cut windows and make all their views: (V * n) x 3 x h x w."""
        crops = torch.cat([cut_windows(self.images[i], self.plans[i], a, b) for i, a, b in runs])
        return make_views(crops, self.settings)

    def _second_features(self, pixels: Tensor) -> dict[Hashable, Tensor]:
        """Compute the second encoders' unit features, by feature key; each encoder runs once."""
        readers = [(key, w.second_encoder, w.method.reads_features) for key, w in self.by_features.items()]
        found = {
            name: encoder(pixels, {kind for _, its, kind in readers if its == name and kind})
            for name, encoder in self.second_encoders.items()
        }
        return {key: F.normalize(getattr(found[name], kind), dim=1) for key, name, kind in readers if name and kind}

    def _window(self, variant: Variant, pixels: Tensor, found: Mapping[Hashable, Tensor]) -> Window:
        """Collect what a method may read besides CLIP's blocks, except regions."""
        return Window(
            pixels, variant.text.to(pixels.device), variant.settings.logit_scale, found.get(variant.feature_key)
        )

    def _regions(self, variant: Variant, spans: Sequence[tuple[int, WindowPlan, int, int]]) -> tuple[Tensor, int]:
        """Get the region ids of windows, n x rows x columns on the host, from 0 without gaps, and the largest count."""
        maps, patch = self.regions[variant.settings.regions], self._patch(variant)
        ids, count = dense_ranks(np.concatenate([window_regions(maps[i], p, a, b, patch) for i, p, a, b in spans]))
        return torch.from_numpy(ids), count

    def _patch(self, variant: Variant) -> int:
        """Return the pixels between neighbouring positions of a variant's logits."""
        return (
            self.second_encoders[variant.second_encoder].patch_size
            if variant.second_encoder
            else self.encoder.patch_size
        )


def windows_per_batch(settings: Settings, device: torch.device) -> int:
    """Return the number of windows per batch, each with all its views.

    Sixty views keep a GPU busy. Ten are for a CPU where `DenseEncoder.batch_turns` does not choose.
    """
    batch = settings.batch_crops or (60 if device.type == "cuda" else 10)
    return max(1, batch // (VIEWS if settings.img_engineering else 1))


def _groups(plans: Mapping[int, WindowPlan]) -> list[list[Unit]]:
    """List the windows of all images by their size: those of one size can share batches."""
    groups: dict[tuple[int, int], list[Unit]] = {}
    for i, plan in plans.items():
        groups.setdefault(plan.padded, []).extend((i, window) for window in range(plan.count))
    return list(groups.values())


def _runs(windows: Sequence[Unit]) -> list[Run]:
    """Merge consecutive (image, window) pairs."""
    runs: list[Run] = []
    for image, window in windows:
        if runs and runs[-1][0] == image:
            runs[-1] = (image, runs[-1][1], window + 1)
        else:
            runs.append((image, window, window + 1))
    return runs
