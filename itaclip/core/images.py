"""Read images from files, PIL images or arrays as 8-bit RGB."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from itaclip.clip.towers import MEAN, STD
from itaclip.errors import ItaclipError
from itaclip.files import local_path

ImageSource: TypeAlias = "str | os.PathLike[str] | Image.Image | NDArray[Any]"

LARGEST = 100_000_000
"""Maximum number of pixels to decode: 300 MB as RGB. Small files can claim far more."""

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats to open. PIL supports more, but starts other programs for some of them (EPS)."""

_ADDRESS_REMEDY = "Download it first; itaclip.pipeline(..., allow_urls=True) and `itaclip label` read addresses."


class ImageTooLargeError(ItaclipError):
    """An image with more pixels than the limit."""


def read_image(source: ImageSource, largest: int = LARGEST) -> NDArray[np.uint8]:
    """Read an image in its intended orientation: H x W x 3 uint8 RGB.

    OpenCV decodes files, as in MMSegmentation, so that results agree pixel by pixel. The
    orientation in the EXIF data is applied; transparency is dropped.

    Args:
        source: a path, a PIL image, or an array: H x W x 3 (or x 4, or H x W) uint8, RGB.
        largest: the limit in pixels; larger images raise an error.

    Raises:
        ItaclipError: no such file, not an image, damaged, too large, or an array of another
            shape or dtype. The message names the file, or the shape and dtype.
    """
    if isinstance(source, (str, os.PathLike)):
        path = local_path(source, _ADDRESS_REMEDY)
        return decode_image(_content(path), str(path), largest)
    if isinstance(source, Image.Image):
        _check_size(source.size, "image", largest)
        return np.asarray(ImageOps.exif_transpose(source).convert("RGB"))
    if not isinstance(source, np.ndarray):
        raise ItaclipError(f"image of type {type(source).__name__}: expected a path, a PIL image or a uint8 array.")
    shape = source.shape
    grey = source.ndim == 2
    if source.dtype != np.uint8 or not (grey or (source.ndim == 3 and shape[2] in (1, 3, 4))) or 0 in shape:
        raise ItaclipError(f"array of shape {shape} and dtype {source.dtype}: expected height x width x 3, uint8, RGB.")
    _check_size((shape[1], shape[0]), "array", largest)
    if grey or shape[2] == 1:
        return np.repeat(source.reshape(*shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(source[..., :3])


def decode_image(content: bytes, name: str, largest: int = LARGEST) -> NDArray[np.uint8]:
    """Decode the bytes of an image file like `read_image`: H x W x 3 uint8 RGB.

    Args:
        content: the bytes of the whole file.
        name: the name used in messages.
        largest: the limit in pixels; larger images raise an error.

    Raises:
        ItaclipError: not an image, damaged, or too large (`ImageTooLargeError`). The message begins
            with the name.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes are checked here, so PIL need not warn
            with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
                _check_size(opened.size, name, largest)
                opened.load()  # OpenCV would fill the missing part of a damaged file with grey
                decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
                if decoded is None:  # a format that only PIL knows
                    return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    except UnidentifiedImageError:
        raise ItaclipError(f"{name}: not an image in a supported format: {', '.join(FORMATS)}.") from None
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(f"{name}: too large ({str(error).splitlines()[0]}).") from None
    except ItaclipError:
        raise
    except Exception as error:  # decoders raise all kinds of exceptions for damaged content
        raise ItaclipError(f"{name}: damaged ({type(error).__name__}: {error}).") from error
    return np.ascontiguousarray(decoded[..., ::-1])


def normalise(rgb: NDArray[np.uint8]) -> Tensor:
    """Convert H x W x 3 uint8 RGB to 3 x H x W float32 with CLIP's mean and standard deviation."""
    pixels = torch.from_numpy(rgb.astype(np.float32)).permute(2, 0, 1)
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ItaclipError(f"{path}: no such file.") from None
    except OSError as error:
        raise ItaclipError(f"{path}: cannot be read ({error.strerror or error}).") from error


def denormalise(image: Tensor) -> NDArray[np.uint8]:
    """Invert `normalise`: 3 x H x W, normalised, to H x W x 3 uint8 RGB."""
    pixels = image.detach().float().cpu() * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    return pixels.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def _check_size(size: tuple[int, int], name: str, largest: int) -> None:
    width, height = size
    if width * height > largest:
        raise ImageTooLargeError(
            f"{name}: {width} x {height} pixels; at most {largest:,} are accepted. Reduce it, or raise the limit."
        )
