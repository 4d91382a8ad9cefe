"""What is kept of the class scores of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itaclip.errors import ItaclipError

Array = TypeVar("Array")

Kept: TypeAlias = Literal["full"] | int
"""Which scores are kept: the best 1, 2, ... of every pixel, or "full" for those of all classes."""

KEPT = 2
"""By default the best class of every pixel and the runner-up are kept, whatever the number of classes."""


@dataclass(frozen=True, eq=False)
class Scores(Generic[Array]):
    """Class scores of an image, float32 in [0, 1], after the area rule; tensors or NumPy arrays.

    Scores need not sum to 1, because synonyms share the softmax.

    Attributes:
        own: h x w, of the class that the label map shows.
        classes: k x h x w int32, the k best classes of every pixel, best first; -1 where the area rule
            left fewer.
        values: k x h x w, their scores; 0 for -1.
        full: K x h x w, of all classes in label order; None unless "full" was asked for.
    """

    own: Array
    classes: Array
    values: Array
    full: Array | None = None

    def of(self, number: int) -> Array:
        """Scores of a class at every pixel, h x w.

        Raises:
            ItaclipError: only the best classes of every pixel were kept.
        """
        if self.full is None:
            raise ItaclipError(
                "only the scores of the best classes of every pixel were kept; "
                "ask for those of all classes with scores='full', as in segmenter(image, scores='full')."
            )
        one: Array = self.full[number]  # type: ignore[index]
        return one


def renumbered(scores: Scores[Tensor], ids: Tensor, classes: int) -> Scores[Tensor]:
    """Give the classes of a shortlist their ids among all classes; the others score 0.

    Args:
        scores: of the shortlist.
        ids: int64, ascending.
        classes: number of all classes, K.
    """
    found = torch.where(scores.classes < 0, -1, ids[scores.classes.clamp(min=0).long()]).int()
    full = scores.full
    if full is not None:
        full = full.new_zeros(classes, *full.shape[1:]).index_copy_(0, ids, full)
    return Scores(scores.own, found, scores.values, full)


def on_host(scores: Scores[Tensor]) -> Scores[NDArray[np.generic]]:
    """Copy scores to NumPy arrays."""
    full = None if scores.full is None else scores.full.cpu().numpy()
    return Scores(scores.own.cpu().numpy(), scores.classes.cpu().numpy(), scores.values.cpu().numpy(), full)


def checked_kept(kept: object) -> Kept:
    """Check which scores to keep.

    Raises:
        ItaclipError: neither "full" nor a positive number.
    """
    if kept == "full" or (isinstance(kept, int) and not isinstance(kept, bool) and kept >= 1):
        return kept
    raise ItaclipError(f"scores = {kept!r}: expected 'full', or how many of the best classes of every pixel to keep.")
