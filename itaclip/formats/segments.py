"""The input of most formats: the classes that occur, each with its mask and mean score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def iterate_segments(labels: NDArray[np.int32], names: Sequence[str], scores: NDArray[np.float32]) -> Iterator[Segment]:
    """Yield the classes that occur, in label order, so that only one mask need be in memory.

    Args:
        labels: H x W int32 class ids, indices into `names`.
        names: K class names.
        scores: K x h x w float32 class scores in [0, 1]; h x w may be smaller than H x W.
    """
    height, width = labels.shape
    for label in np.unique(labels).tolist():
        mask = labels == label
        score = scores[label]
        if score.shape != labels.shape:
            score = cv2.resize(score, (width, height), interpolation=cv2.INTER_LINEAR)
        yield Segment(label, names[label], mask, float(score[mask].mean()))


def segments_of(labels: NDArray[np.int32], names: Sequence[str], scores: NDArray[np.float32]) -> list[Segment]:
    """The classes that occur, in label order; see `iterate_segments`."""
    return list(iterate_segments(labels, names, scores))


def missing_package(what: str, package: str, extra: str) -> ItaclipError:
    """The error to raise when an optional package is not installed."""
    return ItaclipError(f"{what} requires {package}: {install_extra(extra)}.")
