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
"""Pixels that count neither for nor against."""


def read_label_map(path: Path) -> LabelMap:
    """Read a label map as it is stored: grey values, or palette indices (not colours).

    Returns:
        H x W, uint8.

    Raises:
        ItaclipError: missing, damaged, or not a picture of one 8-bit channel.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P"):
                raise ItaclipError(
                    f"{path}: is a picture of mode {image.mode}; a label map has one 8-bit channel (L or P) "
                    "that holds class ids, not colours."
                )
            return np.array(image)
    except ItaclipError:
        raise
    except FileNotFoundError:
        raise ItaclipError(f"{path}: no such file.") from None
    # Pillow reports a damaged PNG in any of these ways, depending on where it trips
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ItaclipError(f"{path}: cannot be decoded ({error}); extract or fetch it again.") from error


def write_label_map(path: Path, labels: LabelMap) -> None:
    """Write H x W uint8 ids as a grey PNG, whole or not at all."""
    buffer = io.BytesIO()
    Image.fromarray(labels).save(buffer, "PNG")
    with atomic_path(path) as partial:
        partial.write_bytes(buffer.getvalue())


def lookup_table(mapping: dict[int, int], default: int) -> LabelMap:
    """A table of 256 entries: ``table[labels]`` maps a label map; `default` where nothing is said."""
    table = np.full(256, default, np.uint8)
    for source, target in mapping.items():
        table[source] = target
    return table
