"""`itaclip.pipeline`: segmentation with the inputs and outputs of Transformers' image-segmentation pipeline."""

from __future__ import annotations

import itertools
import os
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from http.client import HTTPException
from typing import Any

from itaclip.common.base64_text import decode_base64, is_base64, is_data_url
from itaclip.common.images import ImageSource, decode_image, is_image
from itaclip.errors import ItaclipError, did_you_mean
from itaclip.formats.saved import is_saved
from itaclip.segmenter import Segmenter
from itaclip.vocabulary import Vocabulary

TASK = "image-segmentation"

_LARGEST_DOWNLOAD = 50_000_000  # bytes
_SECONDS = 20.0


def pipeline(
    task: str = TASK,
    model: str | os.PathLike[str] | Segmenter = "ViT-B/16",
    *,
    candidate_labels: Sequence[str | Sequence[str]] | None = None,
    background: bool | str | Sequence[str] = True,
    batch_size: int = 1,
    allow_urls: bool = False,
    **options: Any,
) -> ImageSegmentationPipeline:
    """Make a counterpart of Transformers' ``pipeline("image-segmentation")`` for your own classes.

    Examples:
        >>> segment = pipeline("image-segmentation", model="ViT-B/16", candidate_labels=["cat", "sofa, couch"])
        >>> segment("photo.jpg")
        [{'score': 0.71, 'label': 'background', 'mask': <PIL.Image.Image ...>}, ...]

    Args:
        task: "image-segmentation".
        model: a CLIP model or weight file, a folder written by `Segmenter.save_pretrained`, or a `Segmenter`.
        candidate_labels: classes, see `Segmenter.prepare`; None uses those of the model,
            or those passed to each call.
        background: see `Segmenter.prepare`.
        batch_size: images per batch, 1 or more, 1 by default, when the input is a list or an iterator.
        allow_urls: whether to fetch images from http and https URLs (at most 50 MB each).
        options: arguments of `Segmenter`, or of `Segmenter.from_pretrained` for a folder.

    Raises:
        ItaclipError: another task, weights that cannot be found or downloaded, a bad class list or setting.
    """
    if task != TASK:
        raise ItaclipError(f"task {task!r}: only {TASK!r} is supported.{did_you_mean(task, [TASK])}")
    if isinstance(model, Segmenter):
        if options:
            raise ItaclipError(f"{', '.join(options)}: a Segmenter is already configured; pass a model name instead.")
        segmenter = model
    elif not isinstance(model, (str, os.PathLike)):
        raise ItaclipError(
            f"model = {str(model)[:60]!r}: expected a name, a file or a Segmenter. Classes are candidate_labels=[...]."
        )
    elif is_saved(model):
        segmenter = Segmenter.from_pretrained(model, **options)
    else:
        segmenter = Segmenter(os.fspath(model), **options)
    vocabulary = segmenter.prepare(candidate_labels, background) if candidate_labels is not None else None
    return ImageSegmentationPipeline(segmenter, vocabulary, batch_size=batch_size, allow_urls=allow_urls)


class ImageSegmentationPipeline:
    """Takes images, returns lists of ``{"score", "label", "mask"}``.

    Args:
        segmenter: the segmenter to run.
        vocabulary: the classes; None uses the segmenter's own, or those passed to each call.
        batch_size: images per batch when the input is a list or an iterator.
        allow_urls: whether to fetch images from http and https URLs.
        largest_download: bytes of a fetched image, 50 million by default; larger ones are refused.
        timeout: seconds to wait for a URL, 20 by default.

    Raises:
        ItaclipError: a batch size less than 1.
    """

    task = TASK

    def __init__(
        self,
        segmenter: Segmenter,
        vocabulary: Vocabulary | None = None,
        *,
        batch_size: int = 1,
        allow_urls: bool = False,
        largest_download: int = _LARGEST_DOWNLOAD,
        timeout: float = _SECONDS,
    ) -> None:
        if vocabulary is not None:
            segmenter.for_vocabulary(vocabulary)
        self.segmenter, self.vocabulary = segmenter, vocabulary
        self.batch_size = _checked_batch(batch_size)
        self._allow_urls, self._largest_download, self._timeout = allow_urls, largest_download, timeout

    def __call__(
        self,
        inputs: Any,
        candidate_labels: Sequence[str | Sequence[str]] | None = None,
        *,
        background: bool | str | Sequence[str] = True,
        batch_size: int | None = None,
        subtask: str | None = None,
        **settings: Any,
    ) -> Any:
        """Segment an image, a list of images, or a stream of them.

        Args:
            inputs: an image (a path, an http(s) URL if allowed, a data URL or base64 as in
                `itaclip.common.base64_text.decode_base64`, a PIL image, or an H x W x 3 RGB array or
                tensor), or a list, an iterator or a data set of images.
            candidate_labels: classes for this call, see `Segmenter.prepare`.
            background: see `Segmenter.prepare`; used only with `candidate_labels`.
            batch_size: images per batch for this call.
            subtask: None or "semantic"; instances are not supported.
            settings: fields of `itaclip.core.settings.Settings` for this call.

        Returns:
            For an image, a list with ``{"score": float in [0, 1], "label": str, "mask": PIL
            image}`` per class that occurs; the mask has mode "L", the image's size, 255 inside
            the class and 0 outside. For a list, a list of such lists; for an iterator or a data
            set, an iterator over them, a batch at a time.

        Raises:
            ItaclipError: no classes, an image that cannot be read, a URL although URLs are not
                allowed, another subtask, or a bad setting.
        """
        if subtask not in (None, "semantic"):
            raise ItaclipError(f"subtask = {subtask!r}: only 'semantic' is supported.")
        vocabulary = self.vocabulary
        if candidate_labels is not None:
            vocabulary = self.segmenter.prepare(candidate_labels, background)
        if vocabulary is None and self.segmenter.vocabulary is None:
            raise ItaclipError('no classes yet: pass candidate_labels=["cat", "sofa, couch"].')
        batch = _checked_batch(batch_size if batch_size is not None else self.batch_size)
        if is_image(inputs):
            return next(self._run([inputs], 1, vocabulary, settings))
        if isinstance(inputs, (list, tuple)):
            return list(self._run(inputs, batch, vocabulary, settings))
        if isinstance(inputs, Iterable) or hasattr(inputs, "__getitem__"):  # torch data sets are not Iterables
            return self._run(inputs, batch, vocabulary, settings)
        raise ItaclipError(f"inputs of type {type(inputs).__name__}: expected an image or several images.")

    def _run(
        self, inputs: Iterable[Any], batch: int, vocabulary: Vocabulary | None, settings: dict[str, Any]
    ) -> Iterator[list[dict[str, Any]]]:
        waiting = iter(inputs)
        while chunk := list(itertools.islice(waiting, batch)):
            for result in self.segmenter([self._opened(entry) for entry in chunk], vocabulary, **settings):
                yield result.to_hf()

    def _opened(self, entry: Any) -> ImageSource:
        """Fetch URLs, decode data URLs and base64; pass everything else on to the segmenter."""
        if not isinstance(entry, str):
            source: ImageSource = entry
            return source
        scheme = entry.partition(":")[0].lower()
        if scheme in ("http", "https"):
            return decode_image(self._fetched(entry), entry, self.segmenter.read_options)
        if is_data_url(entry):
            name = entry.lstrip().partition(",")[0][:60]
            return decode_image(decode_base64(entry, name), name, self.segmenter.read_options)
        if is_base64(entry) and not os.path.lexists(entry):
            name = f"{entry.strip()[:20]}... (base64, as no file has this name)"
            return decode_image(decode_base64(entry, name), name, self.segmenter.read_options)
        return entry

    def _fetched(self, url: str) -> bytes:
        if not self._allow_urls:
            raise ItaclipError(f"{url}: URLs are not fetched by default; pass allow_urls=True if you trust them.")
        handlers = (urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler(),
                    urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPRedirectHandler(),
                    urllib.request.HTTPErrorProcessor())  # fmt: skip
        opener = urllib.request.OpenerDirector()  # a redirect must not reach files or other protocols
        for handler in handlers:
            opener.add_handler(handler)
        try:
            with opener.open(url, timeout=self._timeout) as answer:
                content: bytes = answer.read(self._largest_download + 1)
        except urllib.error.HTTPError as error:
            raise ItaclipError(f"{url}: status {error.code} ({error.reason}).") from None
        except (OSError, HTTPException, ValueError) as error:
            raise ItaclipError(f"{url}: cannot be fetched ({error}).") from None
        if len(content) > self._largest_download:
            raise ItaclipError(f"{url}: larger than {self._largest_download:,} bytes.")
        return content


def _checked_batch(batch_size: int) -> int:
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ItaclipError(f"batch_size = {batch_size!r}: expected 1 or more.")
    return batch_size
