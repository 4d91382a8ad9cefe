"""A concept segmenter with the interface of `itaclip.core.pipeline.Pipeline`.

image -> preview -> prompts that stay -> a map each -> the best synonym -> threshold -> labels
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itaclip.common.progress import report
from itaclip.core.concepts.fusion import class_maps, kept_prompts
from itaclip.core.concepts.options import SAM3, Sam3Options, concept_options
from itaclip.core.concepts.sam3 import EncodedImage, Prompts, Sam3
from itaclip.core.decision import decide
from itaclip.core.encoder import DTYPES
from itaclip.core.pamr import pamr
from itaclip.core.pipeline import Pipeline, Segmentation, correction
from itaclip.core.query_maps import ready_maps
from itaclip.core.regions import RegionMap, RegionSource
from itaclip.core.scores import KEPT, Kept
from itaclip.core.settings import Settings
from itaclip.core.text import TextBank, TextCache
from itaclip.core.windows import WindowPlan
from itaclip.errors import ItaclipError


class ConceptPipeline(Pipeline):
    """SAM 3 in the place of CLIP: the same calls, the same results.

    Of the settings, those of the decision apply (`prob_thd`, `area_thd`, `closing`, `map_correction`), PAMR,
    `dtype`, `device`, and `method_options` with the fields of `Sam3Options`. Windows, views, texts and
    the softmax belong to CLIP and have no effect.

    Args:
        model: SAM 3.
        settings: with ``method="sam3"``.

    Raises:
        ItaclipError: another method, or int8, another engine or torch.compile.
    """

    def __init__(self, model: Sam3, settings: Settings) -> None:
        nn.Module.__init__(self)
        for name, expected in (("engine", "torch"), ("compile", False)):
            if getattr(settings, name) not in (expected, "auto"):
                raise ItaclipError(f"{name} = {getattr(settings, name)!r}: SAM 3 runs with {expected!r} alone.")
        if settings.dtype not in DTYPES:
            raise ItaclipError(f"dtype = {settings.dtype!r}: SAM 3 runs in {', '.join(DTYPES)}.")
        self.settings = settings
        self.engine, self.choices = "torch", {}
        self.encoder = model.lower(settings.dtype)  # type: ignore[assignment]
        self._options(settings)
        self._prompts = lru_cache(maxsize=16)(self._encoded)
        self._sources: dict[str, RegionSource] = {}

    @torch.no_grad()
    def forward(
        self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]], bank: TextBank,
        regions: Mapping[str, Sequence[RegionMap]] | None = None, scores: Kept = KEPT,
    ) -> list[Segmentation]:  # fmt: skip
        """Segment images one after the other; see `Pipeline.forward`.

        Of the bank, only the words are read: its classes with their synonyms are the prompts.
        """
        return [found for _, _, found in self.variants(images, sizes, [(self.settings, bank)], regions, scores)]

    @torch.no_grad()
    def variants(
        self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]],
        variants: Sequence[tuple[Settings, TextBank]], regions: Mapping[str, Sequence[RegionMap]] | None = None,
        scores: Kept = KEPT,
    ) -> Iterator[tuple[int, int, Segmentation]]:  # fmt: skip
        """Segment images under several settings; see `Pipeline.variants`. Each image is encoded once."""
        given = regions or {}
        for n, (image, size) in enumerate(zip(images, sizes, strict=True)):
            encoded: EncodedImage | None = None
            for i, (settings, bank) in enumerate(variants):
                options, names = self._options(settings), bank.class_names
                encoded = encoded or self.encoder.encode_image(image)  # type: ignore[operator]
                maps, chosen = self._maps(image, encoded, self._prompts(tuple(names.queries)), options)
                of_classes = class_maps(maps, chosen, names.queries_per_class)
                of_pixels = F.interpolate(of_classes[None], size=size, mode="bilinear", align_corners=False)[0]
                of_image = {source: maps_of[n] for source, maps_of in given.items()}
                yield n, i, _segmentation(of_pixels, image, len(chosen), settings, scores, of_image)

    def plan(self, image: Tensor, settings: Settings | None = None) -> WindowPlan:
        """Refuse: there are no windows.

        Raises:
            ItaclipError: always.
        """
        raise ItaclipError("SAM 3 sees whole images, at 1008 x 1008 pixels: it has no windows; load a CLIP for this.")

    def _maps(
        self, image: Tensor, encoded: EncodedImage, prompts: Prompts, options: Sam3Options
    ) -> tuple[Tensor, Tensor]:
        """Decode the prompts that the image may show: T' x h x w, and their indices."""
        model: Sam3 = self.encoder  # type: ignore[assignment]
        bucket = options.bucket or (32 if self._device.type == "cuda" else 4)
        chosen = torch.arange(len(prompts), device=self._device)
        if options.preview and len(prompts) > options.preview_most:
            small = model.encode_preview(image, options.preview_side)
            seen = [model.presence(small, prompts[start : start + bucket]) for start in range(0, len(prompts), bucket)]
            chosen = kept_prompts(torch.cat(seen), options.preview_share, options.preview_most)
        kept, found = prompts[chosen], []
        for start in range(0, len(kept), bucket):
            found.append(model.maps(encoded, kept[start : start + bucket], options.confidence))
            report("image", min(start + bucket, len(kept)), len(kept))
        return torch.cat(found), chosen

    def _encoded(self, queries: tuple[str, ...]) -> Prompts:
        found: Prompts = self.encoder.encode_prompts(queries)  # type: ignore[operator]
        return found

    def _options(self, settings: Settings) -> Sam3Options:
        if settings.method != SAM3:
            raise ItaclipError(
                f"method = {settings.method!r}: it reads a CLIP, but SAM 3 is loaded; load a CLIP, or leave method out."
            )
        if settings.dtype != self.settings.dtype:
            raise ItaclipError(f"dtype = {settings.dtype!r}: the model was loaded with {self.settings.dtype!r}.")
        return concept_options(SAM3, dict(settings.method_options))

    def settle(self, bank: TextBank) -> None:
        """Do nothing: nothing is chosen by measuring."""

    @property
    def dtype(self) -> str:
        return self.settings.dtype

    @property
    def _device(self) -> torch.device:
        return self.encoder.device  # type: ignore[return-value]


def _segmentation(
    scores: Tensor, image: Tensor, passes: int, settings: Settings, kept: Kept, regions: Mapping[str, RegionMap]
) -> Segmentation:
    """Refine and decide the scores of classes, K x H x W, as `Pipeline` does after the softmax."""
    size = (scores.shape[1], scores.shape[2])
    if settings.pamr_steps:
        guide = F.interpolate(image[None].float(), size=size, mode="bilinear", align_corners=False)[0]
        scores = pamr(scores, guide, settings.pamr_steps, settings.pamr_stride)
    maps, corrected = ready_maps(scores, [1] * len(scores)), correction(regions, settings, len(scores))
    labels, found = decide(maps, settings, kept, corrected, softmax=False)
    return Segmentation(labels, found, passes)


class PromptWords(nn.Module):
    """What stands in the place of CLIP's text tower: SAM 3 reads the words themselves, so features are empty.

    Args:
        model: SAM 3.
    """

    def __init__(self, model: Sam3) -> None:
        super().__init__()
        self.cache = TextCache()  # in memory: nothing to keep
        self.fingerprint = model.name
        self._model = (model,)  # not registered: its weights are the pipeline's

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self._model[0].device

    def release(self) -> None:
        """There is nothing to free."""

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Return len(prompts) x 0 float32."""
        return torch.empty(len(prompts), 0)
