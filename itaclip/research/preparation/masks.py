"""Label maps: one id per pixel, stored as PNG."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from itaclip.errors import ItaclipError
from itaclip.files import atomic_path

LabelMap = NDArray[np.uint8]
DeepLabelMap = NDArray[np.uint16]

Color: TypeAlias = tuple[int, int, int]
"""Red, green, blue; 0..255."""

IGNORED = 255
"""Label of pixels that metrics ignore, in 8-bit masks."""

DEEP_IGNORED = 65535
"""The same in 16-bit masks, which data sets of more than 255 classes have."""


def ignored_label(classes: int) -> int:
    """Return the label of ignored pixels in the masks of a data set with so many classes."""
    return DEEP_IGNORED if classes > IGNORED else IGNORED


CONVERT_COLORS = (
    "If colours stand for classes, python tools/convert_masks.py MASKS --colors voc|cityscapes|ade20k|FILE --out DIR "
    "converts them (docs/custom-dataset.md)."
)
"""Advice for masks whose colours mean classes."""


class ColorsError(ItaclipError):
    """A mask with colours where ids are expected."""


PALETTE: Final = "P"
GREY_MODES = ("L", PALETTE, "1")
"""Pillow's modes of 8-bit masks with one channel."""
DEEP_MODES = ("I;16", "I;16B", "I")
"""Pillow's modes of masks of more than 8 bits."""


@overload
def read_label_map(path: Path) -> LabelMap: ...


@overload
def read_label_map(path: Path, deep: bool) -> LabelMap | DeepLabelMap: ...


def read_label_map(path: Path, deep: bool = False) -> LabelMap | DeepLabelMap:
    """Read the stored values of a label map: grey values or palette indices (not colours).

    Args:
        path: an image file, usually PNG or TIFF.
        deep: whether values above 255 are allowed, as masks of more than 255 classes have them.

    Returns:
        H x W uint8, or uint16 if `deep`. Bilevel files hold 0 and 1.

    Raises:
        ColorsError: an image with colours.
        ItaclipError: the file is missing, damaged, or has values above 255 (if `deep`, above 65535).
    """
    return read_label_map_and_colors(path, deep)[0]


def read_label_map_and_colors(path: Path, deep: bool = False) -> tuple[LabelMap | DeepLabelMap, dict[int, Color]]:
    """Read a label map, and the colours that a paletted file shows its values in.

    Returns:
        H x W stored values as `read_label_map` returns them, and the RGB colour of every value that occurs;
        {} without a palette.

    Raises:
        ItaclipError: see `read_label_map`.
    """
    kind = np.uint16 if deep else np.uint8
    with opened_mask(path) as image:
        values = np.array(image)
        if image.mode in DEEP_MODES:
            if values.size and not 0 <= values.min() <= values.max() <= np.iinfo(kind).max:
                ignored = np.iinfo(kind).max
                raise ItaclipError(
                    f"{path}: image of mode {image.mode} with values {int(values.min())} to {int(values.max())}; a "
                    f"label map has one channel with class ids 0..{ignored - 1} and {ignored} for ignored pixels."
                )
        elif image.mode not in GREY_MODES:
            raise ColorsError(
                f"{path}: image of mode {image.mode}; a label map has one 8-bit channel (L or P) with class ids, not "
                "colours."
            )
        labels = values.astype(kind)
        if image.mode != PALETTE:
            return labels, {}
        shown = np.zeros((256, 3), np.uint8)
        stored = np.frombuffer(image.palette.tobytes() if image.palette else b"", np.uint8)
        if image.palette is None or image.palette.mode != "RGB":
            return labels, {}
        shown[: len(stored) // 3] = stored[: len(stored) // 3 * 3].reshape(-1, 3)[:256]
        return labels, {int(i): (int(shown[i][0]), int(shown[i][1]), int(shown[i][2])) for i in np.unique(labels)}


@contextmanager
def opened_mask(path: Path) -> Iterator[Image.Image]:
    """Open a mask with Pillow.

    Raises:
        ItaclipError: the file is missing or damaged.
    """
    try:
        with Image.open(path) as image:
            yield image
    except ItaclipError:
        raise
    except FileNotFoundError:
        raise ItaclipError(f"{path}: no such file.") from None
    # Pillow raises any of these for a damaged PNG
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ItaclipError(f"{path}: cannot be decoded ({error}); extract or download it again.") from error


def write_label_map(path: Path, labels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    """Write H x W uint8 or uint16 ids as a greyscale PNG, or TIFF if the path says so, of 8 or 16 bits, atomically."""
    buffer = io.BytesIO()
    if path.suffix.lower() in (".tif", ".tiff"):
        Image.fromarray(labels).save(buffer, "TIFF", compression="tiff_deflate")
    else:
        Image.fromarray(labels).save(buffer, "PNG")
    with atomic_path(path) as partial:
        partial.write_bytes(buffer.getvalue())


def lookup_table(mapping: dict[int, int], default: int) -> LabelMap:
    """Make a table of 256 entries for ``table[labels]``; values missing from `mapping` become `default`."""
    table = np.full(256, default, np.uint8)
    for source, target in mapping.items():
        table[source] = target
    return table
