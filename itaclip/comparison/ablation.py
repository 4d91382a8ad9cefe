"""Many variants of one configuration in one run, doing once what they have in common.

Every prompt is encoded once. Variants share views and blocks 1..L-1 when their windows
agree, the whole encoder when their method agrees, stitching and PAMR when their logits
agree. Each gives what a separate evaluation of its settings gives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from mmengine.config import Config

from itaclip.clip import load_clip
from itaclip.configuration import weights_and_settings
from itaclip.core.pipeline import Pipeline, Segmentation
from itaclip.core.settings import Settings
from itaclip.devices import choose_device
from itaclip.evaluation.counts import IoUCounts
from itaclip.evaluation.loading import load_batches, plan_batches
from itaclip.evaluation.loop import Outcome
from itaclip.openmmlab import ITACLIPPreprocessor
from itaclip.openmmlab.segmentor import region_maps
from itaclip.text import TextBank, TextCache, TextEncoder, build_text_bank, read_texts


class Ablation:
    """What all variants of a configuration share: weights, classes, texts.

    Args:
        config: a whole configuration.

    Raises:
        ItaclipError: bad weights, class file, texts or settings.
    """

    def __init__(self, config: Config) -> None:
        model = config.model
        weights, self.base = weights_and_settings(model)
        texts = model.get("auxiliary_text_path")
        self.classes, self.auxiliary = read_texts(model.name_path, texts, self.base.background)
        self._device = choose_device(self.base.device, self.base.dtype, self.base.engine)
        clip = load_clip(*weights)
        self._banks: dict[float, TextBank] = {}
        self._pipeline = Pipeline(clip, self.base).to(self._device)
        self._encoder = TextEncoder(clip, TextCache(), self._pipeline.engine).to(self._device)
        self._preprocessor = ITACLIPPreprocessor().to(self._device)

    @property
    def blocks(self) -> int:
        """Blocks of the image tower."""
        return self._pipeline.encoder.depth

    def bank(self, coefficient: float) -> TextBank:
        """The text bank with auxiliary texts of a weight."""
        if coefficient not in self._banks:
            self._banks[coefficient] = build_text_bank(
                self._encoder, self.classes, self.auxiliary, coefficient, self.base.background
            )
        return self._banks[coefficient]

    def results(self, data: dict[str, Any], variants: Sequence[Settings]) -> list[Segmentation]:
        """One image segmented by several variants, at its original size.

        Args:
            data: an entry of MMSegmentation's data set, in test mode.
            variants: settings of the configuration's dtype.
        """
        batch = self._preprocessor({"inputs": [data["inputs"]], "data_samples": [data["data_samples"]]})
        samples = batch["data_samples"]
        size = tuple(samples[0].metainfo["ori_shape"])[:2]
        regions = region_maps(self._pipeline, variants, batch["inputs"], samples)
        pairs = [(settings, self.bank(settings.def_coefficient)) for settings in variants]
        found = {v: result for _, v, result in self._pipeline.variants(batch["inputs"], [size], pairs, regions)}
        return [found[place] for place in range(len(variants))]

    def forget(self) -> None:
        """Drop all texts, so that the next run starts as from nothing."""
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
            dataset: MMSegmentation's, in test mode.
            variants: settings of the configuration's dtype; equal ones are computed once.
            batch_size: images per step.
            num_workers: loading processes.
            limit: only the first images.
            advance: told how many images were done.

        Returns:
            Per variant; all tell the same seconds, those of the whole run with its texts.
        """
        began = time.perf_counter()
        distinct = list(dict.fromkeys(variants))
        pairs = [(settings, self.bank(settings.def_coefficient)) for settings in distinct]
        counts = [IoUCounts(len(dataset.metainfo["classes"])) for _ in distinct]
        shared = Outcome(counts[0])
        for batch, skipped in load_batches(dataset, plan_batches(len(dataset), batch_size, limit), num_workers):
            shared.skipped += skipped
            if batch["inputs"]:
                data = self._preprocessor(batch)
                samples = data["data_samples"]
                sizes = [tuple(sample.metainfo["ori_shape"])[:2] for sample in samples]
                regions = region_maps(self._pipeline, distinct, data["inputs"], samples)
                results = self._pipeline.variants(data["inputs"], sizes, pairs, regions)
                for image, variant, result in results:
                    counts[variant].add(result.labels, samples[image].gt_sem_seg.data[0])
                shared.images += len(samples)
            advance(len(batch["inputs"]) + len(skipped))
        shared.seconds = time.perf_counter() - began
        place = {settings: i for i, settings in enumerate(distinct)}
        return [replace(shared, counts=counts[place[settings]]) for settings in variants]
