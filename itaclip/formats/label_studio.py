"""Label Studio predictions: a brush mask per class, in the run-length encoding of its editor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from itaclip.formats.segments import Segment

_LENGTH_BITS = np.array([3, 4, 8, 16])
"""Bit widths for the length of a run; each run uses the smallest that fits."""

_VALUE_BITS = 8
_CHANNELS = 4  # the editor's canvas is RGBA; a mask fills all four channels


def to_label_studio(
    segments: Sequence[Segment], size: tuple[int, int], from_name: str, to_name: str, model_version: str
) -> dict[str, Any]:
    """Make a JSON-serialisable prediction for a task.

    Args:
        segments: classes to include.
        size: height and width of the image.
        from_name: name of the ``BrushLabels`` tag in the labelling configuration.
        to_name: name of its ``Image`` tag.
        model_version: shown next to the prediction.

    Returns:
        ``model_version``, ``score`` (mean over the pixels of all segments; 0.0 if there are none)
        and ``result``, one region per segment.
    """
    height, width = size
    areas = np.array([segment.mask.sum() for segment in segments])
    scores = np.array([segment.score for segment in segments])
    regions = [
        {
            "id": f"itaclip-{segment.label}", "from_name": from_name, "to_name": to_name, "type": "brushlabels",
            "original_width": width, "original_height": height, "image_rotation": 0, "score": segment.score,
            "value": {"format": "rle", "rle": encode_brush(segment.mask), "brushlabels": [segment.name]},
        }
        for segment in segments
    ]  # fmt: skip
    score = float((areas * scores).sum() / areas.sum()) if segments else 0.0
    return {"model_version": model_version, "score": score, "result": regions}


def encode_brush(mask: NDArray[np.bool_]) -> list[int]:
    """Encode a mask as Label Studio brush RLE.

    The format is a bit stream: the number of values (32 bits), their bit width minus one (5 bits),
    the four widths of run lengths minus one (4 bits each); then the runs, each a 1 bit, the index
    of its width (2 bits), its length minus one, and its value; padded with zeros to a whole byte.
    The values are those of an RGBA canvas, row by row: 255 inside the mask, 0 outside.

    Args:
        mask: H x W bool.

    Returns:
        The bytes, as integers.
    """
    flat = mask.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
    lengths = np.diff(starts, append=flat.size) * _CHANNELS
    values = np.where(flat[starts], 255, 0)

    longest = 1 << int(_LENGTH_BITS[-1])
    pieces = -(-lengths // longest)  # longer runs are split
    last = np.cumsum(pieces) - 1
    values = np.repeat(values, pieces)
    whole = np.full(len(values), longest)
    whole[last] = lengths - (pieces - 1) * longest

    kinds = np.searchsorted(1 << _LENGTH_BITS, whole)
    bits = _LENGTH_BITS[kinds]
    codes = (((4 | kinds) << bits | (whole - 1)) << _VALUE_BITS) | values
    header = [*_bits(flat.size * _CHANNELS, 32), *_bits(_VALUE_BITS - 1, 5)]
    for width in _LENGTH_BITS:
        header += _bits(int(width) - 1, 4)
    widest = 3 + int(_LENGTH_BITS[-1]) + _VALUE_BITS
    shifts = np.arange(widest - 1, -1, -1)
    table = (codes[:, None] >> shifts) & 1
    body = table[shifts < (3 + bits + _VALUE_BITS)[:, None]]
    return np.packbits(np.concatenate([header, body]).astype(np.uint8)).tolist()


def _bits(value: int, width: int) -> list[int]:
    return [value >> shift & 1 for shift in range(width - 1, -1, -1)]
