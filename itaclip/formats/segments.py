"""The input of most formats: the classes that occur, each with its mask and mean score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from itaclip.errors import ItaclipError, install_extra


@dataclass(frozen=True)
class Segment:
    """A class that occurs in an image.

    Attributes:
        label: class id.
        name: class name.
        mask: H x W bool.
        score: mean class score over the mask, in [0, 1].
    """

    label: int
    name: str
    mask: NDArray[np.bool_]
    score: float


def segments_of(labels: NDArray[np.int32], names: Sequence[str], scores: NDArray[np.float32]) -> list[Segment]:
    """The classes that occur, in label order.

    Args:
        labels: H x W int32 class ids, indices into `names`.
        names: K class names.
        scores: K x h x w float32 class scores in [0, 1]; h x w may be smaller than H x W.
    """
    height, width = labels.shape
    found = []
    for label in np.unique(labels).tolist():
        mask = labels == label
        score = scores[label]
        if score.shape != labels.shape:
            score = cv2.resize(score, (width, height), interpolation=cv2.INTER_LINEAR)
        found.append(Segment(label, names[label], mask, float(score[mask].mean())))
    return found


def missing_package(what: str, package: str, extra: str) -> ItaclipError:
    """The error to raise when an optional package is not installed."""
    return ItaclipError(f"{what} requires {package}: {install_extra(extra)}.")
