"""Read images by any way in: a path, bytes, a PIL image, an array, a tensor."""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from itaclip.common.images import tiff
from itaclip.common.images.values import ValueRange, as_8_bits, checked_range
from itaclip.errors import ItaclipError
from itaclip.files import local_path

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[Any] | torch.Tensor"

LARGEST = 100_000_000
"""Maximum number of pixels to decode: 300 MB as RGB. Small files can claim far more."""

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats to open. PIL supports more, but starts other programs for some of them (EPS)."""

_BANDS = (1, 3, 4)  # of an array


_ADDRESS_REMEDY = "Download it first; itaclip.pipeline(..., allow_urls=True) and `itaclip label` read addresses."


class ImageTooLargeError(ItaclipError):
    """An image with more pixels than the limit."""


@dataclass(frozen=True)
class ReadOptions:
    """How images are read.

    Attributes:
        largest: maximum number of pixels of an image; larger ones are rejected.
        value_range: which values of images with more than 8 bits become 0 and 255, see
            `itaclip.common.images.ValueRange`. It does not affect 8-bit images.
        limit: how to raise `largest`, for messages.

    Raises:
        ItaclipError: a value outside its range.
    """

    largest: int = LARGEST
    value_range: ValueRange = None
    limit: str = "largest= in Python, --largest on the command line"

    def __post_init__(self) -> None:
        if not isinstance(self.largest, int) or isinstance(self.largest, bool) or self.largest < 1:
            raise ItaclipError(f"largest = {self.largest!r}: expected a positive number of pixels.")
        object.__setattr__(self, "value_range", checked_range(self.value_range))

    def check_size(self, size: tuple[int, int], name: str) -> None:
        """Refuse an image of width x height pixels that is too large.

        Raises:
            ImageTooLargeError: more pixels than `largest`.
        """
        width, height = size
        if width * height > self.largest:
            raise ImageTooLargeError(
                f"{name}: {width} x {height} pixels; at most {self.largest:,} are accepted. Reduce it, or raise the "
                f"limit: {self.limit}."
            )


_DEFAULT = ReadOptions()


def read_image(source: ImageSource, options: ReadOptions = _DEFAULT) -> NDArray[np.uint8]:
    """Read an image in its intended orientation: H x W x 3 uint8 RGB.

    OpenCV decodes files, as in MMSegmentation, so that results agree pixel by pixel. The
    orientation in the EXIF data is applied; transparency is dropped. docs/images.md lists the
    rules for all kinds of images.

    Args:
        source: a path, the bytes of a file, a PIL image, or an array or tensor: H x W x 3 (or x 4,
            x 1, or H x W), RGB.
        options: the largest image and the range of values.

    Raises:
        ItaclipError: no such file, not an image, damaged, too large, or of a kind that is not
            read. The message names the file, or the shape and dtype, and what to do.
    """
    if isinstance(source, (str, os.PathLike)):
        path = local_path(source, _ADDRESS_REMEDY)
        return decode_image(_content(path), str(path), options)
    if isinstance(source, bytes):
        return decode_image(source, "image", options)
    if isinstance(source, Image.Image):
        return _from_pil(source, options)
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu()
        array = (source.float() if source.dtype == torch.bfloat16 else source).numpy()
        return _from_array(array, "tensor", options, _TORCH)
    if isinstance(source, np.ndarray):
        return _from_array(source, "array", options, _NUMPY)
    hint = " Convert it with numpy.asarray." if hasattr(source, "__array__") else ""
    raise ItaclipError(
        f"image of type {type(source).__name__}: expected a path, bytes, a PIL image, an array or a tensor.{hint}"
    )


def is_image(source: Any) -> TypeGuard[ImageSource]:
    """Whether a value stands for one image rather than for several."""
    return isinstance(source, (str, os.PathLike, bytes, Image.Image, np.ndarray, torch.Tensor))


def decode_image(content: bytes, name: str, options: ReadOptions = _DEFAULT) -> NDArray[np.uint8]:
    """Decode the bytes of an image file like `read_image`: H x W x 3 uint8 RGB.

    Args:
        content: the bytes of the whole file.
        name: the name used in messages.
        options: see `read_image`.

    Raises:
        ItaclipError: see `read_image`; `ImageTooLargeError` for a size above the limit. The message
            begins with the name.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about metadata
            values, bits = (_decode_tiff if tiff.is_tiff(content) else _decode)(content, name, options)
    except ItaclipError:
        raise
    except Exception as error:  # decoders raise all kinds of exceptions for damaged content
        raise ItaclipError(f"{name}: damaged ({type(error).__name__}: {error}).") from error
    return _rgb(as_8_bits(values, bits, name, options.value_range))


def check_for_opencv(content: bytes, name: str, options: ReadOptions = _DEFAULT) -> None:
    """Refuse files that OpenCV, called without these rules as MMSegmentation does, would read wrongly.

    Files that are no image at all pass: the caller may have other means to read them.

    Raises:
        ItaclipError: see `decode_image`; also for a TIFF whose colours OpenCV multiplies by its alpha.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if tiff.is_tiff(content):
                layout = tiff.read_layout(content, name)
                options.check_size((layout.width, layout.height), name)
                if not layout.eight or layout.multiplied_by_opencv:
                    values, bits = _decode_tiff(content, name, options)
                    as_8_bits(values, bits, name, None)
                if layout.multiplied_by_opencv:
                    raise ItaclipError(f"{name}: OpenCV would multiply its colours by its transparency.")
                opened = None if layout.foreign_to_pillow or not layout.eight else _try_open(content)
            else:
                opened = _try_open(content)
                if opened is not None:
                    options.check_size(opened.size, name)
                    if _is_deep(opened) or _top(opened) is not None or opened.mode == "F":
                        if (_top(opened) or 65535) < 65535:
                            raise ItaclipError(f"{name}: OpenCV would not scale values of 0 to {_top(opened)}.")
                        as_8_bits(*_decode(content, name, options), name, None)
            if opened is not None:
                opened.load()
    except ItaclipError:
        raise
    except Exception as error:
        raise ItaclipError(f"{name}: damaged ({type(error).__name__}: {error}).") from error


# --- files -------------------------------------------------------------------


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ItaclipError(f"{path}: no such file.") from None
    except OSError as error:
        raise ItaclipError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _decode(content: bytes, name: str, options: ReadOptions) -> tuple[NDArray[Any], int | None]:
    """Decode any format but TIFF: H x W or H x W x 3 values, and their bits if unsigned."""
    try:
        file = _opened(content, name)
    except Image.DecompressionBombError:  # since Pillow 13 for WebP: a limit that `largest` replaces
        options.check_size(_webp_size(content), name)
        values = _by_opencv(content, cv2.IMREAD_COLOR)
        if values is None:
            raise
        return values, None
    with file as opened:
        options.check_size(opened.size, name)
        deep, top = _is_deep(opened), _top(opened)
        opened.load()  # OpenCV would fill the missing part of a damaged file with grey
        if opened.mode == "F":
            return _upright(opened), None
        if deep:
            values = _by_opencv(content, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
            if values is None and opened.mode.startswith("I;16"):  # sides beyond OpenCV's limit
                return _upright(opened), 16
            if values is None or values.dtype != np.uint16:
                raise ItaclipError(f"{name}: OpenCV cannot decode this 16-bit image; save it as TIFF.")
            return values if top is None else np.rint(values * (65535.0 / top)).astype(np.uint16), 16
        if top is not None:  # OpenCV takes these values as they are: nearly black
            return _upright(opened.convert("RGB")), None
        values = _by_opencv(content, cv2.IMREAD_COLOR)
        return _upright(opened.convert("RGB")) if values is None else values, None


def _decode_tiff(content: bytes, name: str, options: ReadOptions) -> tuple[NDArray[Any], int | None]:
    """Decode TIFF: H x W or H x W x 3 values, and their bits if unsigned."""
    layout = tiff.read_layout(content, name)
    options.check_size((layout.width, layout.height), name)
    if not layout.eight:
        return tiff.decode_deep(content, layout, name)
    opened = None if layout.foreign_to_pillow else _try_open(content)
    if opened is not None:
        try:
            opened.load()
        except Image.DecompressionBombError:  # Pillow's own limit, which `largest` replaces
            opened = None
    if layout.multiplied_by_opencv:
        return _upright(opened.convert("RGB")) if opened else tiff.decode_plainly(content, layout, name), None
    values = _by_opencv(content, cv2.IMREAD_COLOR)
    if values is None:
        return _upright(opened.convert("RGB")) if opened else tiff.decode_plainly(content, layout, name), None
    return values, None


def _by_opencv(content: bytes, flags: int) -> NDArray[Any] | None:
    """H x W x 3 RGB; None for a format or size that OpenCV does not read."""
    try:
        decoded = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        return None
    return None if decoded is None else decoded[..., ::-1]


def _webp_size(content: bytes) -> tuple[int, int]:
    """Width and height that the first chunk of a WebP file states."""
    kind = content[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(content[24:27], "little"), 1 + int.from_bytes(content[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(content[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(content[26:28], "little") & 0x3FFF, int.from_bytes(content[28:30], "little") & 0x3FFF


def _opened(content: bytes, name: str) -> ImageFile.ImageFile:
    opened = _try_open(content)
    if opened is None:
        raise ItaclipError(f"{name}: not an image in a supported format: {', '.join(FORMATS)}.")
    return opened


def _try_open(content: bytes) -> ImageFile.ImageFile | None:
    """Open with Pillow's own classes: `Image.open` has a limit in pixels for the whole process."""
    Image.init()
    for kind in FORMATS:
        opens, accepts = Image.OPEN[kind]
        if accepts is None or accepts(content[:16]) is True:
            try:
                return opens(io.BytesIO(content), "")
            except (SyntaxError, IndexError, TypeError, KeyError, EOFError, struct.error):
                continue  # Pillow takes all of these for: another format
    return None


def _is_deep(opened: ImageFile.ImageFile) -> bool:
    """Whether the file, not loaded yet, has integers of more than 8 bits."""
    if opened.format == "PPM":
        return opened.mode == "I" or (_stated(opened) or 0) > 255
    return opened.format == "PNG" and "16" in _raw_mode(opened)


def _raw_mode(opened: ImageFile.ImageFile) -> str:
    arguments = opened.tile[0].args if opened.tile else ""
    first = arguments[0] if isinstance(arguments, tuple) else arguments
    return str(first)


def _top(opened: ImageFile.ImageFile) -> int | None:
    """The highest value that the header of a PPM or PGM file states, unless all bits are used."""
    stated = _stated(opened)
    return stated if stated not in (255, 65535) else None


def _stated(opened: ImageFile.ImageFile) -> int | None:
    """The highest value in the header of a PPM or PGM file, not loaded yet; None if Pillow reads it as it is."""
    arguments = opened.tile[0].args if opened.tile and opened.format == "PPM" else None
    if not isinstance(arguments, tuple) or len(arguments) != 2 or arguments[0] not in ("L", "RGB"):
        return None
    return int(arguments[1]) if isinstance(arguments[1], int) else None


# --- PIL images --------------------------------------------------------------


def _from_pil(source: Image.Image, options: ReadOptions) -> NDArray[np.uint8]:
    name = f"PIL image {getattr(source, 'filename', '') or ''}".strip()
    options.check_size(source.size, name)
    tags: Mapping[int, Any] = getattr(source, "tag_v2", {})
    try:
        if isinstance(source, ImageFile.ImageFile) and (source.mode in ("RGB", "RGBA")) and _deep_colour(source, tags):
            return decode_image(_bytes_of(source, name), name, options)
        source.load()
        if source.mode == "F":
            values, bits = _upright(source), None
        elif source.mode == "I" or source.mode.startswith("I;16"):
            values, bits = _grey(_upright(source), tags)
        else:
            values, bits = _upright(source if source.mode == "RGB" else source.convert("RGB")), None
    except ItaclipError:
        raise
    except Exception as error:  # truncated files, conversions that Pillow lacks
        raise ItaclipError(f"{name}: mode {source.mode} cannot be read ({type(error).__name__}: {error}).") from error
    return _rgb(as_8_bits(values, bits, name, options.value_range))


def _grey(values: NDArray[Any], tags: Mapping[int, Any]) -> tuple[NDArray[Any], int | None]:
    """Values of the modes for more than 8 bits, and their bits if they can be 16-bit ones."""
    bits = _bits(tags) if tags else 16
    signed = 2 in tags.get(339, (1,))
    if signed or bits > 16 or values.min() < 0 or values.max() >= 2**bits:
        return values, None
    values = values.astype(np.uint16)
    return (values if tags.get(262) != 0 else (2**bits - 1) - values).astype(np.uint16), bits


def _deep_colour(source: ImageFile.ImageFile, tags: Mapping[int, Any]) -> bool:
    """Whether Pillow reduces, or has reduced, more than 8 bits of each colour, or drops bands."""
    if tags:
        return _bits(tags) > 8 or int(tags.get(277, 1)) > 4
    return bool(source.tile) and _is_deep(source)


def _bits(tags: Mapping[int, Any]) -> int:
    return max(int(bits) for bits in np.atleast_1d(tags.get(258, 1)))


def _bytes_of(source: ImageFile.ImageFile, name: str) -> bytes:
    """The file from which an image comes, while it is open."""
    file = getattr(source, "fp", None)
    if file is None or not source.tile or getattr(source, "n_frames", 1) > 1:
        raise ItaclipError(f"{name}: Pillow reduces its values to 8 bits or drops bands; pass the path or the bytes.")
    place = file.tell()
    file.seek(0)
    content: bytes = file.read()
    file.seek(place)
    return content


def _upright(image: Image.Image) -> NDArray[Any]:
    return np.asarray(ImageOps.exif_transpose(image))


# --- arrays and tensors ------------------------------------------------------


@dataclass(frozen=True)
class _Calls:
    """The calls that messages suggest."""

    move: str
    move_batch: str
    to_8_bits: str


_NUMPY = _Calls(".transpose(1, 2, 0)", "list(batch.transpose(0, 2, 3, 1))", '.astype("uint8")')
_TORCH = _Calls(".permute(1, 2, 0)", "list(batch.permute(0, 2, 3, 1))", ".to(torch.uint8)")


def _from_array(values: NDArray[Any], what: str, options: ReadOptions, calls: _Calls) -> NDArray[np.uint8]:
    shape = values.shape
    name = f"{what} of shape {shape} and dtype {values.dtype}"
    expected = "expected height x width x 3, uint8, RGB"
    if 0 in shape:
        raise ItaclipError(f"{name}: {expected}, not empty.")
    if values.ndim == 4:
        call = calls.move_batch if shape[1] in _BANDS and shape[3] not in _BANDS else "list(batch)"
        raise ItaclipError(f"{name}: {expected}. For a batch, pass a list of images: {call}.")
    if values.ndim == 3 and shape[0] in _BANDS and shape[2] not in _BANDS:
        raise ItaclipError(f"{name}: {expected}. The bands come last: pass image{calls.move}.")
    if values.ndim not in (2, 3) or (values.ndim == 3 and shape[2] not in _BANDS):
        more = " Choose three bands: image[..., [0, 1, 2]]." if values.ndim == 3 and shape[2] > 4 else ""
        raise ItaclipError(f"{name}: {expected}.{more}")
    if values.dtype.kind not in "uif":
        raise ItaclipError(f"{name}: {expected}. Convert the values: image{calls.to_8_bits}.")
    options.check_size((shape[1], shape[0]), what)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.ndim == 3:
        values = values[..., 0] if shape[2] == 1 else values[..., :3]
    if values.dtype.kind in "ui" and values.dtype not in (np.uint8, np.uint16) and options.value_range is None:
        low, high = int(values.min()), int(values.max())
        if low >= 0 and high <= 255:
            raise ItaclipError(f"{name}: {expected}. The values fit: pass image{calls.to_8_bits}.")
    if values.dtype.kind == "f" and options.value_range is None and values.min() >= 0 and values.max() <= 1:
        raise ItaclipError(
            f"{name}: {expected}. The values lie in [0, 1]: pass (image * 255){calls.to_8_bits}, or value_range=(0, 1) "
            "to Segmenter."
        )
    return _rgb(as_8_bits(values, 16 if values.dtype == np.uint16 else None, name, options.value_range))


def _rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if image.ndim == 2:
        return np.repeat(image[..., None], 3, axis=2)
    return np.ascontiguousarray(image)
