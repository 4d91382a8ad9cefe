"""Evaluate many variants of one configuration in one run, sharing all common computation.

Every prompt is encoded once. Variants share views and blocks 1..L-1 if their windows match,
the whole encoder if their methods match, and stitching and PAMR if their logits match. The
results equal those of separate evaluations.
"""

from __future__ import annotations

import itaclip.research.openmmlab  # noqa: F401 - first: it makes mmseg importable, or says what to install

# isort: split

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from mmengine.config import Config

from itaclip.core.clip import load_clip
from itaclip.core.pipeline import Pipeline, Segmentation
from itaclip.core.settings import Settings
from itaclip.core.text import (
    ConfiguredClasses,
    TextBank,
    TextCache,
    TextEncoder,
    build_text_bank,
    read_class_prompts,
)
from itaclip.devices import choose_device
from itaclip.formats.configuration import weights_and_settings
from itaclip.research.evaluation.counts import IoUCounts
from itaclip.research.evaluation.loading import load_batches, plan_batches
from itaclip.research.evaluation.loop import Outcome
from itaclip.research.openmmlab import ITACLIPPreprocessor
from itaclip.research.openmmlab.segmentor import region_maps


class Ablation:
    """Weights, classes and texts shared by all variants of a configuration.

    Args:
        config: a complete configuration.
        cache: features of texts, shared with others; None for a cache of its own, in memory.

    Raises:
        ItaclipError: bad weights, class file, texts or settings.
    """

    def __init__(self, config: Config, cache: TextCache | None = None) -> None:
        model = config.model
        weights, self.base = weights_and_settings(model)
        configured = ConfiguredClasses.of(model, self.base.background)
        classes, self.auxiliary = configured.read()
        self._device = choose_device(self.base.device, self.base.dtype, self.base.engine)
        clip = load_clip(*weights)
        self._banks: dict[tuple[float, str | None, str], TextBank] = {}
        self._pipeline = Pipeline(clip, self.base).to(self._device)
        self._encoder = TextEncoder(clip, cache or TextCache(), self._pipeline.engine).to(self._device)
        self.classes, self.background_choice = configured.with_background_words(self._encoder, classes)
        self._preprocessor = ITACLIPPreprocessor().to(self._device)

    @property
    def blocks(self) -> int:
        """Number of blocks of the image tower."""
        return self._pipeline.encoder.depth

    def bank(self, settings: Settings) -> TextBank:
        """Make the text bank with the settings' weight of auxiliary texts, and their class-biased prompts.

        Raises:
            ItaclipError: bad class-biased prompts.
        """
        key = settings.def_coefficient, settings.class_prompts, settings.templates
        if key not in self._banks:
            prompts = read_class_prompts(settings.class_prompts, self.classes)
            self._banks[key] = build_text_bank(
                self._encoder,
                self.classes,
                self.auxiliary,
                settings.def_coefficient,
                self.base.background,
                prompts,
                settings.templates,
            )
        return self._banks[key]

    def segment(
        self, batch: dict[str, Any], pairs: Sequence[tuple[Settings, TextBank]]
    ) -> Iterator[tuple[int, int, Segmentation]]:
        """Segment a batch with pairs of settings and text bank, at the images' original sizes.

        Args:
            batch: items of an MMSegmentation data set in test mode, as `load_batches` yields them.
            pairs: settings with the configuration's dtype.

        Yields:
            Image, pair and result, see `itaclip.core.pipeline.Pipeline.variants`.
        """
        data = self._preprocessor(batch)
        samples = data["data_samples"]
        sizes = [tuple(sample.metainfo["ori_shape"])[:2] for sample in samples]
        regions = region_maps(self._pipeline, [settings for settings, _ in pairs], data["inputs"], samples)
        yield from self._pipeline.variants(data["inputs"], sizes, pairs, regions)

    def results(self, data: dict[str, Any], variants: Sequence[Settings]) -> list[Segmentation]:
        """Segment one image with several variants, at its original size.

        Args:
            data: an item of an MMSegmentation data set in test mode.
            variants: settings with the configuration's dtype.
        """
        batch = {"inputs": [data["inputs"]], "data_samples": [data["data_samples"]]}
        pairs = [(settings, self.bank(settings)) for settings in variants]
        found = {variant: result for _, variant, result in self.segment(batch, pairs)}
        return [found[i] for i in range(len(variants))]

    def clear_texts(self) -> None:
        """Discard all encoded texts, so that the next run encodes them again."""
        self._banks.clear()
        self._encoder.cache = TextCache()

    def run(
        self,
        dataset: Any,
        variants: Sequence[Settings],
        *,
        batch_size: int = 1,
        num_workers: int = 0,
        limit: int | None = None,
        advance: Callable[[int], None] = lambda _: None,
    ) -> list[Outcome]:
        """Evaluate variants together.

        Args:
            dataset: MMSegmentation data set in test mode.
            variants: settings with the configuration's dtype; equal ones are computed once.
            batch_size: images per batch.
            num_workers: loading processes.
            limit: evaluate only the first images.
            advance: called with the number of images done since the last call.

        Returns:
            An outcome per variant; `seconds` is the same for all, the time of the whole run
            including texts.
        """
        began = time.perf_counter()
        distinct = list(dict.fromkeys(variants))
        pairs = [(settings, self.bank(settings)) for settings in distinct]
        counts = [IoUCounts(len(dataset.metainfo["classes"])) for _ in distinct]
        shared = Outcome(counts[0])
        for batch, skipped in load_batches(dataset, plan_batches(len(dataset), batch_size, limit), num_workers):
            shared.skipped += skipped
            if batch["inputs"]:
                samples = batch["data_samples"]
                for image, variant, result in self.segment(batch, pairs):
                    counts[variant].add(result.labels, samples[image].gt_sem_seg.data[0])
                shared.images += len(samples)
            advance(len(batch["inputs"]) + len(skipped))
        shared.seconds = time.perf_counter() - began
        index = {settings: i for i, settings in enumerate(distinct)}
        return [replace(shared, counts=counts[index[settings]]) for settings in variants]
