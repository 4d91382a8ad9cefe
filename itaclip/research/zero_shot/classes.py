"""Seen and unseen classes, and the mapping of their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from itaclip.errors import ItaclipError, did_you_mean
from itaclip.research.preparation.masks import IGNORED
from itaclip.research.zero_shot.settings import MODES, Mode


@dataclass(frozen=True)
class ClassSplit:
    """The classes of a data set, divided into those with training masks (seen) and those without (unseen).

    Attributes:
        classes: names in label order.
        seen: ascending class ids of the seen classes.
        unseen: ascending class ids of the unseen classes.
    """

    classes: tuple[str, ...]
    seen: tuple[int, ...]
    unseen: tuple[int, ...]

    @classmethod
    def of(
        cls, classes: Sequence[str], unseen: Sequence[str | int], seen: Sequence[str | int] | None = None
    ) -> ClassSplit:
        """Divide classes, each given by name or class id.

        Args:
            classes: names in label order.
            unseen: the unseen classes; empty for full supervision.
            seen: the seen classes; None for all others.

        Raises:
            ItaclipError: an unknown class, a class named twice, in both groups or in neither, or
                no seen class.
        """
        unseen_ids = _class_ids(classes, unseen, "unseen")
        if seen is None:
            seen_ids = [k for k in range(len(classes)) if k not in unseen_ids]
        else:
            seen_ids = _class_ids(classes, seen, "seen")
            if both := sorted(set(seen_ids) & set(unseen_ids)):
                raise ItaclipError(f"{classes[both[0]]!r} is both seen and unseen; remove it from one list.")
            if missing := sorted(set(range(len(classes))) - set(seen_ids) - set(unseen_ids)):
                raise ItaclipError(
                    f"{classes[missing[0]]!r} is neither seen nor unseen ({len(missing)} of {len(classes)} classes are "
                    "missing); add it to one list."
                )
        if not seen_ids:
            raise ItaclipError("there are no seen classes to train with.")
        return cls(tuple(classes), tuple(sorted(seen_ids)), tuple(sorted(unseen_ids)))

    def for_training(self, mode: Mode) -> ClassSplit:
        """Return the split for training in a mode: with full supervision, every class is seen.

        Raises:
            ItaclipError: an unknown mode, or no unseen classes although the mode needs them.
        """
        if mode not in MODES:
            raise ItaclipError(f"mode = {mode!r}: expected one of {', '.join(MODES)}.{did_you_mean(mode, MODES)}")
        if mode == "fully":
            return ClassSplit(self.classes, tuple(range(len(self.classes))), ())
        if not self.unseen:
            raise ItaclipError(f"mode = {mode!r} needs unseen classes; list them, or set mode = 'fully'.")
        return self


def _class_ids(classes: Sequence[str], given: Sequence[str | int], group: str) -> list[int]:
    id_of = {name: k for k, name in enumerate(classes)}
    ids: list[int] = []
    for entry in given:
        k = id_of.get(entry, -1) if isinstance(entry, str) else entry
        if not 0 <= k < len(classes):
            hint = did_you_mean(entry, classes) if isinstance(entry, str) else f" Labels are 0..{len(classes) - 1}."
            raise ItaclipError(f"{group} class {entry!r} is not one of the {len(classes)} classes.{hint}")
        if k in ids:
            raise ItaclipError(f"{group} class {entry!r} is listed twice.")
        ids.append(k)
    return ids


def label_table(split: ClassSplit, mode: Mode) -> Tensor:
    """Make a table of 256 int64 that maps raw labels to training labels.

    In inductive mode the head gets only the seen classes, so a seen label becomes its rank among
    them; in the other modes it gets all classes, and labels stay the same. Unseen labels, invalid
    labels and 255 become 255.
    """
    table = torch.full((256,), IGNORED)
    for rank, k in enumerate(split.seen):
        table[k] = rank if mode == "inductive" else k
    return table


def is_unseen(labels: Tensor, split: ClassSplit) -> Tensor:
    """Mask (bool) of the raw labels (any shape) that belong to an unseen class."""
    return torch.isin(labels, labels.new_tensor(split.unseen))
