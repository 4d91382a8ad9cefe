"""Decode COCO's run-length encoded and polygon masks.

Polygons are filled by pycocotools, the format's own library, whose borders other libraries do not have. Run lengths are
decoded here: pycocotools takes some that do not add up to the image, and reads beyond them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from itaclip.formats.segments import missing_package


def decode_mask(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Decode the mask of an annotation.

    Args:
        segmentation: run lengths ``{"size": [h, w], "counts": [...] or "..."}``, a list of
            polygons ``[[x, y, x, y, ...], ...]``, or a single polygon.
        height: height of the image in pixels.
        width: width of the image in pixels.

    Returns:
        height x width bool.

    Raises:
        ValueError: another format, a mask of another size, or polygons without pycocotools.
    """
    if isinstance(segmentation, dict):
        return _decode_runs(segmentation, height, width)
    if isinstance(segmentation, list) and segmentation:
        return _fill(segmentation if isinstance(segmentation[0], list) else [segmentation], height, width)
    raise ValueError(f"segmentation {str(segmentation)[:40]!r} is neither run lengths nor polygons")


def _fill(polygons: list[list[float]], height: int, width: int) -> NDArray[np.bool_]:
    """Fill polygons as COCO's own tools do: height x width bool."""
    try:
        from pycocotools import mask
    except ImportError:
        raise missing_package("filling polygons", "pycocotools", "coco") from None
    corners = [[float(value) for value in polygon] for polygon in polygons]
    if bad := next((one for one in corners if len(one) < 6 or len(one) % 2), None):
        raise ValueError(f"a polygon of {len(bad)} numbers: expected x and y of three corners or more")
    filled: NDArray[np.uint8] = mask.decode(mask.merge(mask.frPyObjects(corners, height, width)))
    return filled.astype(bool)


def _decode_runs(runs: dict[str, Any], height: int, width: int) -> NDArray[np.bool_]:
    """Decode runs: they alternate between 0 and 1, start with 0, and go down the columns."""
    if list(runs.get("size", ())) != [height, width]:
        raise ValueError(f"run lengths of size {runs.get('size')} for an image of {height} x {width}")
    counts = runs.get("counts")
    lengths = _unpack(counts) if isinstance(counts, str) else counts
    if not isinstance(lengths, list) or any(length < 0 for length in lengths) or sum(lengths) != height * width:
        raise ValueError(f"run lengths do not add up to {height} x {width}")
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(width, height).T


def _unpack(text: str) -> list[int]:
    """Decode COCO's compressed run lengths.

    Each character holds five bits, lowest first, and a continuation flag; the last bit of a
    number is its sign. From the fourth number on, each is stored as the difference from the
    number two positions earlier.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"compressed run lengths contain the invalid character {character!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("compressed run lengths end in the middle of a number")
    return lengths
