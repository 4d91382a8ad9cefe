"""`Segmenter`: takes an image and any list of class names, returns a labelled image."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from itaclip.common.images import ImageSource, ReadOptions, ValueRange, is_image, read_image
from itaclip.core.clip.fingerprint import fingerprint, structure
from itaclip.core.clip.loading import load_clip, load_openai_clip
from itaclip.core.clip.names import DEMO
from itaclip.core.clip.state_dict import set_statistics
from itaclip.core.clip.towers import as_tower
from itaclip.core.concepts.options import CONCEPTS, FREE_FORM, is_concept_model
from itaclip.core.images import normalise
from itaclip.core.models import build_parts, load_model
from itaclip.core.pipeline import Pipeline
from itaclip.core.quality import free_form
from itaclip.core.regions.maps import resize_map
from itaclip.core.resizing import fit
from itaclip.core.scores import KEPT, Kept, checked_kept, on_host
from itaclip.core.settings import Settings, checked_names
from itaclip.core.text import TextCache, default_folder
from itaclip.devices import choose_device
from itaclip.errors import ItaclipError
from itaclip.formats.configuration import read_model
from itaclip.formats.saved import read_segmenter, write_segmenter
from itaclip.result import Result
from itaclip.vocabulary import Color, Lexicon, Vocabulary, make_vocabulary

if TYPE_CHECKING:
    from itaclip.core.pipeline import Pipeline

_Read: TypeAlias = tuple[NDArray[np.uint8], Path | None]
"""An image that was read, H x W x 3 RGB, and its path if it has one."""

LONG_SIDE = 2048
"""Maximum side in pixels, both for encoding and for refinement and decision."""


class Segmenter:
    """Open-vocabulary segmentation of images in one call.

    Examples:
        >>> segmenter = Segmenter("ViT-B/16")
        >>> segmenter.set_classes(["cat", "sofa, couch"])
        >>> result = segmenter("photo.jpg")
        >>> result.overlay().save("overlay.png")

    You can change the class list without reloading weights; text features are cached in memory
    and on disk. Threads may share a segmenter: it processes one call at a time, and with
    `prepare` each thread can use its own class list.

    Args:
        model: a CLIP model (``"ViT-B/16"``, ``"ViT-B-16-SigLIP2"``, ``"demo"``, ...) or a weight file;
            see `itaclip.core.clip.load_clip`. Or ``"sam3"`` or ``"sam3:FOLDER"``, which is not CLIP; see
            `itaclip.core.models.load_model`.
        quality: a key of `itaclip.core.quality.QUALITIES`: "exact" (published windows and views),
            "adaptive", "balanced" or "fast".
        pretrained: open_clip tag or weight path for a named model; None selects OpenAI's weights,
            or the only ones there are.
        quick_gelu: activation of weights that do not state it; None follows the file, the configuration
            beside it or the name, see `itaclip.core.clip.load_clip`.
        short_side: pixels of the short side that images are resized to, 1 or more; None selects the
            model's default (336 for ViT-B/16). More show smaller things and take longer.
        largest: pixels of an image, 1 or more; larger ones are rejected. None takes ``$ITACLIP_LARGEST``, or
            100 million.
        value_range: which values of images with more than 8 bits become 0 and 255: ``(low, high)``, or
            "stretch" for the 2nd and 98th percentile of each image. None accepts 16-bit images that
            fill their range. 8-bit images stay as they are.
        text_cache: whether to keep text features on disk.
        settings: fields of `itaclip.core.settings.Settings`, such as ``device="cuda:1"``,
            ``method="naclip"`` or ``pamr_steps=0``.

    Raises:
        ItaclipError: weights that cannot be found or downloaded, or a bad setting.
    """

    _weights: tuple[str, str | None, bool | None]  # as `load_clip` takes them

    def __init__(
        self,
        model: str = "ViT-B/16",
        quality: str = "balanced",
        *,
        pretrained: str | None = None,
        quick_gelu: bool | None = None,
        short_side: int | None = None,
        largest: int | None = None,
        value_range: ValueRange = None,
        text_cache: bool = True,
        **settings: Any,
    ) -> None:
        read_options = ReadOptions.of(largest, value_range)
        free_form(quality, 1, 1)  # report a wrong name before loading weights
        _without_class_arguments(settings)
        checked_names(settings)
        if is_concept_model(model) and quality != "balanced":
            raise ItaclipError(f"quality = {quality!r}: SAM 3 has no windows and no views; leave quality out.")
        clip = load_model(model, pretrained, quick_gelu)
        if is_concept_model(model):
            side, chosen = clip.side, dict(FREE_FORM)
        else:
            tower = as_tower(clip.visual)
            side, chosen = free_form(quality, tower.image_size, tower.patch_size)
        if model == DEMO:
            chosen["second_encoder"] = DEMO
        self._build(clip, Settings(**chosen | settings), short_side or side, read_options, text_cache)
        self._weights = (model, pretrained, quick_gelu)

    def _build(
        self, clip: Any, settings: Settings, short_side: int, read_options: ReadOptions, text_cache: bool
    ) -> None:
        if short_side < 1:
            raise ItaclipError(f"short_side = {short_side}: expected a positive number of pixels.")
        device = choose_device(settings.device, settings.dtype, settings.engine)
        self.short_side, self.read_options = short_side, read_options
        cache = TextCache(default_folder() if text_cache else None)
        self._pipeline, self._encoder = build_parts(clip, settings, cache)
        self._pipeline.to(device).eval()
        self._encoder.to(device).eval()
        self._device = device
        self._vocabulary: Vocabulary | None = None
        self._lock = threading.Lock()

    @classmethod
    def from_config(cls, config: str | Path, *, model: str | None = None, quick_gelu: bool | None = None,
                    largest: int | None = None, value_range: ValueRange = None, text_cache: bool = True,
                    **settings: Any) -> Segmenter:  # fmt: skip
        """Build the segmenter that an `eval.py` configuration describes, with its classes and texts.

        The labels are the same as those of `eval.py`. A configuration is Python code: load only
        files that you trust.

        Args:
            config: path of a configuration, such as ``configs/cfg_voc.py``.
            model: CLIP model or weight file; None uses the configuration's. The configuration's tag and activation
                belong to its own weights: name another tag as ``NAME:TAG``.
            quick_gelu: activation of weights that do not state it; None uses the configuration's, unless
                `model` names other weights.
            largest: see the constructor.
            value_range: see the constructor; None uses that of the configuration's ``ITACLIPLoadImage``, if any.
            text_cache: whether to keep text features on disk.
            settings: fields of `itaclip.core.settings.Settings` that replace the configuration's.

        Raises:
            ItaclipError: see the constructor; also for a configuration that cannot be read.
        """
        description = read_model(config, model, settings)
        read_options = ReadOptions.of(largest, value_range or description.value_range)
        segmenter = cls.__new__(cls)
        name, pretrained, stated = description.weights
        weights = (name, pretrained, stated if quick_gelu is None else quick_gelu)
        clip = load_model(*weights)
        short_side = clip.side if is_concept_model(name) else description.short_side
        segmenter._build(clip, description.settings, short_side, read_options, text_cache)
        segmenter._weights = weights
        segmenter._vocabulary = description.vocabulary(segmenter._encoder)
        segmenter._encoder.release()
        return segmenter

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], *, largest: int | None = None, value_range: ValueRange = None,
        text_cache: bool = True, **settings: Any,
    ) -> Segmenter:  # fmt: skip
        """Load a segmenter written by `save_pretrained`, with the same settings, classes and labels.

        Needs no network and executes nothing from the folder.

        Args:
            folder: a folder written by `save_pretrained`.
            largest: maximum number of pixels of an image; None uses the saved value.
            value_range: see the constructor; None uses the saved value.
            text_cache: whether to keep features of new texts on disk.
            settings: fields of `itaclip.core.settings.Settings` that replace the saved ones,
                such as ``device="cuda:1"``; the device itself is not saved.

        Raises:
            ItaclipError: no such folder, a damaged or foreign file, or a bad setting; the message names the file.
        """
        _without_class_arguments(settings)
        saved = read_segmenter(folder, settings)
        clip = load_clip(str(saved.weights))
        set_statistics(clip, saved.preprocessing)
        if fingerprint(clip.named_parameters()) != saved.fingerprint:
            raise ItaclipError(f"{saved.weights}: the weights differ from those saved; save the segmenter again.")
        segmenter = cls.__new__(cls)
        read_options = ReadOptions(largest or saved.read_options.largest, value_range or saved.read_options.value_range)
        segmenter._build(clip, saved.settings, saved.short_side, read_options, text_cache)
        segmenter._weights = (str(saved.weights), None, None)
        segmenter._vocabulary = saved.vocabulary and saved.vocabulary.to(segmenter._device)
        return segmenter

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write everything that the labels depend on: weights, settings, classes and text features.

        Re-reads the weights from their source, so a reduced precision loses nothing.

        Args:
            folder: created if missing; receives safetensors and JSON files.

        Raises:
            ItaclipError: the folder cannot be written, the weights no longer exist, the model does
                not have OpenAI's layout, or the second encoder or the regions cannot be copied.
        """
        if is_concept_model(self._weights[0]):
            raise ItaclipError("SAM 3 is not saved: its weights are gated. Load it again, and set the classes again.")
        clip = load_openai_clip(*self._weights)
        write_segmenter(folder, clip, self._pipeline.chosen, self.short_side, self.read_options, self._vocabulary)

    @property
    def settings(self) -> Settings:
        """The settings of every call that does not override them."""
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
        """A short hash of the weight values in use, with what is unusual about their use."""
        both = itertools.chain(self._pipeline.named_parameters(), self._encoder.named_parameters())
        parts = (fingerprint(both), structure(self._pipeline), structure(self._encoder))
        return " ".join(part for part in parts if part)

    @property
    def pipeline(self) -> Pipeline:
        """Image tower and settings, for steps that a call does together."""
        return self._pipeline

    @property
    def device(self) -> torch.device:
        """Where images are segmented."""
        return self._device

    @property
    def patch_size(self) -> int:
        """Side of CLIP's patches in pixels: the resolution of its features."""
        return self._pipeline.encoder.patch_size

    # --- classes -------------------------------------------------------------

    def set_classes(
        self,
        classes: Iterable[str | Sequence[str]],
        background: bool | str | Sequence[str] = True,
        definitions: Mapping[str, str] | None = None,
        colors: Mapping[str, Color] | None = None,
        *,
        lexicon: Lexicon | None = None,
    ) -> None:
        """Set the classes for subsequent calls; see `prepare`. Then frees what only texts need."""
        self._vocabulary = self.prepare(classes, background, definitions, colors, lexicon=lexicon)
        with self._lock:  # another thread may be encoding its own classes
            self._encoder.release()

    def prepare(
        self,
        classes: Iterable[str | Sequence[str]],
        background: bool | str | Sequence[str] = True,
        definitions: Mapping[str, str] | None = None,
        colors: Mapping[str, Color] | None = None,
        *,
        source: str = "class list",
        lexicon: Lexicon | None = None,
    ) -> Vocabulary:
        """Encode a class list without setting it; pass it to calls as `vocabulary`.

        Args:
            classes: one entry per class: a name, or synonyms separated by commas
                (``"sofa, couch"``). The first word names the class. Names are unique; case,
                spaces, hyphens and underscores make no difference.
            background: True adds class 0, "background", for pixels that belong to none of the
                classes; a list of words describes what such pixels are likely to show; False
                assigns every pixel to one of the classes. With True, an entry named "background"
                is class 0 wherever it stands, described by its other words; with False, it is a
                class like any other. "auto" chooses words by their text features, unless the
                classes cover the scene already; `Vocabulary.background_words` and
                `background_choice` tell what it chose.
            definitions: texts that describe classes; the key is any word of the class.
            colors: colours by class name, RGB in 0..255 or text such as ``"#ff8000"``; the other
                classes get the palette's.
            source: what messages call the class list, such as the name of its file.
            lexicon: a file or list of words from which "auto" chooses; None takes the names of
                COCO-Stuff and ADE20K.

        Raises:
            ItaclipError: a value of another type, no class, an empty name, a word used twice, two
                backgrounds, a definition or colour of an unknown class, or a bad lexicon.
        """
        if definitions and self.settings.method in CONCEPTS:
            raise ItaclipError("definitions: SAM 3 takes class names alone; leave them out.")
        with self._lock:
            return make_vocabulary(
                self._encoder, classes, background, definitions, self.settings, colors, source, lexicon
            )

    def settle(self, vocabulary: Vocabulary | None = None) -> None:
        """Choose now what is otherwise chosen at the first image: `dtype` "auto", and kernels.

        Args:
            vocabulary: classes whose labels have to agree; None uses those of `set_classes`. The first ones decide for
                the segmenter's life; `pipeline.engine` and `pipeline.dtype` tell how.

        Raises:
            ItaclipError: no classes yet, or OpenVINO is asked for but not installed.
        """
        vocabulary = self._chosen_vocabulary(vocabulary)
        self.for_vocabulary(vocabulary)  # is one
        with self._lock:
            self._pipeline.settle(vocabulary.bank)
            self.__dict__.pop("fingerprint", None)  # of the weights in use

    # --- images --------------------------------------------------------------

    @overload
    def __call__(
        self, images: ImageSource, vocabulary: Vocabulary | None = None, *, scores: Kept = KEPT, **settings: Any
    ) -> Result: ...

    @overload
    def __call__(
        self, images: Sequence[ImageSource], vocabulary: Vocabulary | None = None, *, scores: Kept = KEPT,
        **settings: Any,
    ) -> list[Result]: ...  # fmt: skip

    def __call__(
        self, images: ImageSource | Sequence[ImageSource], vocabulary: Vocabulary | None = None, *,
        scores: Kept = KEPT, **settings: Any,
    ) -> Result | list[Result]:  # fmt: skip
        """Segment an image, or a list of images of any sizes as a batch.

        Args:
            images: a path, the bytes of a file, a PIL image, an H x W x 3 RGB array or tensor, or a
                list of these. docs/images.md says how each is read.
            vocabulary: classes from `prepare`; None uses those of `set_classes`.
            scores: which class scores the results keep: how many of the best classes of every pixel, 1 or
                more, or "full" for all, whose memory grows with the classes.
            settings: fields of `itaclip.core.settings.Settings` for this call only, such as
                ``pamr_steps=0``; dtype, compile and device cannot change.

        Raises:
            ItaclipError: no classes yet, a bad setting, or an image that cannot be read.
        """
        if _are_images(images):
            ready = self._ready(vocabulary, scores, settings)
            return self._segment(self._read(images), *ready)
        if not is_image(images):
            raise ItaclipError(f"images of type {type(images).__name__}: expected an image or a list of images.")
        return self([images], vocabulary, scores=scores, **settings)[0]

    def stream(
        self, images: Iterable[ImageSource], batch: int = 4, vocabulary: Vocabulary | None = None, *,
        scores: Kept = KEPT, **settings: Any,
    ) -> Iterator[Result]:  # fmt: skip
        """Segment any number of images, a batch at a time, in constant memory.

        While a batch is segmented, a thread takes the next one from `images` and reads it.

        Args:
            images: see `__call__`.
            batch: images per batch, 1 or more, 4 by default.
            vocabulary: see `__call__`.
            scores: see `__call__`.
            settings: see `__call__`.

        Raises:
            ItaclipError: see `__call__`; raised when the iteration reaches the image.
        """
        if isinstance(images, (str, bytes, os.PathLike, Image.Image)):
            raise ItaclipError(f"images of type {type(images).__name__}: expected several images, such as a list.")
        if batch < 1:
            raise ItaclipError(f"batch = {batch}: expected 1 or more.")
        waiting = iter(images)

        def read_next() -> list[_Read]:
            return self._read(itertools.islice(waiting, batch))

        self._ready(vocabulary, scores, settings)
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(read_next)
            while chunk := ahead.result():
                ahead = reader.submit(read_next)
                yield from self._segment(chunk, *self._ready(vocabulary, scores, settings))

    def _ready(
        self, vocabulary: Vocabulary | None, scores: Kept, changes: Mapping[str, Any]
    ) -> tuple[Vocabulary, Settings, Kept]:  # fmt: skip
        """Check the arguments of a call before its images are read."""
        kept, vocabulary = checked_kept(scores), self._chosen_vocabulary(vocabulary)
        return vocabulary, self.for_vocabulary(vocabulary, **changes), kept

    def _chosen_vocabulary(self, vocabulary: Vocabulary | None) -> Vocabulary:
        vocabulary = self._vocabulary if vocabulary is None else vocabulary
        if vocabulary is None:
            raise ItaclipError('no classes yet: call set_classes(["cat", "sofa, couch"]) first.')
        return vocabulary

    def _read(self, sources: Iterable[ImageSource]) -> list[_Read]:
        """Read images, each with its path if it has one."""
        return [
            (read_image(source, self.read_options), Path(source) if isinstance(source, (str, os.PathLike)) else None)
            for source in sources
        ]

    def _segment(
        self, read: Sequence[_Read], vocabulary: Vocabulary, settings: Settings, kept: Kept
    ) -> list[Result]:  # fmt: skip
        images = [image for image, _ in read]
        tensors = [normalise(_resized(image, self.short_side)) for image in images]
        sizes = [_working_size(image) for image in images]
        with self._lock:
            moved = [tensor.to(self._device) for tensor in tensors]
            names = [str(path) if path else None for _, path in read]
            regions = self._pipeline.region_maps([settings], images, names)
            found = [
                (segmentation.labels.cpu().numpy(), on_host(segmentation.scores))
                for _, _, segmentation in self._pipeline.variants(
                    moved, sizes, [(settings, vocabulary.bank)], regions, kept
                )
            ]
        return [
            Result(image, resize_map(labels, image.shape[:2]).astype(np.int32), vocabulary.names, of_image,
                   vocabulary.colors, path, vocabulary.background)
            for (image, path), (labels, of_image) in zip(read, found, strict=True)
        ]  # fmt: skip

    def for_vocabulary(self, vocabulary: Vocabulary, **changes: Any) -> Settings:
        """Return the settings of a call; without a background class, no threshold sends pixels to class 0.

        Raises:
            ItaclipError: no vocabulary, a bad setting, or a dtype, engine or device that differs from the loaded one.
        """
        if not isinstance(vocabulary, Vocabulary):
            raise ItaclipError(
                f"vocabulary of type {type(vocabulary).__name__}: expected the result of prepare(). Name the classes "
                'with set_classes(["cat", "dog"]), or for one call with segmenter(image, segmenter.prepare(["cat"])). '
                "Several images go into one list."
            )
        _without_class_arguments(changes)
        for name in ("dtype", "agreement", "engine", "calibration", "compile", "device", "class_prompts",
                     "templates"):  # fmt: skip
            if changes.get(name, getattr(self.settings, name)) != getattr(self.settings, name):
                raise ItaclipError(f"{name} = {changes[name]!r}: cannot change after loading; create a new Segmenter.")
        if self.settings.method in CONCEPTS and changes.get("img_engineering"):
            raise ItaclipError("img_engineering = True: SAM 3 sees whole images and has no views; leave it out.")
        chosen: dict[str, Any] = {"background": vocabulary.background}
        if self.settings.background and not vocabulary.background:
            chosen["prob_thd"] = 0.0
        return self.settings.changed(**chosen | changes)


def _are_images(images: Any) -> TypeGuard[Sequence[ImageSource]]:
    return isinstance(images, Sequence) and not is_image(images)


def _without_class_arguments(settings: Mapping[str, Any]) -> None:
    """Refuse what describes classes: the class list decides it, so a setting would have no effect."""
    for name in ("classes", "candidate_labels", "background", "definitions", "colors"):
        if name in settings:
            raise ItaclipError(f"{name}: belongs to the class list; pass it to set_classes() or prepare().")


def _resized(image: NDArray[np.uint8], short_side: int) -> NDArray[np.uint8]:
    """Resize an image to the size at which CLIP sees it."""
    return fit(image, LONG_SIDE, short_side)


def _working_size(image: NDArray[np.uint8]) -> tuple[int, int]:
    """Return the height and width at which labels are refined and decided."""
    height, width = image.shape[:2]
    factor = min(1.0, LONG_SIDE / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))
