"""Free-form class lists, checked and encoded."""

from __future__ import annotations

import logging
import operator
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import ImageColor

from itaclip.common.figures.palette import palette
from itaclip.core.settings import Settings
from itaclip.core.text import ClassNames, TextBank, TextEncoder, build_text_bank, parse_class_names, read_class_prompts
from itaclip.core.text.auxiliary import SEPARATOR
from itaclip.core.text.background import AUTO, checked_lexicon, choose_background, read_lexicon
from itaclip.core.text.class_names import BACKGROUND_NAME, is_background, plain_name
from itaclip.errors import ItaclipError, did_you_mean

_LOG = logging.getLogger(__name__)

CONTRAST_WORDS = (
    "background", "sky", "wall", "tree", "grass", "road", "sea", "mountain", "sand", "building", "door", "window",
    "ceiling", "floor", "curtain", "shelf", "stairs", "fence", "ground", "water", "bridge", "sign", "furniture",
    "clouds", "pavement", "snow",
)  # fmt: skip
"""Common content of photographs besides the requested classes. Without such competitors the
softmax over queries assigns every pixel to one of the classes (Wysoczanska et al., arXiv 2407.05061)."""

Lexicon: TypeAlias = "str | os.PathLike[str] | Sequence[str]"
"""A file of words separated by commas or line breaks, or a list of words."""

Color: TypeAlias = "str | Sequence[int]"
"""RGB in 0..255, or text that Pillow understands, such as "#ff8000" or "orange"."""

_SWITCHES = {"yes", "no", "true", "false", "none", "general", AUTO}


@dataclass(frozen=True)
class Vocabulary:
    """The classes to label an image with.

    Attributes:
        names: K unique names, in label order.
        bank: their text features.
        background: whether class 0 means "none of these".
        colors: K RGB colours in 0..255.
        definitions: a text or None per class, without the background; None if no class has one.
        background_choice: where the words of the background come from, as one clause; with "auto" which
            way it decided and why. "" if nobody recorded it.
    """

    names: tuple[str, ...]
    bank: TextBank
    background: bool
    colors: tuple[tuple[int, int, int], ...]
    definitions: tuple[str | None, ...] | None
    background_choice: str = ""

    @classmethod
    def of(
        cls, bank: TextBank, background: bool, definitions: Sequence[str | None] | None, background_choice: str = ""
    ) -> Vocabulary:
        """Make the vocabulary of a text bank; a background class is always named "background"."""
        names = bank.class_names.names
        if background:
            names = (BACKGROUND_NAME, *names[1:])
        colors = tuple((r, g, b) for r, g, b in usual_colors(len(names), background))
        return cls(names, bank, background, colors, tuple(definitions) if definitions else None, background_choice)

    @property
    def background_words(self) -> tuple[str, ...]:
        """The words that describe the background; none without a background."""
        return self.bank.class_names.synonyms[0] if self.background else ()

    @property
    def own_colors(self) -> dict[str, tuple[int, int, int]]:
        """The colours that differ from the palette's, by class name."""
        usual = usual_colors(len(self.names), self.background)
        listed = zip(self.names, self.colors, usual, strict=True)
        return {name: color for name, color, palette_color in listed if list(color) != palette_color}

    def colored(self, colors: Mapping[str, Color]) -> Vocabulary:
        """Make a copy with other colours for some classes.

        Args:
            colors: by class name.

        Raises:
            ItaclipError: a colour of an unknown class, or something that is no colour.
        """
        if not isinstance(colors, Mapping):
            raise ItaclipError(
                f"colors of type {type(colors).__name__}: expected colours by class name, such as {{'cat': '#ff8000'}}."
            )
        changed = list(self.colors)
        for name, color in colors.items():
            if name not in self.names:
                hint = did_you_mean(str(name), self.names)
                raise ItaclipError(
                    f"color of {name!r}: no class has this name.{hint} Classes: {', '.join(self.names)}."
                )
            changed[self.names.index(name)] = _rgb(name, color)
        return replace(self, colors=tuple(changed))

    def to(self, device: torch.device) -> Vocabulary:
        """Make a copy with the text features on `device`."""
        return replace(self, bank=replace(self.bank, features=self.bank.features.to(device)))


def make_vocabulary(
    encoder: TextEncoder,
    classes: Iterable[str | Sequence[str]],
    background: bool | str | Sequence[str] = True,
    definitions: Mapping[str, str] | None = None,
    settings: Settings | None = None,
    colors: Mapping[str, Color] | None = None,
    source: str = "class list",
    lexicon: Lexicon | None = None,
) -> Vocabulary:
    """Encode a class list.

    Args:
        encoder: the text tower.
        classes: one entry per class: a name, synonyms separated by commas, or a sequence
            of synonyms. The first word names the class. Names are unique; `plain_name` compares them.
        background: True adds class 0, "background", described by `CONTRAST_WORDS` except those
            that occur in the classes, such as "wall" in "brick wall"; a list of words adds it
            with these words instead; False assigns every pixel to one of the classes. With True,
            an entry named "background" is this class: its other words replace the contrast words.
            It becomes class 0 wherever it stands; the other classes keep their order. With False,
            it is a class like any other. "auto" adds it with words chosen from `lexicon`, unless
            the classes cover the scene already, see `itaclip.core.text.background.choose_background`.
        definitions: texts that describe classes; the key is any word of the class.
        settings: only `def_coefficient`, the weight of the definitions, `templates` and `class_prompts` matter here.
        colors: colours by class name; the other classes get the palette's.
        source: what messages call the class list.
        lexicon: words from which "auto" chooses; None takes the shipped ones.

    Raises:
        ItaclipError: a value of another type, no class, an empty name, a word used twice, two
            backgrounds, a definition or colour of an unknown class, a lexicon without "auto" or
            without a word, or bad class-biased prompts.
    """
    auto, found = _is_auto(background), _lexicon(lexicon, _is_auto(background))
    named = parse_class_names(_lines(classes, source), source)
    known = others = named
    own = () if auto else _background_words(background)
    choice = "none"
    if background is not False:
        words, others = _with_background(named, own)
        choice = "own words" if words != _general_words(others) else "general words"
        if auto:
            words, choice = _chosen_words(encoder, named, others, words, found)
        known = replace(others, synonyms=(words, *others.synonyms))
    elif len(named) == 1:
        _LOG.warning("One class and no background: every pixel will be %r.", named.names[0])
    for word in others.queries:
        if not word.isascii():
            _LOG.warning("%r: CLIP's text encoder was trained on English and barely understands other scripts.", word)
    texts = _texts(definitions, others)
    chosen = settings or Settings()
    prompts = read_class_prompts(chosen.class_prompts, known, needed=False)
    bank = build_text_bank(
        encoder, known, texts, chosen.def_coefficient, background is not False, prompts, chosen.templates
    )
    vocabulary = Vocabulary.of(bank, background is not False, texts, choice)
    return vocabulary.colored({} if colors is None else colors)


def split_classes(text: str) -> list[str]:
    """Split text into classes at semicolons and line breaks: ``"cat; sofa, couch"`` gives two classes."""
    return [entry.strip() for entry in text.replace("\n", ";").split(";") if entry.strip()]


def split_definitions(lines: Sequence[str], source: str) -> dict[str, str]:
    """Parse lines ``name >=text`` into texts by class name; skip blank lines.

    Raises:
        ItaclipError: a line without ``>=``, or a name that has a line already; the message names
            the source and the line.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        name, separator, text = line.partition(SEPARATOR)
        if line.strip() and not separator:
            raise ItaclipError(f"{source}, line {number}: {line!r} has no ' >='; write `name >=text`.")
        if name.strip() in found:
            raise ItaclipError(f"{source}, line {number}: {name.strip()!r} has a definition already; keep one.")
        if line.strip():
            found[name.strip()] = text
    return found


# --- what a caller may pass ----------------------------------------------------


def _lines(classes: Any, source: str) -> list[str]:
    """Write a class list as lines of a class file."""
    if isinstance(classes, Mapping):
        raise ItaclipError(
            f"{source}: expected a list of names, not a {type(classes).__name__}. Pass the names as a list, and texts "
            "that describe them as definitions={'cat': 'a small furry animal'}."
        )
    if isinstance(classes, (str, bytes)):
        raise ItaclipError(
            f"classes = {classes[:60]!r}: expected a list with one entry per class, such as ['cat', 'dog']."
        )
    entries = _each(classes, source, "a list, such as ['cat', 'sofa, couch']")
    lines = [_class_line(entry, f"{source}, entry {number}") for number, entry in enumerate(entries, 1)]
    if not lines:
        raise ItaclipError("the class list is empty: name at least one class, such as 'cat' or 'sofa, couch'.")
    return lines


def _background_words(background: Any) -> tuple[str, ...]:
    """Return the background's own words; none for True and False."""
    if isinstance(background, bool):
        return ()
    if isinstance(background, str):
        background = background.split(",")
    line = _class_line(list(_each(background, "background", "True, False or a list of words")), "background")
    if not line:
        raise ItaclipError("background = []: list words for what surrounds the classes, or pass True or False.")
    if line.lower() in _SWITCHES:
        raise ItaclipError(
            f"background = {line!r}: expected True, False (command line: yes, no), {AUTO!r}, or words such as "
            "'wall, floor'."
        )
    return parse_class_names([line], "background").synonyms[0]


def _with_background(named: ClassNames, words: tuple[str, ...]) -> tuple[tuple[str, ...], ClassNames]:
    """Return the words of the background, and the other classes.

    Args:
        named: classes, one of which may be named "background".
        words: the background's own words, if any.
    """
    place = next((i for i, name in enumerate(named.names) if is_background(name)), None)
    others = named
    if place is not None:
        others = replace(named, synonyms=named.synonyms[:place] + named.synonyms[place + 1 :])
        if words:
            raise ItaclipError(
                f"{named.source}: names the background, and background = {', '.join(words)} describes it too. "
                "Give its words in one of the two places."
            )
        if not len(others):
            raise ItaclipError(f"{named.source}: names nothing but the background; name a class too.")
        if place:
            _LOG.warning("The background is class 0, although the list names it later; the others keep their order: "
                         "%s.", ", ".join((BACKGROUND_NAME, *others.names)))  # fmt: skip
        if len(named.synonyms[place]) > 1:
            words = named.synonyms[place]
    owner = _owners(others)
    words = words or _general_words(others)
    if not words:
        raise ItaclipError(
            f"{named.source}: uses all general words of the background; pass words of your own, or False."
        )
    for word in words:
        if plain_name(word) in owner:
            raise ItaclipError(
                f"background: {word!r} already occurs in class {others.names[owner[plain_name(word)]]!r}; "
                "a word can belong to only one class."
            )
    return words, others


def _general_words(classes: ClassNames) -> tuple[str, ...]:
    """Return the contrast words that no class uses."""
    owner = _owners(classes)
    used = {_singular(part) for word in classes.queries for part in word.split()}
    return tuple(word for word in CONTRAST_WORDS if _singular(word) not in used and plain_name(word) not in owner)


def _is_auto(background: Any) -> bool:
    return isinstance(background, str) and background.strip().lower() == AUTO


def _lexicon(lexicon: Any, auto: bool) -> tuple[str, ...]:
    """Read the words from which "auto" chooses; none without it."""
    if not auto:
        if lexicon is not None:
            raise ItaclipError(f"lexicon: words are chosen from it only with background = {AUTO!r}.")
        return ()
    if lexicon is None or isinstance(lexicon, (str, os.PathLike)):
        return read_lexicon(lexicon)
    return checked_lexicon(list(_each(lexicon, "lexicon", "a file, or a list of words")), "lexicon")


def _chosen_words(
    encoder: TextEncoder, named: ClassNames, others: ClassNames, general: tuple[str, ...], lexicon: Sequence[str]
) -> tuple[tuple[str, ...], str]:
    """Choose the words of the background for "auto"; tell why."""
    described = [words for words in named.synonyms if is_background(words[0]) and len(words) > 1]
    if described:
        raise ItaclipError(
            f"{named.source}: describes the background as {', '.join(described[0])}, and background = {AUTO!r} would "
            f"choose other words. Leave out its words, or pass True instead of {AUTO!r}."
        )
    choice = choose_background(encoder, others, lexicon)
    if choice.words is None:
        return general, f"general words: {choice.reason}"
    return choice.words, choice.reason


def _each(values: Any, what: str, expected: str) -> Iterator[Any]:
    """Yield the entries of a list, a tuple, an array, a generator or any other series with an order."""
    if isinstance(values, (set, frozenset)):
        raise ItaclipError(f"{what} of type {type(values).__name__}: has no order; expected {expected}.")
    try:
        if isinstance(values, (bytes, bytearray, Mapping)):
            raise TypeError
        return iter(values)
    except TypeError:
        raise ItaclipError(f"{what} of type {type(values).__name__}: expected {expected}.") from None


def _class_line(entry: Any, where: str) -> str:
    """Write an entry as a line of a class file, with its words separated by ", "."""
    words = entry if isinstance(entry, (list, tuple)) else entry.tolist() if isinstance(entry, np.ndarray) else [entry]
    for word in words:
        if not isinstance(word, str):
            raise ItaclipError(
                f"{where}: {str(word)[:60]}: expected a name as text, or a list of synonyms, not {type(word).__name__}."
            )
        if len(word.strip().splitlines()) > 1:
            raise ItaclipError(f"{where}: {word[:60]!r} has several lines; split it into one entry per line.")
    return ", ".join(" ".join(synonym.split()) for word in words for synonym in word.split(","))


def _singular(word: str) -> str:
    return word.lower().removesuffix("s")


def _owners(classes: ClassNames) -> dict[str, int]:
    """Map every word, as `plain_name` writes it, to its class."""
    return {plain_name(word): i for i, words in enumerate(classes.synonyms) for word in words}


def _texts(definitions: Any, classes: ClassNames) -> list[str | None] | None:
    """Return a text or None per class, in order; None if there are no definitions."""
    if definitions is not None and not isinstance(definitions, Mapping):
        raise ItaclipError(
            f"definitions of type {type(definitions).__name__}: expected texts by class name, such as "
            "{'cat': 'a small furry animal'}."
        )
    if not definitions:
        return None
    owner = _owners(classes)
    texts: list[str | None] = [None] * len(classes)
    for name, text in definitions.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise ItaclipError(f"definition of {name!r}: {str(text)[:60]!r}: expected a text for the name of a class.")
        place = owner.get(plain_name(name))
        if place is None:
            reason = f"no class contains this word.{did_you_mean(name, classes.queries)} "
            if is_background(name):
                reason = "the background has no definition; list words for it instead. "
            raise ItaclipError(f"definition of {name!r}: {reason}Classes: {', '.join(classes.names)}.")
        if texts[place] is not None:
            raise ItaclipError(f"definition of {name!r}: class {classes.names[place]!r} has one already.")
        texts[place] = text.strip() or None
    return texts


def usual_colors(count: int, background: bool) -> list[list[int]]:
    """Take colours from the palette; its first colour is reserved for the background."""
    return palette(count) if background else palette(count + 1)[1:]


def _rgb(name: str, color: Any) -> tuple[int, int, int]:
    try:
        red, green, blue = ImageColor.getrgb(color)[:3] if isinstance(color, str) else map(operator.index, color)
        if all(0 <= value <= 255 for value in (red, green, blue)):
            return red, green, blue
    except (TypeError, ValueError):
        pass
    raise ItaclipError(
        f"color of {name!r} = {str(color)[:60]!r}: expected three whole numbers in 0..255 (RGB), or text such as "
        "'#ff8000'."
    )
