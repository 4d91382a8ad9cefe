"""Decode the bytes of image files; the rules are in docs/images.md."""

from __future__ import annotations

import io
import struct
import warnings
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from itaclip.common.images import tiff
from itaclip.common.images.options import ReadOptions
from itaclip.common.images.values import as_8_bits
from itaclip.errors import ItaclipError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats to open. PIL supports more, but starts other programs for some of them (EPS)."""


def decode_image(content: bytes, name: str, options: ReadOptions | None = None) -> NDArray[np.uint8]:
    """Decode the bytes of an image file like `read_image`: H x W x 3 uint8 RGB.

    Args:
        content: the bytes of the whole file.
        name: the name used in messages.
        options: see `read_image`.

    Raises:
        ItaclipError: see `read_image`; `ImageTooLargeError` for a size above the limit. The message
            begins with the name.
    """
    options = options or ReadOptions()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about metadata
            values, bits = (_decode_tiff if tiff.is_tiff(content) else _decode)(content, name, options)
    except ItaclipError:
        raise
    except Exception as error:  # decoders raise all kinds of exceptions for damaged content
        raise ItaclipError(f"{name}: damaged ({type(error).__name__}: {error}).") from error
    return as_rgb(as_8_bits(values, bits, name, options.value_range))


def check_for_opencv(content: bytes, name: str, options: ReadOptions | None = None) -> None:
    """Refuse files that OpenCV, called without these rules as MMSegmentation does, would read wrongly.

    Files that are no image at all pass: the caller may have other means to read them.

    Raises:
        ItaclipError: see `decode_image`; also for a TIFF whose colours OpenCV multiplies by its alpha.
    """
    options = options or ReadOptions()
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
                    if is_deep(opened) or _top(opened) is not None or opened.mode == "F":
                        if (_top(opened) or 65535) < 65535:
                            raise ItaclipError(f"{name}: OpenCV would not scale values of 0 to {_top(opened)}.")
                        as_8_bits(*_decode(content, name, options), name, None)
            if opened is not None:
                opened.load()
    except ItaclipError:
        raise
    except Exception as error:
        raise ItaclipError(f"{name}: damaged ({type(error).__name__}: {error}).") from error


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
        deep, top = is_deep(opened), _top(opened)
        opened.load()  # OpenCV would fill the missing part of a damaged file with grey
        if opened.mode == "F":
            return upright(opened), None
        if deep:
            values = _by_opencv(content, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
            if values is None and opened.mode.startswith("I;16"):  # sides beyond OpenCV's limit
                return upright(opened), 16
            if values is None or values.dtype != np.uint16:
                raise ItaclipError(f"{name}: OpenCV cannot decode this 16-bit image; save it as TIFF.")
            return values if top is None else np.rint(values * (65535.0 / top)).astype(np.uint16), 16
        if top is not None:  # OpenCV takes these values as they are: nearly black
            return upright(opened.convert("RGB")), None
        values = _by_opencv(content, cv2.IMREAD_COLOR)
        return upright(opened.convert("RGB")) if values is None else values, None


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
    values = None if layout.multiplied_by_opencv else _by_opencv(content, cv2.IMREAD_COLOR)
    if values is None:
        values = upright(opened.convert("RGB")) if opened else tiff.decode_plainly(content, layout, name)
    return values, None


def _by_opencv(content: bytes, flags: int) -> NDArray[Any] | None:
    """Decode H x W x 3 RGB; None for a format or size that OpenCV does not read."""
    try:
        decoded = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        return None
    return None if decoded is None else decoded[..., ::-1]


def _webp_size(content: bytes) -> tuple[int, int]:
    """Read the width and height that the first chunk of a WebP file states."""
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


def is_deep(opened: ImageFile.ImageFile) -> bool:
    """Tell whether the file, not loaded yet, has integers of more than 8 bits."""
    if opened.format == "PPM":
        return opened.mode == "I" or (_stated(opened) or 0) > 255
    return opened.format == "PNG" and "16" in _raw_mode(opened)


def _raw_mode(opened: ImageFile.ImageFile) -> str:
    arguments = opened.tile[0][3] if opened.tile else ""
    first = arguments[0] if isinstance(arguments, tuple) else arguments
    return str(first)


def _top(opened: ImageFile.ImageFile) -> int | None:
    """Return the highest value that the header of a PPM or PGM file states, unless all bits are used."""
    stated = _stated(opened)
    return stated if stated not in (255, 65535) else None


def _stated(opened: ImageFile.ImageFile) -> int | None:
    """Return the highest value in the header of a PPM or PGM file, not loaded yet; None if Pillow reads it as it is."""
    arguments = opened.tile[0][3] if opened.tile and opened.format == "PPM" else None
    if not isinstance(arguments, tuple) or len(arguments) != 2 or arguments[0] not in ("L", "RGB"):
        return None
    return int(arguments[1]) if isinstance(arguments[1], int) else None


def upright(image: Image.Image) -> NDArray[Any]:
    """Turn the pixels of an image as its EXIF orientation says."""
    return np.asarray(ImageOps.exif_transpose(image))


def as_rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert H x W (x 3) to contiguous H x W x 3."""
    if image.ndim == 2:
        return np.repeat(image[..., None], 3, axis=2)
    return np.ascontiguousarray(image)
