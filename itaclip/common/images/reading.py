"""Read images by any route: a path, bytes, a PIL image, an array, a tensor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, SAMPLEFORMAT, SAMPLESPERPIXEL

from itaclip.common.images.decoding import as_rgb, decode_image, is_deep, upright
from itaclip.common.images.options import ReadOptions
from itaclip.common.images.values import as_8_bits
from itaclip.errors import ItaclipError
from itaclip.files import local_path

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[Any] | torch.Tensor"

_BANDS = (1, 3, 4)  # of an array

_ADDRESS_REMEDY = "Download it first; itaclip.pipeline(..., allow_urls=True) and `itaclip label` read addresses."


def read_image(source: ImageSource, options: ReadOptions | None = None) -> NDArray[np.uint8]:
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
    options = options or ReadOptions()
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
    """Tell whether a value stands for one image rather than for several."""
    return isinstance(source, (str, os.PathLike, bytes, Image.Image, np.ndarray, torch.Tensor))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ItaclipError(f"{path}: no such file.") from None
    except OSError as error:
        raise ItaclipError(f"{path}: cannot be read ({error.strerror or error}).") from error


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
            values, bits = upright(source), None
        elif source.mode == "I" or source.mode.startswith("I;16"):
            values, bits = _grey(upright(source), tags)
        else:
            values, bits = upright(source if source.mode == "RGB" else source.convert("RGB")), None
    except ItaclipError:
        raise
    except Exception as error:  # truncated files, conversions that Pillow lacks
        raise ItaclipError(f"{name}: mode {source.mode} cannot be read ({type(error).__name__}: {error}).") from error
    return as_rgb(as_8_bits(values, bits, name, options.value_range))


def _grey(values: NDArray[Any], tags: Mapping[int, Any]) -> tuple[NDArray[Any], int | None]:
    """Return the values of the modes for more than 8 bits, and their bits if they can be 16-bit ones."""
    bits = _bits(tags) if tags else 16
    signed = 2 in tags.get(SAMPLEFORMAT, (1,))
    if signed or bits > 16 or values.min() < 0 or values.max() >= 2**bits:
        return values, None
    values = values.astype(np.uint16)
    return (values if tags.get(PHOTOMETRIC_INTERPRETATION) != 0 else (2**bits - 1) - values).astype(np.uint16), bits


def _deep_colour(source: ImageFile.ImageFile, tags: Mapping[int, Any]) -> bool:
    """Tell whether Pillow reduces, or has reduced, more than 8 bits of each colour, or drops bands."""
    if tags:
        return _bits(tags) > 8 or int(tags.get(SAMPLESPERPIXEL, 1)) > 4
    return bool(source.tile) and is_deep(source)


def _bits(tags: Mapping[int, Any]) -> int:
    return max(int(bits) for bits in np.atleast_1d(tags.get(BITSPERSAMPLE, 1)))


def _bytes_of(source: ImageFile.ImageFile, name: str) -> bytes:
    """Return the file from which an image comes, while it is open."""
    file = getattr(source, "fp", None)
    if file is None or not source.tile or getattr(source, "n_frames", 1) > 1:
        raise ItaclipError(f"{name}: Pillow reduces its values to 8 bits or drops bands; pass the path or the bytes.")
    place = file.tell()
    file.seek(0)
    content: bytes = file.read()
    file.seek(place)
    return content


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
    return as_rgb(as_8_bits(values, 16 if values.dtype == np.uint16 else None, name, options.value_range))
