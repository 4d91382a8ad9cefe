"""The input of most formats: the classes that occur, each with its mask and mean score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from itaclip.core.regions.maps import resize_map
from itaclip.core.text.class_names import BACKGROUND_NAME
from itaclip.errors import ItaclipError, did_you_mean, install_extra


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
        scores: h x w float32 in [0, 1], of the class of every pixel; h x w may be smaller than H x W, of
            which the labels were enlarged then.
    """
    enlarged = resize_map(scores, labels.shape)
    for label in np.unique(labels).tolist():
        mask = labels == label
        yield Segment(label, names[label], mask, float(enlarged[mask].mean()))


def segments_of(labels: NDArray[np.int32], names: Sequence[str], scores: NDArray[np.float32]) -> list[Segment]:
    """List the classes that occur, in label order; see `iterate_segments`."""
    return list(iterate_segments(labels, names, scores))


def kept_labels(names: Sequence[str], skip: Sequence[str]) -> frozenset[int]:
    """Return the ids of the classes that `skip` does not name; "background" may be named even if there is none.

    Raises:
        ItaclipError: `skip` is a string, or names no class.
    """
    if isinstance(skip, str):
        raise ItaclipError(f"skip = {skip!r}: expected a list of class names, such as skip=[{skip!r}].")
    for name in skip:
        if name not in names and name != BACKGROUND_NAME:
            raise ItaclipError(f"skip: no class {name!r}.{did_you_mean(name, names)} Classes: {', '.join(names)}.")
    return frozenset(label for label, name in enumerate(names) if name not in skip)


def missing_package(what: str, package: str, extra: str) -> ItaclipError:
    """Make the error to raise when an optional package is not installed."""
    return ItaclipError(f"{what} requires {package}: {install_extra(extra)}.")
