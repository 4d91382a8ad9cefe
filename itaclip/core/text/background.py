"""Words of the background, chosen from a lexicon by their text features alone; no image is needed.

The greedy choice, its constants and the measurements that speak for it come from an audit of seven official
releases (wookat/ovss-vocab-audit, 2026); docs/classes.md has the figures and the rule of `covered`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from itaclip.common.shipped import configuration_folder
from itaclip.core.text.bank import ensemble
from itaclip.core.text.class_names import BACKGROUND_NAME, ClassNames, plain_name, read_lines
from itaclip.core.text.encoder import TextEncoder
from itaclip.errors import ItaclipError

AUTO = "auto"
"""Value of `background` and of ``--background`` that chooses the words."""

MOST_WORDS = 64
"""Words that are chosen at most, besides "background" itself."""
TOO_CLOSE = 0.90
"""Cosine to a query from which on a word of the lexicon stands for that class."""
REDUNDANCY = 0.5
"""Weight of a word's similarity to the words chosen before it."""
MOST_CLASSES = 40
"""Longer class lists are taken to cover the scene."""
MOST_COVERED = 0.20
"""Share of the lexicon; lists that stand for more of it are taken to cover the scene."""


@dataclass(frozen=True)
class BackgroundChoice:
    """What "auto" decided.

    Attributes:
        words: words of the background, "background" first; None if the general ones are kept.
        reason: which way it decided and why, as one clause.
    """

    words: tuple[str, ...] | None
    reason: str


def choose_background(encoder: TextEncoder, classes: ClassNames, lexicon: Sequence[str]) -> BackgroundChoice:
    """Choose words of the background for a class list, or decide to keep the general ones.

    A list that covers the scene already loses by further words, so nothing is chosen for more than
    `MOST_CLASSES` classes, or if more than `MOST_COVERED` of the lexicon is a word of a class or has a
    cosine of `TOO_CLOSE` to one. The same list, lexicon and text tower always give the same words.

    Args:
        encoder: the text tower; its cache keeps the features of the lexicon.
        classes: the classes without the background.
        lexicon: words from `read_lexicon`.

    Raises:
        ItaclipError: the model has no text features, because it reads the words itself (SAM 3).
    """
    if len(classes) > MOST_CLASSES:
        return BackgroundChoice(
            None, f"{len(classes)} classes are more than {MOST_CLASSES}, so the list may cover the scene already"
        )
    named = {plain_name(word) for word in classes.queries}
    queries = ensemble(encoder, classes.queries)
    if not queries.shape[1]:
        raise ItaclipError(
            f"background = {AUTO!r}: this model has no text features to choose words by; list words for the "
            "background, or keep the general ones."
        )
    features = ensemble(encoder, lexicon)
    nearest = (features @ queries.T).amax(dim=1)
    free = [
        i for i, word in enumerate(lexicon)
        if float(nearest[i]) < TOO_CLOSE and not _forms(word) & named and plain_name(word) != BACKGROUND_NAME
    ]  # fmt: skip
    taken = len(lexicon) - len(free)
    share = f"the classes stand for {taken} of the {len(lexicon)} words of the lexicon ({taken / len(lexicon):.0%})"
    if taken > MOST_COVERED * len(lexicon):
        return BackgroundChoice(None, f"{share}, more than {MOST_COVERED:.0%}, so the list may cover the scene already")
    chosen = [lexicon[free[i]] for i in facility_location(features[free] @ features[free].T)]
    return BackgroundChoice((BACKGROUND_NAME, *chosen), f"{len(chosen)} words chosen; {share}")


def facility_location(similarity: Tensor, count: int = MOST_WORDS, redundancy: float = REDUNDANCY) -> list[int]:
    """Choose words greedily so that every word of the lexicon has a similar one among them.

    With ``covered_j`` the largest similarity of word j to a chosen word, at first 0, the gain of a word c is
    ``gain_c = mean_j max(0, S_cj - covered_j)``. The next word is the one with the highest
    ``gain_c - redundancy * max(0, max_chosen S_c) * mean gain``; the mean is over the words that are left.

    Args:
        similarity: N x N float32 cosines, symmetric.
        count: number of words, at most N are chosen.
        redundancy: weight of the similarity to words chosen before.

    Returns:
        Indices in the order in which they were chosen; of equal words the first goes first.
    """
    scores = similarity.cpu().double()
    covered, closest = torch.zeros(len(scores), dtype=torch.float64), torch.zeros(len(scores), dtype=torch.float64)
    left = torch.ones(len(scores), dtype=torch.bool)
    chosen: list[int] = []
    while len(chosen) < min(count, len(scores)):
        gain = (scores - covered).clamp(min=0).mean(dim=1)
        value = gain - redundancy * closest * gain[left].mean()
        best = int(torch.where(left, value, -torch.inf).argmax())
        chosen.append(best)
        left[best] = False
        covered, closest = torch.maximum(covered, scores[best]), torch.maximum(closest, scores[best])
    return chosen


def read_lexicon(path: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
    """Read a lexicon: words separated by commas or line breaks.

    Args:
        path: a UTF-8 text file; None reads the shipped one, the names of COCO-Stuff and ADE20K.

    Returns:
        The words, once each, in the file's order; `plain_name` compares them.

    Raises:
        ItaclipError: no such file, or no word in it.
    """
    source = configuration_folder() / "lexicon.txt" if path is None else path
    return checked_lexicon([word for line in read_lines(os.fspath(source)) for word in line.split(",")], str(source))


def checked_lexicon(words: Sequence[str], source: str) -> tuple[str, ...]:
    """Return the words of a lexicon, without repetitions and blank entries.

    Raises:
        ItaclipError: no words, or something that is no text; the message begins with `source`.
    """
    found: dict[str, str] = {}
    for word in words:
        if not isinstance(word, str):
            raise ItaclipError(f"{source}: {str(word)[:60]}: expected words as text, not {type(word).__name__}.")
        tidy = " ".join(word.split())
        if tidy:
            found.setdefault(plain_name(tidy), tidy)
    if not found:
        raise ItaclipError(f"{source}: contains no word; list words that backgrounds may show, such as 'wall, tree'.")
    return tuple(found.values())


def _forms(word: str) -> set[str]:
    """Return a word with its plain plural and singular: "cloud" and "clouds"."""
    plain = plain_name(word)
    return {plain, plain.removesuffix("s"), f"{plain}s"}
