"""`ITACLIPSegmentor`: the pipeline as an MMSegmentation segmentor."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from mmengine.structures import PixelData
from mmseg.models.segmentors import BaseSegmentor
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from itaclip.common.figures.palette import palette
from itaclip.common.images import ReadOptions
from itaclip.core.concepts.options import is_concept_model
from itaclip.core.images import denormalise
from itaclip.core.models import build_parts, load_model
from itaclip.core.pipeline import Pipeline
from itaclip.core.regions import RegionMap
from itaclip.core.scores import Kept
from itaclip.core.settings import Settings, checked_names, implied_background
from itaclip.core.text import (
    ConfiguredClasses,
    TextBank,
    TextCache,
    build_text_bank,
    default_folder,
    read_class_prompts,
)
from itaclip.devices import choose_device
from itaclip.errors import ItaclipError
from itaclip.research.openmmlab.loading import image_as_loaded
from itaclip.research.openmmlab.preprocessor import ITACLIPPreprocessor

_LOG = logging.getLogger(__name__)


@MODELS.register_module(name=["ITACLIPSegmentor", "ITACLIP_Segmentor"])
class ITACLIPSegmentor(BaseSegmentor):
    """Training-free open-vocabulary segmentor (ITACLIP, CVPRW 2025).

    The arguments keep the names of published configurations, so these can be ported line by line.

    Args:
        model_name: CLIP model or weight file, or ``"sam3"``; see `itaclip.core.models.load_model`.
        pretrained: open_clip tag or weight path for a named model; None selects OpenAI's weights,
            or the only ones there are.
        quick_gelu: overrides the activation function that the weights imply.
        name_path: class file, one class per line, synonyms separated by ", ".
        auxiliary_text_path: file of definitions or synonyms, one ``name >=text`` per line; None for none.
        background_words: None for the words of the class file, or "auto" to have them chosen, see
            `itaclip.core.text.ConfiguredClasses`.
        lexicon: file of words from which "auto" chooses; None for the shipped one.
        distractors: words that follow the class file as further classes, which no mask contains.
        text_cache: whether to keep text features on disk, see `itaclip.core.text.TextCache`.
        data_preprocessor: None builds `ITACLIPPreprocessor`.
        dataset_name: found in published configurations; it determines whether there is a background:
            yes for voc21, context60 and coco_object, no for coco_stuff and cityscapes.
        width_chunk_size: found in published configurations; ignored, because memory is bounded without it.
        train_cfg: passed by MMSegmentation's builders; ignored, because nothing is trained.
        test_cfg: passed by MMSegmentation's builders; ignored, because windows are part of the settings.
        settings: fields of `itaclip.core.settings.Settings`.

    Raises:
        ItaclipError: bad weights, class file, texts or settings.
    """

    def __init__(
        self,
        name_path: str | Path,
        model_name: str = "ViT-B/16",
        pretrained: str | None = None,
        quick_gelu: bool | None = None,
        auxiliary_text_path: str | Path | None = None,
        background_words: str | None = None,
        lexicon: str | Path | None = None,
        distractors: Sequence[str] = (),
        text_cache: bool = True,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
        dataset_name: str | None = None,
        width_chunk_size: int | None = None,
        train_cfg: dict[str, Any] | None = None,
        test_cfg: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        # built here because BaseModel would look it up outside MMSegmentation's scope
        preprocessor = MODELS.build(data_preprocessor) if data_preprocessor else ITACLIPPreprocessor()
        super().__init__(preprocessor, init_cfg)
        if width_chunk_size is not None:
            _LOG.info("width_chunk_size is accepted for compatibility with published configurations and ignored.")
        self.settings = Settings(**checked_names(implied_background(dataset_name, settings)))
        background = self.settings.background
        configured = ConfiguredClasses(
            name_path, auxiliary_text_path, background, background_words, lexicon, tuple(distractors)
        )
        classes, auxiliary = configured.read()
        device = choose_device(self.settings.device, self.settings.dtype, self.settings.engine)
        if is_concept_model(model_name) and auxiliary is not None:
            raise ItaclipError(f"{model_name}: takes class names alone; set model.auxiliary_text_path to None.")
        clip = load_model(model_name, pretrained, quick_gelu)
        cache = TextCache(default_folder()) if text_cache else None
        pipeline, encoder = build_parts(clip, self.settings, cache)
        encoder = encoder.to(device)
        classes, self.background_choice = configured.with_background_words(encoder, classes)
        prompts = read_class_prompts(self.settings.class_prompts, classes)
        weight, templates = self.settings.def_coefficient, self.settings.templates
        bank = build_text_bank(encoder, classes, auxiliary, weight, background, prompts, templates)
        self.classes = classes
        self.register_buffer("text_features", bank.features, persistent=False)
        self.pipeline = pipeline
        self.dataset_meta = {"classes": classes.names, "palette": palette(len(classes))}
        self.to(device)
        self.eval()

    @property
    def bank(self) -> TextBank:
        """The text bank on the model's device."""
        return TextBank(self.text_features, self.classes)

    def predict(
        self,
        inputs: Tensor | Sequence[Tensor],
        data_samples: Sequence[SegDataSample] | None = None,
        all_scores: bool = True,
    ) -> list[SegDataSample]:
        """Segment a batch.

        Args:
            inputs: B x 3 x H x W, or a list of 3 x H x W of any sizes; normalised RGB.
            data_samples: their `ori_shape` sets the size of each result; without them, results
                have the size of the inputs.
            all_scores: whether to keep the scores of all classes, whose memory grows with the classes.

        Returns:
            Per image a data sample with ``seg_logits`` (K x H x W class scores), if they are kept, and
            ``pred_sem_seg`` (1 x H x W int64 class ids).
        """
        images = list(inputs)
        samples = list(data_samples) if data_samples is not None else [SegDataSample() for _ in images]
        sizes = [
            tuple(sample.metainfo.get("ori_shape", image.shape[-2:]))[:2]
            for sample, image in zip(samples, images, strict=True)
        ]
        regions = region_maps(self.pipeline, [self.settings], images, samples)
        kept: Kept = "full" if all_scores else 1
        for sample, result in zip(samples, self.pipeline(images, sizes, self.bank, regions, kept), strict=True):
            found = {"pred_sem_seg": PixelData(data=result.labels[None])}
            if all_scores:
                found["seg_logits"] = PixelData(data=result.scores.full)
            sample.set_data(found)
        return samples

    def encode_decode(self, inputs: Tensor, batch_data_samples: Sequence[SegDataSample] | None = None) -> Tensor:
        """Compute class scores of images of equal size, at that size: B x K x H x W."""
        images = list(inputs)
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        samples = batch_data_samples or [SegDataSample() for _ in images]
        regions = region_maps(self.pipeline, [self.settings], images, samples)
        return torch.stack([result.scores.full for result in self.pipeline(images, sizes, self.bank, regions, "full")])

    def extract_feat(self, inputs: Tensor) -> Tensor:
        """Compute patch features of whole images, B x rows x columns x E, for methods that use only CLIP."""
        tokens: Tensor = self.pipeline.encoder(inputs)
        return tokens

    def _forward(self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None) -> Tensor:
        return self.encode_decode(inputs, data_samples)

    def loss(self, inputs: Tensor, data_samples: Sequence[SegDataSample]) -> NoReturn:
        """Refuse: the method has no trainable parameters.

        Raises:
            ItaclipError: always.
        """
        raise ItaclipError("ITACLIP is training-free: there is no loss; call predict() or test_step().")


def region_maps(
    pipeline: Pipeline, variants: Sequence[Settings], images: Sequence[Tensor], samples: Sequence[SegDataSample]
) -> dict[str, list[RegionMap]]:
    """Get the region maps of a batch, computed from the samples' image files, or from the inputs if there are none.

    A sample whose `loading` is set (`itaclip.research.openmmlab.loading.loading_of`) has its file read accordingly.

    Raises:
        ItaclipError: see `Pipeline.region_maps`; also for a file that cannot be read.
    """
    if not any(settings.reads_regions for settings in variants):
        return {}
    paths = [sample.metainfo.get("img_path") for sample in samples]
    pictures = [
        image_as_loaded(path, sample.metainfo.get("loading", ReadOptions()))
        if path and Path(path).is_file()
        else denormalise(image)
        for path, sample, image in zip(paths, samples, images, strict=True)
    ]
    return pipeline.region_maps(variants, pictures, paths)
