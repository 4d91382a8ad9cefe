"""What the page needs to draw a result and to read its pixels without asking again."""

from __future__ import annotations

import base64
import io
import re
import zlib
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from itaclip.result import Result

_SCORE_SIDE = 480  # longest side in pixels of a class's score map
_MOST_SCORE_MAPS = 24
_NOT_SHOWN = re.compile(rb"II\*\0|MM\0\*|P[1-7]\s")  # TIFF, PPM: browsers do not decode them


def view(result: Result, upload: bytes, with_coco: bool) -> dict[str, Any]:
    """Make arrays for the page, ready for JSON.

    Args:
        result: what to show, with the scores of all classes.
        upload: content of the image file that the visitor sent.
        with_coco: whether pycocotools is installed.

    Returns:
        ``labels`` (H x W class ids), ``score`` and ``runner_up_score`` (h x w, of the pixel's
        class and of the best other class), ``runner_up`` (h x w, its class id), ``score_maps``
        by class id (the 24 highest, at most 480 pixels wide and high); ``picture``, a JPEG in
        base64 if browsers cannot decode the upload; ``summary``, and ``coco`` if pycocotools
        is installed. Scores are in 0..255 for [0, 1]. For the arrays see `_packed`.
    """
    own, second, second_score = runner_up(result)
    shown = _NOT_SHOWN.match(upload) is None
    return {
        "labels": _packed(result.labels.astype(_id_type(result))),
        "score": _packed(_quantised(own)),
        "runner_up": _packed(second.astype(_id_type(result))),
        "runner_up_score": _packed(_quantised(second_score)),
        "score_maps": {str(i): _packed(_quantised(scores)) for i, scores in score_maps(result).items()},
        "picture": None if shown else _jpeg(result.image),
        "summary": result.summary(),
        "coco": result.to_coco() if with_coco else None,
    }


def runner_up(result: Result) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
    """Find for every pixel the score of its class, the best other class, and that one's score: h x w each.

    With a single class, the runner-up is that class with score 0.
    """
    labels, found = _at_size_of_scores(result), result.scores
    second, best = labels.copy(), np.zeros(labels.shape, np.float32)
    for classes, scores in zip(found.classes[::-1], found.values[::-1], strict=True):  # the best one last
        other = (classes >= 0) & (classes != labels)
        second[other], best[other] = classes[other], scores[other]
    return found.own, second, best


def score_maps(result: Result) -> dict[int, NDArray[np.float32]]:
    """Score maps of the classes with the highest peaks, reduced, by class id; the highest first."""
    highest = np.array([result.scores.of(i).max() for i in range(len(result.names))])
    height, width = result.scores.own.shape
    factor = min(1.0, _SCORE_SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    order = np.argsort(-highest, kind="stable")[:_MOST_SCORE_MAPS]
    return {int(i): cv2.resize(result.scores.of(i), size, interpolation=cv2.INTER_AREA) for i in order}


def _at_size_of_scores(result: Result) -> NDArray[np.int32]:
    """Return the labels as they were decided, before they were enlarged to the image: h x w.

    This inverts `itaclip.core.regions.maps.resize_map`; resizing again would shift some labels by a pixel.
    """
    sizes = zip(result.labels.shape, result.scores.own.shape, strict=True)
    rows, columns = (-(-np.arange(have) * side // have) for side, have in sizes)
    return result.labels[rows[:, None], columns]


def _id_type(result: Result) -> type[np.uint8] | type[np.uint16]:
    return np.uint8 if len(result.names) <= 256 else np.uint16


def _quantised(scores: NDArray[np.float32]) -> NDArray[np.uint8]:
    quantised: NDArray[np.uint8] = np.rint(scores * 255).clip(0, 255).astype(np.uint8)
    return quantised


def _packed(array: NDArray[Any]) -> dict[str, Any]:
    """Pack height, width and bytes per value; the values row by row, little-endian, as zlib in base64."""
    content = zlib.compress(array.astype(array.dtype.newbyteorder("<")).tobytes(), 4)
    height, width = array.shape
    return {
        "height": height, "width": width, "bytes": array.dtype.itemsize,
        "data": base64.b64encode(content).decode("ascii"),
    }  # fmt: skip


def _jpeg(image: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=92)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
