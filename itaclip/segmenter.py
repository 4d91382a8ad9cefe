"""`Segmenter`: an image and any list of class names in, a labelled image out."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import mmcv
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from itaclip.clip.fingerprint import fingerprint
from itaclip.clip.loading import DEMO, load_clip, load_openai_clip, set_statistics
from itaclip.clip.towers import as_tower
from itaclip.configuration import read_model
from itaclip.core.images import LARGEST, ImageSource, normalise, read_image
from itaclip.core.pipeline import Pipeline
from itaclip.core.quality import free_form
from itaclip.core.settings import Settings, checked_names
from itaclip.devices import choose_device
from itaclip.errors import ItaclipError
from itaclip.result import Result
from itaclip.saved import read_segmenter, write_segmenter
from itaclip.text import TextCache, TextEncoder, default_folder
from itaclip.vocabulary import Vocabulary, make_vocabulary

LONG_SIDE = 2048
"""Longest side in pixels, of what is encoded and of what is refined and decided."""


class Segmenter:
    """Open-vocabulary segmentation of images in one call.

    Examples:
        >>> segmenter = Segmenter("ViT-B/16")
        >>> segmenter.set_classes(["cat", "sofa, couch"])
        >>> result = segmenter("photo.jpg")
        >>> result.overlay().save("overlay.png")

    Class lists change without loading weights again; what was encoded once is remembered,
    on disk too. Threads may share a segmenter: images are taken one after the other, and
    `prepare` gives every thread class lists of its own.

    Args:
        model: CLIP's name (``"ViT-B/16"``, ``"ViT-B-16-SigLIP2"``, ``"demo"``, ...) or a weight file,
            see `itaclip.clip.load_clip`.
        quality: a key of `itaclip.core.quality.QUALITIES`: "exact" (published windows and views),
            "adaptive", "balanced" or "fast".
        pretrained: open_clip's tag, or a path, for a named model; None takes OpenAI's, or the only one.
        short_side: pixels that the short side of an image is resized to; None follows
            the model (336 for ViT-B/16).
        largest: refuse images of more pixels.
        text_cache: keep text features on disk.
        settings: fields of `itaclip.core.settings.Settings`, such as ``device="cuda:1"``,
            ``method="naclip"`` or ``pamr_steps=0``.

    Raises:
        ItaclipError: weights that cannot be had, or a bad setting.
    """

    _weights: tuple[str, str | None, bool | None]  # as `load_clip` takes them

    def __init__(
        self,
        model: str = "ViT-B/16",
        quality: str = "balanced",
        *,
        pretrained: str | None = None,
        short_side: int | None = None,
        largest: int = LARGEST,
        text_cache: bool = True,
        **settings: Any,
    ) -> None:
        free_form(quality, 1, 1)  # a wrong word is told before weights are loaded
        checked_names(settings)
        clip = load_clip(model, pretrained)
        tower = as_tower(clip.visual)
        side, chosen = free_form(quality, tower.image_size, tower.patch_size)
        if model == DEMO:
            chosen["second_encoder"] = DEMO
        self._build(clip, Settings(**chosen | settings), short_side or side, largest, text_cache)
        self._weights = (model, pretrained, None)

    def _build(self, clip: Any, settings: Settings, short_side: int, largest: int, text_cache: bool) -> None:
        if short_side < 1:
            raise ItaclipError(f"short_side = {short_side}: expected a positive number of pixels.")
        device = choose_device(settings.device, settings.dtype, settings.engine)
        self.short_side, self.largest = short_side, largest
        self._pipeline = Pipeline(clip, settings).to(device).eval()
        cache = TextCache(default_folder() if text_cache else None)
        self._encoder = TextEncoder(clip, cache, self._pipeline.engine).to(device).eval()
        self._device = device
        self._vocabulary: Vocabulary | None = None
        self._lock = threading.Lock()

    @classmethod
    def from_config(cls, config: str | Path, *, model: str | None = None, largest: int = LARGEST,
                    text_cache: bool = True, **settings: Any) -> Segmenter:  # fmt: skip
        """The segmenter that a configuration of `eval.py` describes, with its classes and texts.

        Gives the labels that `eval.py` gives. Configurations are Python: trust them first.

        Args:
            config: such as ``configs/cfg_voc.py``.
            model: CLIP's name or weights; None takes the configuration's.
            largest: refuse images of more pixels.
            text_cache: keep text features on disk.
            settings: entries of `itaclip.core.settings.Settings` that replace the configuration's.

        Raises:
            ItaclipError: as the constructor, or a configuration that cannot be read.
        """
        description = read_model(config, model, settings)
        segmenter = cls.__new__(cls)
        clip = load_clip(*description.weights)
        segmenter._build(clip, description.settings, description.short_side, largest, text_cache)
        segmenter._weights = description.weights
        segmenter._vocabulary = description.vocabulary(segmenter._encoder)
        return segmenter

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], *, largest: int | None = None, text_cache: bool = True, **settings: Any
    ) -> Segmenter:
        """The segmenter that `save_pretrained` wrote: same settings, classes and labels.

        Needs no network, and executes nothing that lies in the folder.

        Args:
            folder: that `save_pretrained` wrote.
            largest: refuse images of more pixels; None takes what was saved.
            text_cache: keep features of further texts on disk.
            settings: entries of `itaclip.core.settings.Settings` that replace the saved ones,
                such as ``device="cuda:1"``; the device is not saved.

        Raises:
            ItaclipError: no such folder, a damaged or foreign file, or a bad setting; names the file.
        """
        saved = read_segmenter(folder, settings)
        clip = load_clip(str(saved.weights))
        set_statistics(clip, saved.preprocessing)
        if fingerprint(clip.named_parameters()) != saved.fingerprint:
            raise ItaclipError(f"{saved.weights}: not the weights that were saved; save the segmenter again.")
        segmenter = cls.__new__(cls)
        segmenter._build(clip, saved.settings, saved.short_side, largest or saved.largest, text_cache)
        segmenter._weights = (str(saved.weights), None, None)
        segmenter._vocabulary = saved.vocabulary and saved.vocabulary.to(segmenter._device)
        return segmenter

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write everything that labels depend on: weights, settings, classes with their text features.

        The weights are read again from where they came from, so that reduced precisions lose nothing.

        Args:
            folder: made when missing; gets safetensors and JSON files.

        Raises:
            ItaclipError: the folder cannot be written, the weights are gone, the model has not
                OpenAI's layout, or the second encoder or the regions cannot be copied.
        """
        write_segmenter(
            folder, load_openai_clip(*self._weights), self.settings, self.short_side, self.largest, self._vocabulary
        )

    @property
    def settings(self) -> Settings:
        """How images are segmented, unless a call says otherwise."""
        return self._pipeline.settings

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The current classes; None before `set_classes`."""
        return self._vocabulary

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the current classes, in label order; empty before `set_classes`."""
        return self._vocabulary.names if self._vocabulary else ()

    @cached_property
    def fingerprint(self) -> str:
        """A short name for the weights in use, by their values."""
        both = itertools.chain(self._pipeline.named_parameters(), self._encoder.named_parameters())
        return fingerprint(both)

    @property
    def patch_size(self) -> int:
        """Side of CLIP's patches in pixels: the grain of its features."""
        return self._pipeline.encoder.patch_size

    # --- classes -------------------------------------------------------------

    def set_classes(
        self,
        classes: Sequence[str | Sequence[str]],
        background: bool | Sequence[str] = True,
        definitions: Mapping[str, str] | None = None,
    ) -> None:
        """Choose the classes of the calls that follow; see `prepare`."""
        self._vocabulary = self.prepare(classes, background, definitions)

    def prepare(
        self,
        classes: Sequence[str | Sequence[str]],
        background: bool | Sequence[str] = True,
        definitions: Mapping[str, str] | None = None,
    ) -> Vocabulary:
        """Encode a class list, to be passed to calls as `vocabulary`.

        Args:
            classes: one entry per class: a name, or synonyms separated by commas
                (``"sofa, couch"``). The first word names the class.
            background: True adds class 0, "background", for pixels that are none of the
                classes; a list of words says what such pixels are likely to be; False
                gives every pixel to one of the classes.
            definitions: texts that describe classes, by any of their words.

        Raises:
            ItaclipError: no class, an empty name, a word used twice, a definition of no class.
        """
        with self._lock:
            return make_vocabulary(self._encoder, classes, background, definitions, self.settings)

    # --- images --------------------------------------------------------------

    @overload
    def __call__(self, images: ImageSource, vocabulary: Vocabulary | None = None, **settings: Any) -> Result: ...

    @overload
    def __call__(
        self, images: Sequence[ImageSource], vocabulary: Vocabulary | None = None, **settings: Any
    ) -> list[Result]: ...

    def __call__(
        self, images: ImageSource | Sequence[ImageSource], vocabulary: Vocabulary | None = None, **settings: Any
    ) -> Result | list[Result]:
        """Segment an image, or a list of them (any sizes) together.

        Args:
            images: a path, a PIL image, an H x W x 3 uint8 RGB array, or a list of such.
            vocabulary: classes from `prepare`; None takes those of `set_classes`.
            settings: entries of `itaclip.core.settings.Settings` for this call alone, such as
                ``pamr_steps=0``; dtype and device stay as they are.

        Raises:
            ItaclipError: no classes yet, a bad setting, or an image that cannot be read.
        """
        if isinstance(images, (str, os.PathLike, Image.Image, np.ndarray)):
            return self._segment([images], vocabulary, settings)[0]
        if not isinstance(images, Sequence):
            raise ItaclipError(f"images of type {type(images).__name__}: expected an image or a list of images.")
        return self._segment(images, vocabulary, settings)

    def stream(
        self, images: Iterable[ImageSource], batch: int = 4, vocabulary: Vocabulary | None = None, **settings: Any
    ) -> Iterator[Result]:
        """Segment any number of images, a few at a time, in flat memory.

        Args:
            images: as for a call.
            batch: images per step.
            vocabulary: as for a call.
            settings: as for a call.

        Raises:
            ItaclipError: as for a call, at the image in question.
        """
        waiting = iter(images)
        while part := list(itertools.islice(waiting, batch)):
            yield from self._segment(part, vocabulary, settings)

    def _segment(
        self, sources: Sequence[ImageSource], vocabulary: Vocabulary | None, changes: Mapping[str, Any]
    ) -> list[Result]:
        vocabulary = vocabulary or self._vocabulary
        if vocabulary is None:
            raise ItaclipError('no classes yet: call set_classes(["cat", "sofa, couch"]) first.')
        settings = self.for_vocabulary(vocabulary, **changes)
        images = [read_image(source, self.largest) for source in sources]
        paths = [Path(source) if isinstance(source, (str, os.PathLike)) else None for source in sources]
        tensors = [normalise(mmcv.imrescale(image, (LONG_SIDE, self.short_side))) for image in images]
        sizes = [_working_size(image) for image in images]
        with self._lock:
            moved = [tensor.to(self._device) for tensor in tensors]
            names = [str(path) if path else None for path in paths]
            regions = self._pipeline.region_maps([settings], images, names)
            found = [
                (segmentation.labels.cpu().numpy(), segmentation.scores.cpu().numpy())
                for _, _, segmentation in self._pipeline.variants(moved, sizes, [(settings, vocabulary.bank)], regions)
            ]
        return [
            Result(image, _enlarged(labels.astype(np.int32), image.shape[:2]), vocabulary.names, scores,
                   vocabulary.colors, path)
            for path, image, (labels, scores) in zip(paths, images, found, strict=True)
        ]  # fmt: skip

    def for_vocabulary(self, vocabulary: Vocabulary, **changes: Any) -> Settings:
        """The settings of a call: without a background, no threshold gives pixels to class 0.

        Raises:
            ItaclipError: a bad setting, or another dtype, engine or device than when it was loaded.
        """
        for name in ("dtype", "engine", "calibration", "compile", "device"):
            if changes.get(name, getattr(self.settings, name)) != getattr(self.settings, name):
                raise ItaclipError(f"{name} = {changes[name]!r}: fixed at loading; make another Segmenter.")
        chosen: dict[str, Any] = {"background": vocabulary.background}
        if self.settings.background and not vocabulary.background:
            chosen["prob_thd"] = 0.0
        return self.settings.changed(**chosen | changes)


def _working_size(image: NDArray[np.uint8]) -> tuple[int, int]:
    """Height and width at which an image is refined and decided."""
    height, width = image.shape[:2]
    factor = min(1.0, LONG_SIDE / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _enlarged(labels: NDArray[np.int32], size: tuple[int, ...]) -> NDArray[np.int32]:
    """Labels at the image's own size, by the nearest neighbour."""
    if labels.shape == size:
        return labels
    rows, columns = (np.arange(side) * have // side for side, have in zip(size, labels.shape, strict=True))
    return labels[rows[:, None], columns]
