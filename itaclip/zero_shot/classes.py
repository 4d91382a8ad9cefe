"""Seen and unseen classes, and what becomes of their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from itaclip.errors import ItaclipError, did_you_mean
from itaclip.zero_shot.settings import MODES, Mode

IGNORED = 255
"""The label of pixels without a class."""


@dataclass(frozen=True)
class ClassSplit:
    """The classes of a data set, divided into those with masks and those without.

    Attributes:
        classes: names in label order.
        seen: label numbers of the classes that training has masks of, ascending.
        unseen: those of the others, ascending.
    """

    classes: tuple[str, ...]
    seen: tuple[int, ...]
    unseen: tuple[int, ...]

    @classmethod
    def of(
        cls, classes: Sequence[str], unseen: Sequence[str | int], seen: Sequence[str | int] | None = None
    ) -> ClassSplit:
        """Divide classes, each given by its name or its label number.

        Args:
            classes: names in label order.
            unseen: the classes without masks; none for full supervision.
            seen: the classes with masks; None takes all others.

        Raises:
            ItaclipError: an unknown class, one named twice, on both sides or on neither,
                or no seen class at all.
        """
        hidden = _numbers(classes, unseen, "unseen")
        if seen is None:
            shown = [k for k in range(len(classes)) if k not in hidden]
        else:
            shown = _numbers(classes, seen, "seen")
            if both := sorted(set(shown) & set(hidden)):
                raise ItaclipError(f"{classes[both[0]]!r} is both seen and unseen; a class is one or the other.")
            if missed := sorted(set(range(len(classes))) - set(shown) - set(hidden)):
                raise ItaclipError(
                    f"{classes[missed[0]]!r} is neither seen nor unseen ({len(missed)} of {len(classes)} classes are "
                    "missed); name it on one side."
                )
        if not shown:
            raise ItaclipError("no class is seen, so there is nothing to train with.")
        return cls(tuple(classes), tuple(sorted(shown)), tuple(sorted(hidden)))

    def for_training(self, mode: Mode) -> ClassSplit:
        """The split that a mode trains with: full supervision sees every class.

        Raises:
            ItaclipError: an unknown mode, or one that needs unseen classes without any.
        """
        if mode not in MODES:
            raise ItaclipError(f"mode = {mode!r}: expected one of {', '.join(MODES)}.{did_you_mean(mode, MODES)}")
        if mode == "fully":
            return ClassSplit(self.classes, tuple(range(len(self.classes))), ())
        if not self.unseen:
            raise ItaclipError(f"mode = {mode!r} needs unseen classes; name some, or set mode = 'fully'.")
        return self


def _numbers(classes: Sequence[str], given: Sequence[str | int], side: str) -> list[int]:
    place = {name: k for k, name in enumerate(classes)}
    numbers: list[int] = []
    for entry in given:
        number = place.get(entry, -1) if isinstance(entry, str) else entry
        if not 0 <= number < len(classes):
            hint = did_you_mean(entry, classes) if isinstance(entry, str) else f" Labels are 0..{len(classes) - 1}."
            raise ItaclipError(f"{side} class {entry!r} is none of the {len(classes)} classes.{hint}")
        if number in numbers:
            raise ItaclipError(f"{side} class {entry!r} is named twice.")
        numbers.append(number)
    return numbers


def label_table(split: ClassSplit, mode: Mode) -> Tensor:
    """What becomes of every raw label in training: 256 int64, by raw label.

    In inductive mode the head is given the seen classes alone, so a seen label becomes its
    rank among them; in the other modes the head is given all classes and labels keep their
    numbers. Unseen labels, numbers beyond the classes and 255 become 255.
    """
    table = torch.full((256,), IGNORED)
    for rank, k in enumerate(split.seen):
        table[k] = rank if mode == "inductive" else k
    return table


def is_unseen(labels: Tensor, split: ClassSplit) -> Tensor:
    """Where raw labels (any shape) are of an unseen class: bool."""
    return torch.isin(labels, labels.new_tensor(split.unseen))
