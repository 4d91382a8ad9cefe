"""Label maps: one 8-bit id per pixel, stored as PNG."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from itaclip.errors import ItaclipError
from itaclip.files import atomic_path

LabelMap = NDArray[np.uint8]

IGNORED = 255
"""Label of pixels that metrics ignore."""


def read_label_map(path: Path) -> LabelMap:
    """Read the stored values of a label map: grey values or palette indices (not colours).

    Returns:
        H x W uint8.

    Raises:
        ItaclipError: the file is missing, damaged, or not an image with one 8-bit channel.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P"):
                raise ItaclipError(
                    f"{path}: image of mode {image.mode}; a label map has one 8-bit channel (L or P) with class "
                    "ids, not colours."
                )
            return np.array(image)
    except ItaclipError:
        raise
    except FileNotFoundError:
        raise ItaclipError(f"{path}: no such file.") from None
    # Pillow raises any of these for a damaged PNG
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ItaclipError(f"{path}: cannot be decoded ({error}); extract or download it again.") from error


def write_label_map(path: Path, labels: LabelMap) -> None:
    """Write H x W uint8 ids as a greyscale PNG, atomically."""
    buffer = io.BytesIO()
    Image.fromarray(labels).save(buffer, "PNG")
    with atomic_path(path) as partial:
        partial.write_bytes(buffer.getvalue())


def lookup_table(mapping: dict[int, int], default: int) -> LabelMap:
    """A table of 256 entries for ``table[labels]``; values missing from `mapping` become `default`."""
    table = np.full(256, default, np.uint8)
    for source, target in mapping.items():
        table[source] = target
    return table
