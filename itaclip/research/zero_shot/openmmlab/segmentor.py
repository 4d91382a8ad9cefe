"""`ZeroShotSegmentor`: both trained methods as an MMSegmentation model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.models import SegDataPreProcessor
from mmseg.models.segmentors import BaseSegmentor
from mmseg.registry import DATASETS, MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from itaclip.common.figures.palette import palette
from itaclip.core.clip.loading import load_openai_clip
from itaclip.core.text import TextCache, TextEncoder, default_folder
from itaclip.errors import ItaclipError, did_you_mean
from itaclip.research.preparation.masks import IGNORED
from itaclip.research.zero_shot.checkpoints import Checkpoint, check_class_order, load_parameters
from itaclip.research.zero_shot.classes import ClassSplit, label_table
from itaclip.research.zero_shot.encoder import ImageFeatures
from itaclip.research.zero_shot.inference import seen_shift, segment, window_scores
from itaclip.research.zero_shot.network import METHODS
from itaclip.research.zero_shot.settings import EncoderSettings, HeadSettings, LossSettings, Mode, WindowSettings
from itaclip.research.zero_shot.texts import class_embeddings
from itaclip.research.zero_shot.training import training_losses

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
"""Channel statistics for RGB values in 0..255. The published models use ImageNet's, not CLIP's."""


@MODELS.register_module()
class ZeroShotSegmentor(BaseSegmentor):
    """Cascade-CLIP or CLIP-RC, for training and testing.

    Args:
        method: a key of `itaclip.research.zero_shot.network.METHODS`.
        classes: the name of a registered data set, or class names in label order.
        unseen: unseen classes, by name or class id; none in mode "fully".
        seen: seen classes; None for all others.
        mode: "inductive", "transductive" (unseen pixels get pseudo labels) or "fully".
        model_name: CLIP model or weight file, see `itaclip.core.clip.load_clip`.
        pretrained: open_clip tag or weight path for a named model; None selects OpenAI's weights,
            or the only ones there are.
        templates: prompts of the classes, a key of `itaclip.research.zero_shot.texts.TEMPLATES`.
        words: words to use for some classes instead of their names.
        text_cache: whether to keep class embeddings on disk, see `itaclip.core.text.TextCache`.
        precision: "fp32", or "bf16" to compute in bfloat16 where that is safe (autocast).
        encoder: fields of `EncoderSettings`.
        head: fields of `HeadSettings`.
        loss: fields of `LossSettings`.
        windows: fields of `WindowSettings`.
        data_preprocessor: None normalises with ImageNet's statistics and pads training crops to
            `image_size`: images with zeros after normalisation, labels with 255.

    Raises:
        ItaclipError: bad weights, classes or settings.
    """

    text_features: Tensor
    label_table: Tensor
    shifts: Tensor

    def __init__(
        self,
        method: str,
        classes: str | Sequence[str],
        unseen: Sequence[str | int] = (),
        seen: Sequence[str | int] | None = None,
        mode: Mode = "inductive",
        model_name: str = "ViT-B/16",
        pretrained: str | None = None,
        templates: str = "single",
        words: Mapping[str, str] | None = None,
        text_cache: bool = True,
        precision: str = "fp32",
        encoder: Mapping[str, Any] | None = None,
        head: Mapping[str, Any] | None = None,
        loss: Mapping[str, Any] | None = None,
        windows: Mapping[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        if method not in METHODS:
            raise ItaclipError(
                f"method = {method!r}: expected one of {', '.join(METHODS)}.{did_you_mean(method, METHODS)}"
            )
        if precision not in ("fp32", "bf16"):
            raise ItaclipError(f"precision = {precision!r}: expected fp32 or bf16.")
        sizes = _settings(EncoderSettings, encoder, "encoder")
        # built here because BaseModel would look it up outside MMSegmentation's scope
        preprocessor = MODELS.build(data_preprocessor) if data_preprocessor else SegDataPreProcessor(
            mean=IMAGENET_MEAN, std=IMAGENET_STD, bgr_to_rgb=True, size=(sizes.image_size, sizes.image_size),
            pad_val=0, seg_pad_val=IGNORED,
        )  # fmt: skip
        super().__init__(preprocessor, init_cfg)
        self.method, self.precision = METHODS[method], precision
        names = _class_names(classes)
        self.split = ClassSplit.of(names, unseen, seen)
        self.mode: Mode = mode
        self.training_split = self.split.for_training(mode)
        self.losses = _settings(LossSettings, loss, "loss")
        self.windows = _settings(WindowSettings, windows, "windows")
        if self.windows.stride > sizes.image_size:
            raise ItaclipError(f"stride = {self.windows.stride}: expected at most image_size ({sizes.image_size}).")

        clip = load_openai_clip(model_name, pretrained)
        texts = TextEncoder(clip, TextCache(default_folder()) if text_cache else None)
        features = class_embeddings(texts, names, templates, words)
        self.register_buffer("text_features", features, persistent=False)
        self.register_buffer("label_table", label_table(self.training_split, mode), persistent=False)
        shift = 0.0 if mode == "transductive" else self.windows.seen_shift
        self.register_buffer("shifts", seen_shift(len(names), self.training_split.seen, shift), persistent=False)
        self.backbone = self.method.encoder(clip.visual, sizes)
        self.decode_head = self.method.head(self.backbone.joint_width, _settings(HeadSettings, head, "head"))
        self.dataset_meta = {"classes": names, "palette": palette(len(names))}

    @property
    def image_size(self) -> int:
        """Side of crops and windows in pixels."""
        return self.backbone.settings.image_size

    def load(self, checkpoint: Checkpoint, same_classes: bool = False) -> list[str]:
        """Load the parameters of a checkpoint.

        Args:
            checkpoint: a published checkpoint, or one of this project.
            same_classes: whether other classes are an error too.

        Returns:
            Names of unused parameters in the file.

        Raises:
            ItaclipError: another method, other parameters, or another order of classes.
        """
        check_class_order(checkpoint, self.split.classes, same_classes)
        return load_parameters(self, checkpoint.state, self.method, checkpoint.path)

    # --- training ---

    def loss(self, inputs: Tensor, data_samples: Sequence[SegDataSample]) -> dict[str, Tensor]:
        """Compute the losses of a batch, see `itaclip.research.zero_shot.training.training_losses`.

        Args:
            inputs: B x 3 x S x S, normalised RGB.
            data_samples: samples with raw labels, 1 x S x S each.
        """
        raw = torch.stack([sample.gt_sem_seg.data[0] for sample in data_samples]).long()
        rows = list(self.training_split.seen) if self.mode == "inductive" else slice(None)
        with self._autocast():
            logits, recovery = self.decode_head(self.backbone(inputs), self.text_features[rows])
        losses, _ = training_losses(
            logits, recovery, raw, self.label_table, self.training_split, self.mode, self.image_size, self.losses
        )
        return losses

    # --- inference ---

    def predict(self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None) -> list[SegDataSample]:
        """Segment images with sliding windows.

        Args:
            inputs: B x 3 x H x W, normalised RGB.
            data_samples: their `ori_shape` sets the size of each result; without them, results
                have the size of the inputs.

        Returns:
            Per image a data sample with ``seg_logits`` (K x H x W class scores) and
            ``pred_sem_seg`` (1 x H x W int64 class ids).
        """
        samples = list(data_samples) if data_samples is not None else [SegDataSample() for _ in inputs]
        for sample, image in zip(samples, inputs, strict=True):
            height, width = tuple(sample.metainfo.get("ori_shape", image.shape[-2:]))[:2]
            scores = segment(image, (height, width), self.grid_logits, self.image_size, self.backbone.patch_size,
                             self.windows, self.shifts)  # fmt: skip
            labels = scores.argmax(dim=0, keepdim=True)
            sample.set_data({"seg_logits": PixelData(data=scores), "pred_sem_seg": PixelData(data=labels)})
        return samples

    def grid_logits(self, windows: Tensor) -> Tensor:
        """Mask logits of all classes on the token grid: n x K x h x w."""
        with self._autocast():
            logits: Tensor = self.decode_head(self.backbone(windows), self.text_features)[0]
        return logits.float()

    def encode_decode(self, inputs: Tensor, batch_data_samples: Sequence[SegDataSample] | None = None) -> Tensor:
        """Compute class scores of single windows: B x K x S x S."""
        scores = window_scores(self.grid_logits(inputs), self.image_size, (inputs.shape[-2], inputs.shape[-1]))
        return scores - self.shifts[:, None, None]

    def extract_feat(self, inputs: Tensor) -> ImageFeatures:
        """Compute the encoder's features of B x 3 x S x S images."""
        features: ImageFeatures = self.backbone(inputs)
        return features

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.text_features.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def _forward(self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None) -> Tensor:
        return self.grid_logits(inputs)


def _settings(kind: Any, given: Mapping[str, Any] | None, name: str) -> Any:
    """Build a settings dataclass from entries of a configuration."""
    known = kind.__dataclass_fields__
    for key in given or {}:
        if key not in known:
            raise ItaclipError(
                f"unknown setting model.{name}.{key}.{did_you_mean(key, known)} Known: {', '.join(known)}."
            )
    return kind(**(given or {}))


def _class_names(classes: str | Sequence[str]) -> tuple[str, ...]:
    """Return the class names in label order, from a list or a registered data set."""
    if not isinstance(classes, str):
        return tuple(classes)
    kind = DATASETS.get(classes)
    if kind is None or not kind.METAINFO.get("classes"):
        raise ItaclipError(f"classes = {classes!r}: expected a list, or a registered data set with class names.")
    return tuple(kind.METAINFO["classes"])
