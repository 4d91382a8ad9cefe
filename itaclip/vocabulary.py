"""Free-form class lists, checked and encoded."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from itaclip.core.settings import Settings
from itaclip.errors import ItaclipError, did_you_mean
from itaclip.figures.palette import palette
from itaclip.text import ClassNames, TextBank, TextEncoder, build_text_bank, parse_class_names, read_class_prompts
from itaclip.text.auxiliary import SEPARATOR
from itaclip.text.class_names import plain_name

_LOG = logging.getLogger(__name__)

BACKGROUND_NAME = "background"

CONTRAST_WORDS = (
    "background", "sky", "wall", "tree", "grass", "road", "sea", "mountain", "sand", "building", "door", "window",
    "ceiling", "floor", "curtain", "shelf", "stairs", "fence", "ground", "water", "bridge", "sign", "furniture",
    "clouds", "pavement", "snow",
)  # fmt: skip
"""Common content of photographs besides the requested classes. Without such competitors the
softmax over queries assigns every pixel to one of the classes (Wysoczanska et al., arXiv 2407.05061)."""


@dataclass(frozen=True)
class Vocabulary:
    """The classes to label an image with.

    Attributes:
        names: K names, in label order.
        bank: their text features.
        background: whether class 0 means "none of these".
        colors: K RGB colours in 0..255.
        definitions: a text or None per class, without the background; None if no class has one.
    """

    names: tuple[str, ...]
    bank: TextBank
    background: bool
    colors: tuple[tuple[int, int, int], ...]
    definitions: tuple[str | None, ...] | None

    @classmethod
    def of(cls, bank: TextBank, background: bool, definitions: Sequence[str | None] | None) -> Vocabulary:
        """The vocabulary of a text bank; a background class is always named "background"."""
        names = bank.class_names.names
        if background:
            names = (BACKGROUND_NAME, *names[1:])
        colors = tuple((r, g, b) for r, g, b in _colors(len(names), background))
        return cls(names, bank, background, colors, tuple(definitions) if definitions else None)

    def to(self, device: torch.device) -> Vocabulary:
        """A copy with the text features on `device`."""
        return replace(self, bank=replace(self.bank, features=self.bank.features.to(device)))


def make_vocabulary(
    encoder: TextEncoder,
    classes: Sequence[str | Sequence[str]],
    background: bool | Sequence[str] = True,
    definitions: Mapping[str, str] | None = None,
    settings: Settings | None = None,
) -> Vocabulary:
    """Encode a class list.

    Args:
        encoder: the text tower.
        classes: one entry per class: a name, synonyms separated by commas, or a sequence
            of synonyms. The first word names the class.
        background: True adds class 0, "background", described by `CONTRAST_WORDS` except those
            that occur in the classes, such as "wall" in "brick wall"; a list of words adds it
            with these words instead; False assigns every pixel to one of the classes.
        definitions: texts that describe classes; the key is any word of the class.
        settings: only `def_coefficient`, the weight of the definitions, and `class_prompts` matter here.

    Raises:
        ItaclipError: no class, an empty name, a word used twice, a definition of an unknown class,
            or bad class-biased prompts.
    """
    if isinstance(classes, str):
        raise ItaclipError(f"classes = {classes!r}: expected a list with one entry per class, such as ['cat', 'dog'].")
    lines = [_class_line(entry) for entry in classes]
    if not lines:
        raise ItaclipError("the class list is empty: name at least one class, such as 'cat' or 'sofa, couch'.")
    named = parse_class_names(lines, "class list")
    if background is True:
        used = {_singular(part) for word in named.queries for part in word.split()}
        lines.insert(0, ", ".join(word for word in CONTRAST_WORDS if _singular(word) not in used))
    elif background is not False:
        words = _class_line(background)
        if not words:
            raise ItaclipError("background = []: list words for what surrounds the classes, or pass True or False.")
        lines.insert(0, words)
    has_background = background is not False
    if not has_background and len(lines) == 1:
        _LOG.warning("One class and no background: every pixel will be %r.", named.names[0])
    for word in named.queries:
        if not word.isascii():
            _LOG.warning("%r: CLIP's text encoder was trained on English and barely understands other scripts.", word)
    known = parse_class_names(lines, "class list")
    texts = _texts(definitions or {}, named)
    chosen = settings or Settings()
    prompts = read_class_prompts(chosen.class_prompts, known, needed=False)
    bank = build_text_bank(encoder, known, texts, chosen.def_coefficient, has_background, prompts)
    return Vocabulary.of(bank, has_background, texts)


def split_classes(text: str) -> list[str]:
    """Split text into classes at semicolons and line breaks: ``"cat; sofa, couch"`` gives two classes."""
    return [part.strip() for part in text.replace("\n", ";").split(";") if part.strip()]


def split_definitions(lines: Sequence[str], source: str) -> dict[str, str]:
    """Parse lines ``name >=text`` into texts by class name; skip blank lines.

    Raises:
        ItaclipError: a line without ``>=``; the message names the source and the line.
    """
    found = {}
    for number, line in enumerate(lines, 1):
        name, separator, text = line.partition(SEPARATOR)
        if line.strip() and not separator:
            raise ItaclipError(f"{source}, line {number}: {line!r} has no ' >='; write `name >=text`.")
        if line.strip():
            found[name.strip()] = text
    return found


def _class_line(entry: str | Sequence[str]) -> str:
    """An entry as a line of a class file, with its words separated by ", "."""
    words = entry.split(",") if isinstance(entry, str) else entry
    return ", ".join(" ".join(str(word).split()) for word in words)


def _singular(word: str) -> str:
    return word.lower().removesuffix("s")


def _texts(definitions: Mapping[str, str], classes: ClassNames) -> list[str | None] | None:
    """A text or None per class, in order; None if there are no definitions."""
    if not definitions:
        return None
    owner = {plain_name(word): i for i, words in enumerate(classes.synonyms) for word in words}
    texts: list[str | None] = [None] * len(classes)
    for name, text in definitions.items():
        if plain_name(name) not in owner:
            raise ItaclipError(
                f"definition of {name!r}: no class contains this word.{did_you_mean(name, classes.queries)} "
                f"Classes: {', '.join(classes.names)}."
            )
        texts[owner[plain_name(name)]] = text.strip() or None
    return texts


def _colors(count: int, background: bool) -> list[list[int]]:
    """Colours from the palette; its first colour is reserved for the background."""
    return palette(count) if background else palette(count + 1)[1:]
