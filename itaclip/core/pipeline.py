"""The pipeline: from normalised images and a text bank to label maps.

image -> windows -> views -> tokens -> logits -> stitching -> refinement -> labels
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from itaclip.core.adaptive import PartialLogits
from itaclip.core.aliases import class_logits
from itaclip.core.choices import recording
from itaclip.core.clip.towers import as_tower
from itaclip.core.decision import decide, label_map, rank_kept
from itaclip.core.encoder import DenseEncoder
from itaclip.core.engines.calibration import comparison_images
from itaclip.core.engines.select import agreeing, choose_kernels, on_engine
from itaclip.core.images import normalise
from itaclip.core.methods import METHODS, WholeImageMethod
from itaclip.core.pamr import Refinement
from itaclip.core.patch_logits import adaptive_logits, shared_logits
from itaclip.core.query_maps import PatchLogits, QueryMaps
from itaclip.core.regions import RegionMap, RegionSource, map_correction, region_source
from itaclip.core.regions.maps import Ids, resize_map
from itaclip.core.scores import KEPT, Kept, Scores, renumbered
from itaclip.core.second_encoders import SecondEncoder, load_second_encoder
from itaclip.core.settings import Settings
from itaclip.core.shortlist import restricted, shortlist
from itaclip.core.text import TextBank
from itaclip.core.variant import Variant, grouped
from itaclip.core.views import VIEWS
from itaclip.core.windows import WindowPlan
from itaclip.errors import ItaclipError

_LOG = logging.getLogger(__name__)

_Map = TypeVar("_Map", bound=Ids)

_LEARNED_BY_CLIP = 100.0
"""Inverse temperature of OpenAI's CLIP, to which the published values of `logit_scale` refer."""


@dataclass(frozen=True)
class Segmentation:
    """Result for one image.

    Attributes:
        labels: H x W int64 class ids.
        scores: class scores; h x w is H x W.
        passes: number of encoded pairs of window and view.
    """

    labels: Tensor
    scores: Scores[Tensor]
    passes: int


class Pipeline(nn.Module):
    """Image tower and settings; stateless except for its weights.

    Args:
        clip: from `itaclip.core.clip.load_clip`; only the image tower and the learned temperature are kept.
        settings: how to run it. With ``dtype="auto"``, the first class list decides, see `settle`.

    Attributes:
        engine: "torch" or "openvino", as chosen.
        choices: what was chosen by measuring, as `itaclip.core.choices.follow` takes it.
    """

    def __init__(self, clip: Any, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        tower = as_tower(clip.visual)
        method = settings.resolved_method(tower.depth, tower.resampling)
        if METHODS[settings.method].for_depth(tower.depth) != METHODS[settings.method]:
            _LOG.info("%s: its layers were scaled to %d blocks in proportion; no publication has tested this.",
                      settings.method, tower.depth)  # fmt: skip
        self.encoder = DenseEncoder(clip.visual, method)
        self.choices: dict[str, str] = {}
        self._settled = settings.dtype != "auto"
        with recording(self.choices):
            self.engine = on_engine(self.encoder, settings) if self._settled else "torch"
        self._temperature = 1.0 if clip.logit_bias is None else float(clip.logit_scale.exp()) / _LEARNED_BY_CLIP
        if settings.compile:
            self.encoder.compiled()
            if isinstance(method, WholeImageMethod):
                _LOG.info("compile = True: %s goes through the blocks one by one, which is not compiled.",
                          settings.method)  # fmt: skip
        self._second: dict[tuple[str, str], SecondEncoder] = {}  # by name and precision
        self._sources: dict[str, RegionSource] = {}

    @torch.no_grad()
    def settle(self, bank: TextBank) -> None:
        """Choose now what is otherwise chosen at the first image, by measuring or as the run that is followed.

        Args:
            bank: the classes whose labels have to agree, with ``dtype="auto"``. The first ones decide for all.

        Raises:
            ItaclipError: OpenVINO is requested but not installed, or there is no image to compare.
        """
        self._choose_precision(bank)
        with recording(self.choices):
            choose_kernels(self.encoder, self.settings)

    def _choose_precision(self, bank: TextBank) -> None:
        if self._settled:
            return
        self._settled = True  # `labels` segments, and asks nothing of this again
        try:
            self._measure_precision(bank)
        except BaseException:
            self._settled = False  # the next call must not take fp32 for the answer
            raise

    def _measure_precision(self, bank: TextBank) -> None:
        """Take the fastest engine and precision whose labels agree."""
        images = comparison_images(self.settings, self.encoder.image_size)
        tensors, sizes = [normalise(image) for image in images], [image.shape[:2] for image in images]

        settings = self.settings.changed(prob_thd=0.0, area_thd=None, peak_thd=0.0)  # a background hides differences

        def labels(encoder: DenseEncoder) -> Tensor:
            own, self.encoder = self.encoder, encoder
            try:
                regions = self.region_maps([settings], images, [None] * len(images))
                found = self.variants(tensors, sizes, [(settings, bank)], regions, 1)
                return torch.cat([result.labels.flatten() for _, _, result in found])
            finally:
                self.encoder = own

        words = hashlib.sha256(json.dumps(bank.class_names.synonyms).encode()).hexdigest()[:16]
        with recording(self.choices):
            engine, dtype = agreeing(self.encoder, self.settings, {"classes": words}, labels)
            self.engine = on_engine(self.encoder, self.settings.changed(engine=engine, dtype=dtype))

    @torch.no_grad()
    def forward(
        self,
        images: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        bank: TextBank,
        regions: Mapping[str, Sequence[RegionMap]] | None = None,
        scores: Kept = KEPT,
    ) -> list[Segmentation]:
        """Segment a batch of images of any sizes.

        Args:
            images: each 3 x h x w float32 RGB, normalised with `MEAN` and `STD`.
            sizes: original height and width of each image; the results have these sizes.
            bank: the classes.
            regions: from `region_maps`, for settings that read region maps.
            scores: which class scores to keep.

        Raises:
            ItaclipError: an image is empty or does not have 3 channels, or region maps are
                needed but missing.
        """
        self._choose_precision(bank)
        variant = self._variant(self.settings, bank)
        plans = [self.plan(image, variant.settings) for image in images]
        given = _checked_regions([variant], regions)
        at_input = _at_input(given, images)
        if variant.settings.tolerance:
            found = (
                self._adaptive(variant, bank, image, plan, size, _of_image(at_input, n))
                for n, (image, plan, size) in enumerate(zip(images, plans, sizes, strict=True))
            )
        else:
            (logits,) = shared_logits(self.encoder, images, plans, [variant], self.second_encoder, at_input)
            found = ((of_image, _passes(plan, variant.settings)) for of_image, plan in zip(logits, plans, strict=True))
        results = []
        for n, (image, plan, size, (of_image, passes)) in enumerate(zip(images, plans, sizes, found, strict=True)):
            refinement = _refinement(image, size, variant.settings)
            maps = _chosen_maps(variant, of_image, plan, size, bank, refinement)
            results.append(_decide(maps, passes, variant.settings, bank, scores, _of_image(given, n)))
        return results

    @torch.no_grad()
    def variants(
        self,
        images: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        variants: Sequence[tuple[Settings, TextBank]],
        regions: Mapping[str, Sequence[RegionMap]] | None = None,
        scores: Kept = KEPT,
    ) -> Iterator[tuple[int, int, Segmentation]]:
        """Segment a batch under several settings like `forward`, doing common steps once.

        Args:
            images: as for `forward`.
            sizes: as for `forward`.
            variants: settings, all with the pipeline's dtype, and the classes of each.
            regions: as for `forward`, for the settings of all variants.
            scores: as for `forward`.

        Yields:
            Index of the image, index of the variant, and the result; image by image, with
            variants that share most next to each other.

        Raises:
            ItaclipError: as for `forward`, or another dtype.
        """
        banks = [bank for _, bank in variants]
        self._choose_precision(banks[0])
        found = [self._variant(settings, bank) for settings, bank in variants]
        plans = [[self.plan(image, variant.settings) for image in images] for variant in found]
        given = _checked_regions(found, regions)
        at_input = _at_input(given, images)
        logits: dict[int, list[PatchLogits]] = {}
        complete = [i for i, variant in enumerate(found) if not variant.settings.tolerance]
        for group in grouped([found[i] for i in complete]):
            numbers = [complete[i] for i in group]
            of_group = [found[i] for i in numbers]
            shared = shared_logits(
                self.encoder, images, plans[numbers[0]], of_group, self.second_encoder, at_input
            )  # fmt: skip
            logits |= dict(zip(numbers, shared, strict=True))
        for n, (image, size) in enumerate(zip(images, sizes, strict=True)):
            of_regions = _of_image(given, n)
            refinements: dict[Hashable, Refinement | None] = {}
            alike: dict[int, list[int]] = {}  # variants by the logits that they share
            for i, of_variant in logits.items():
                alike.setdefault(id(of_variant[n]), []).append(i)
            for numbers in alike.values():
                refined: dict[Hashable, tuple[QueryMaps, list[int] | None]] = {}
                for i in numbers:
                    settings, plan = found[i].settings, plans[i][n]
                    key = settings.pamr_steps, settings.pamr_stride if settings.pamr_steps else None
                    if key not in refinements:
                        refinements[key] = _refinement(image, size, settings)
                    of_maps = key, _choice_key(settings)
                    if of_maps not in refined:
                        refined[of_maps] = _chosen_maps(
                            found[i], logits[i][n], plan, size, banks[i], refinements[key]
                        )  # fmt: skip
                    passes = _passes(plan, settings)
                    yield n, i, _decide(refined[of_maps], passes, settings, banks[i], scores, of_regions)
            for i, variant in enumerate(found):
                if variant.settings.tolerance:
                    of_input = _of_image(at_input, n)
                    of_image, passes = self._adaptive(variant, banks[i], image, plans[i][n], size, of_input)
                    refinement = _refinement(image, size, variant.settings)
                    maps = _chosen_maps(variant, of_image, plans[i][n], size, banks[i], refinement)
                    yield n, i, _decide(maps, passes, variant.settings, banks[i], scores, of_regions)

    def _adaptive(
        self, variant: Variant, bank: TextBank, image: Tensor, plan: WindowPlan, size: tuple[int, int],
        regions: Mapping[str, Ids],
    ) -> tuple[PatchLogits, int]:  # fmt: skip
        """Compute the logits of the round after which the labels hardly change, and the passes."""
        rounds = adaptive_logits(self.encoder, image, plan, variant, self.second_encoder, regions)
        return _until_settled(rounds, size, variant, bank)

    def patch_logits(self, images: Sequence[Tensor], bank: TextBank) -> list[Tensor]:
        """Compute the logits of every patch, for methods without regions: per image, windows x r x c x Q."""
        plans = [self.plan(image) for image in images]
        variant = self._variant(self.settings, bank)
        (found,) = shared_logits(self.encoder, images, plans, [variant], self.second_encoder, {})
        return [patches.logits() for patches in found]

    def region_maps(
        self, variants: Sequence[Settings], images: Sequence[NDArray[np.uint8]], names: Sequence[str | None]
    ) -> dict[str, list[RegionMap]]:
        """Get the region maps that the settings need; empty if none need any.

        Args:
            variants: the settings.
            images: each H x W x 3 uint8 RGB, at its own size.
            names: their paths, by which a folder of masks is searched.

        Raises:
            ItaclipError: a source is unknown, or has no map for an image.
        """
        needed = dict.fromkeys(settings.regions for settings in variants if settings.reads_regions)
        for spec in needed:
            if spec not in self._sources:
                self._sources[spec] = region_source(spec, device=str(self._device))
        return {
            spec: [self._sources[spec](image, name) for image, name in zip(images, names, strict=True)]
            for spec in needed
        }

    def second_encoder(self, name: str) -> SecondEncoder:
        """Get a second encoder on the pipeline's device, loaded on first use.

        Raises:
            ItaclipError: the weights are not available.
        """
        dtype = "bf16" if self.dtype == "int8" else self.dtype
        if (name, dtype) not in self._second:
            self._second[name, dtype] = load_second_encoder(name, dtype=dtype, device=self._device)
        return self._second[name, dtype]

    @property
    def dtype(self) -> str:
        """Precision of the image tower, as chosen; "fp32" until then."""
        return self.encoder.precision

    @property
    def chosen(self) -> Settings:
        """The settings, with engine and precision named once `dtype` "auto" is settled."""
        if self.settings.dtype != "auto" or not self._settled:
            return self.settings
        return self.settings.changed(engine=self.engine, dtype=self.dtype)

    @property
    def _device(self) -> torch.device:
        return self.encoder.tower.device

    def at_temperature(self, settings: Settings) -> Settings:
        """Scale a sigmoid model's `logit_scale` in proportion to the temperature it learned.

        The softmax over queries makes its scores comparable with those of other models; the
        bias, which all queries share, cancels out.
        """
        if self._temperature == 1:
            return settings
        return settings.changed(logit_scale=settings.logit_scale * self._temperature)

    def _variant(self, settings: Settings, bank: TextBank) -> Variant:
        settings = self.at_temperature(settings)
        for name in ("dtype", "engine", "calibration"):
            given, loaded = getattr(settings, name), getattr(self.settings, name)
            if given != loaded:
                raise ItaclipError(f"{name} = {given!r}: the encoder was loaded with {loaded!r}.")
        tower = self.encoder.tower
        method = settings.resolved_method(tower.depth, tower.resampling)
        tower.check_projection(method.patch_projection)
        tower.check_head(method.reads_head)
        return Variant(settings, method, bank.features, self._multiple(settings))

    def _multiple(self, settings: Settings) -> int:
        """Return the number of pixels whose multiples are whole patches of every encoder that reads the windows."""
        patch = self.encoder.patch_size
        if not METHODS[settings.method].reads_features:
            return patch
        return math.lcm(patch, self.second_encoder(settings.second_encoder).patch_size)

    def plan(self, image: Tensor, settings: Settings | None = None) -> WindowPlan:
        """Plan the windows of an image, 3 x H x W, for the settings (by default the pipeline's own)."""
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise ItaclipError(f"image of shape {tuple(image.shape)}: expected 3 x height x width, not empty.")
        settings = settings or self.settings
        return WindowPlan.of(
            (image.shape[1], image.shape[2]), settings.slide_crop, settings.slide_stride, self.encoder.patch_size,
            settings.padding, self._multiple(settings),
        )  # fmt: skip


def _checked_regions(
    variants: Sequence[Variant], regions: Mapping[str, Sequence[RegionMap]] | None
) -> Mapping[str, Sequence[RegionMap]]:
    """Check that the region maps of all variants are given, by source."""
    given = regions or {}
    missing = {variant.settings.regions for variant in variants if variant.settings.reads_regions} - set(given)
    if missing:
        raise ItaclipError(f"regions of {', '.join(missing)} are read; pass those of region_maps().")
    return given


def _at_input(
    regions: Mapping[str, Sequence[RegionMap]], images: Sequence[Tensor]
) -> dict[str, list[Ids]]:  # fmt: skip
    """Resize the region maps, by source, to the images as CLIP gets them."""
    return {
        source: [resize_map(one, (image.shape[1], image.shape[2])) for one, image in zip(maps, images, strict=True)]
        for source, maps in regions.items()
    }


def _of_image(regions: Mapping[str, Sequence[_Map]], number: int) -> dict[str, _Map]:
    """Return the region maps of one image, by source."""
    return {source: maps[number] for source, maps in regions.items()}


def _maps(
    variant: Variant, patches: PatchLogits, plan: WindowPlan, size: tuple[int, int], counts: Sequence[int],
    refinement: Refinement | None = None,
) -> QueryMaps:  # fmt: skip
    """Make the maps of an image's queries from the logits of its windows."""
    if isinstance(variant.method, WholeImageMethod):  # one map, stretched over the image
        plan = WindowPlan.of((plan.rows.size, plan.columns.size), 0, 1, patch=1)
    return QueryMaps(patches, plan, size, counts, refinement)


def _chosen_maps(
    variant: Variant, patches: PatchLogits, plan: WindowPlan, size: tuple[int, int], bank: TextBank,
    refinement: Refinement | None,
) -> tuple[QueryMaps, list[int] | None]:  # fmt: skip
    """Make the maps of the queries that the settings choose, and the ids of their classes; None for all classes."""
    settings = variant.settings
    counts: Sequence[int] = bank.class_names.queries_per_class
    most = settings.shortlist
    if settings.alias_temperature is not None:
        patches = class_logits(
            patches, counts, settings.logit_scale, settings.alias_temperature, settings.alias_sharpness
        )  # fmt: skip
        counts = [1] * len(counts)
    if most is None or most >= len(counts):
        return _maps(variant, patches, plan, size, counts, refinement), None
    chosen = shortlist(patches, counts, settings.logit_scale, most)
    patches = restricted(patches, counts, chosen)
    return _maps(variant, patches, plan, size, [counts[number] for number in chosen], refinement), chosen


def _choice_key(settings: Settings) -> Hashable:
    """Variants with equal logits, refinement and keys have equal maps."""
    weighted = settings.alias_temperature is not None
    return (settings.shortlist, settings.alias_temperature, settings.alias_sharpness if weighted else None,
            settings.logit_scale if weighted or settings.shortlist else None)  # fmt: skip


def _passes(plan: WindowPlan, settings: Settings) -> int:
    return plan.count * (VIEWS if settings.img_engineering else 1)


def _until_settled(
    rounds: Iterator[PartialLogits], size: tuple[int, int], variant: Variant, bank: TextBank
) -> tuple[PatchLogits, int]:
    """Take the first round that changes at most `settings.tolerance` of the labels, or the last one.

    Labels are compared before refinement and at a quarter of the size, so that a round costs
    little more than its passes.

    Returns:
        The logits of every window, and the number of passes.
    """
    coarse = -(-size[0] // 4), -(-size[1] // 4)
    open_maps = variant.settings.changed(closing=False)
    before: Tensor | None = None
    for found in rounds:
        mixed = variant.patch_logits(found.mixed())
        maps = _maps(variant, mixed, found.plan, coarse, bank.class_names.queries_per_class)
        ranking = rank_kept(maps, open_maps.logit_scale, open_maps, 1)
        labels = label_map(ranking.classes[0], ranking.scores(ranking.logits[0]), open_maps)
        # waits for the GPU, once per round
        changed = 1.0 if before is None else float((labels != before).float().mean())
        if changed <= open_maps.tolerance:
            break
        before = labels
    return mixed, found.passes


def _decide(
    chosen: tuple[QueryMaps, list[int] | None], passes: int, settings: Settings, bank: TextBank, scores: Kept,
    regions: Mapping[str, RegionMap],
) -> Segmentation:  # fmt: skip
    """Compute scores and labels from the refined maps of the queries."""
    maps, numbers = chosen
    labels, found = decide(maps, settings, scores, correction(regions, settings, maps.classes))
    if numbers is not None:
        ids = torch.tensor(numbers, device=labels.device)
        labels, found = ids[labels], renumbered(found, ids, bank.num_classes)
    return Segmentation(labels, found, passes)


def correction(
    regions: Mapping[str, RegionMap], settings: Settings, classes: int
) -> Callable[[Tensor], Tensor] | None:  # fmt: skip
    """Make what corrects a label map by the regions of an image; None if the settings have it off."""
    if not settings.map_correction:
        return None

    def corrected(labels: Tensor) -> Tensor:
        ids = resize_map(regions[settings.regions], (labels.shape[0], labels.shape[1]))
        moved = torch.from_numpy(np.ascontiguousarray(ids)).to(labels.device, non_blocking=True)
        return map_correction(labels, moved, classes, int(ids.max()))

    return corrected


def _refinement(image: Tensor, size: tuple[int, int], settings: Settings) -> Refinement | None:
    """PAMR along the edges of the image, which is resized to the maps; None if the settings have it off."""
    if not settings.pamr_steps:
        return None
    guide = F.interpolate(image[None].float(), size=size, mode="bilinear", align_corners=False)[0]
    return Refinement(guide, settings.pamr_steps, settings.pamr_stride)
