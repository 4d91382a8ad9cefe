"""The classes of a configuration: class file, auxiliary texts, words of the background, distractors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from itaclip.core.text.auxiliary import read_texts
from itaclip.core.text.background import AUTO, choose_background, read_lexicon
from itaclip.core.text.class_names import ClassNames, plain_name
from itaclip.core.text.encoder import TextEncoder
from itaclip.errors import ItaclipError

AuxiliaryTexts = tuple[str | None, ...] | None
"""A text or None per class, without the background; None if there are no texts."""


@dataclass(frozen=True)
class ConfiguredClasses:
    """What the model part of a configuration says about its classes, under the same names.

    Attributes:
        name_path: class file.
        auxiliary_text_path: file of definitions or synonyms, or None.
        background: whether class 0 is the background.
        background_words: None for those of the class file, or "auto" to have them chosen, see
            `itaclip.core.text.background.choose_background`.
        lexicon: file of words from which "auto" chooses; None for the shipped one.
        distractors: words that follow the class file as further classes, one each; no mask contains them.

    Raises:
        ItaclipError: another value of `background_words`, "auto" without a background, or a lexicon without "auto".
    """

    name_path: str | Path
    auxiliary_text_path: str | Path | None = None
    background: bool = False
    background_words: str | None = None
    lexicon: str | Path | None = None
    distractors: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.background_words not in (None, AUTO):
            raise ItaclipError(
                f"background_words = {self.background_words!r}: expected None, for the words of the class file, or "
                f"{AUTO!r}. Other words stand on line 1 of the class file."
            )
        if self.background_words == AUTO and not self.background:
            raise ItaclipError(f"background_words = {AUTO!r}: background = False, so no class needs such words.")
        if self.lexicon is not None and self.background_words != AUTO:
            raise ItaclipError(f"lexicon: words are chosen from it only with background_words = {AUTO!r}.")

    @classmethod
    def of(cls, model: Mapping[str, Any], background: bool) -> ConfiguredClasses:
        """Take the entries from the model part of a configuration."""
        keys = ("name_path", "auxiliary_text_path", "background_words", "lexicon", "distractors")
        return cls(background=background, **{key: model[key] for key in keys if key in model})

    def read(self) -> tuple[ClassNames, AuxiliaryTexts]:
        """Read the classes and their auxiliary texts; distractors come last and have no text.

        Raises:
            ItaclipError: see `read_texts`; also for a distractor that is a word of a class.
        """
        classes, texts = read_texts(self.name_path, self.auxiliary_text_path, self.background)
        words = {plain_name(word) for word in classes.queries}
        for word in self.distractors:
            if plain_name(word) in words:
                raise ItaclipError(f"distractors: {word!r} is a word of {classes.source}, or occurs twice.")
            words.add(plain_name(word))
        extended = replace(classes, synonyms=(*classes.synonyms, *((word,) for word in self.distractors)))
        return extended, texts and (*texts, *[None] * len(self.distractors))

    def with_background_words(self, encoder: TextEncoder, classes: ClassNames) -> tuple[ClassNames, str]:
        """Exchange the words of class 0 if the configuration asks for it.

        Args:
            encoder: the text tower.
            classes: from `read`.

        Returns:
            The classes, and where the words of the background come from, as one clause.

        Raises:
            ItaclipError: a bad lexicon.
        """
        if self.background_words is None:
            return classes, "words of the class file" if self.background else "none"
        own = replace(classes, synonyms=classes.synonyms[1 : len(classes) - len(self.distractors)])
        choice = choose_background(encoder, own, read_lexicon(self.lexicon))
        if choice.words is None:
            return classes, f"words of the class file: {choice.reason}"
        distractors = {plain_name(word) for word in self.distractors}
        words = tuple(word for word in choice.words if plain_name(word) not in distractors)
        return replace(classes, synonyms=(words, *classes.synonyms[1:])), choice.reason
