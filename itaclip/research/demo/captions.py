"""Captions for the scenes of the drawn town: the only supervision of its CLIP."""

from __future__ import annotations

from collections.abc import Iterable

from itaclip.common.demo.canvas import Generator
from itaclip.common.demo.world import KINDS
from itaclip.core.text.templates import TEMPLATES

_SCENE_TEMPLATES = ("{}.", "a scene with {}.", "a picture that shows {}.", "here you see {}.", "{} side by side.")
# Words without information about the class, so that an unknown word next to a known one does not mislead.
_FILLERS = (
    "lovely", "distant", "nearby", "ordinary", "famous", "tidy", "modern", "drawn", "painted", "certain",
    "local", "real", "pretty", "simple", "typical", "empty", "heavy", "silent", "broad", "narrow", "foreign",
    "humble", "splendid", "usual", "everyday", "visible", "solid", "gentle", "rustic", "royal", "public",
    "private", "main", "second", "familiar", "strange",
)  # fmt: skip


def _one(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def phrase(class_id: int, color: str | None, rng: Generator, article: bool = True) -> str:
    """Choose a phrase for a thing: a random synonym, sometimes with its colour, or rarely its description."""
    kind = KINDS[class_id]
    if color is None and rng.random() < 0.12:
        return kind.saying
    words = str(kind.names[rng.integers(len(kind.names))])
    if rng.random() < 0.12:
        words = f"{_FILLERS[rng.integers(len(_FILLERS))]} {words}"
    if color:
        words = f"{color} {words}"
    return words if kind.stuff or words in ("bricks", "planks") or not article else _one(words)


def caption(things: Iterable[tuple[int, str | None]], rng: Generator, night: bool = False) -> str:
    """Write a sentence that names every given (class id, colour word), in random order and wording.

    It mentions the colour of two in three coloured things, and night in 30 % of night scenes.
    """
    listed = list(things)
    parts = [
        phrase(class_id, color if rng.random() < 2 / 3 else None, rng)
        for class_id, color in (listed[i] for i in rng.permutation(len(listed)))
    ]
    text = ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]
    if night and rng.random() < 0.3:
        text += " at night"
    if rng.random() < 0.4:
        return _SCENE_TEMPLATES[int(rng.integers(len(_SCENE_TEMPLATES)))].format(text)
    return short(text, rng)


def short(words: str, rng: Generator) -> str:
    """Insert words into one of CLIP's 80 ImageNet templates."""
    return TEMPLATES[rng.integers(len(TEMPLATES))].format(words)


def colored_kinds() -> list[tuple[int, str]]:
    """List every (class id, colour word) that occurs in training."""
    return [(i, c) for i, kind in enumerate(KINDS) for c in kind.colors if c != kind.unseen_color]
