"""From a checked request to a result."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from itaclip.clip.names import DEMO
from itaclip.core.methods import COMPARED, METHODS
from itaclip.core.settings import Settings
from itaclip.errors import ItaclipError
from itaclip.images import ReadOptions, decode_image
from itaclip.result import Result
from itaclip.segmenter import Segmenter
from itaclip.text.auxiliary import SEPARATOR
from itaclip.text.class_names import plain_name
from itaclip.vocabulary import Vocabulary, split_classes, split_definitions
from itaclip.web.limits import Limits
from itaclip.web.time_limit import TimeLimit

GENERAL, OWN, NONE = "general", "own", "none"
"""Backgrounds: general contrast words, the visitor's own words, or a class for every pixel."""

_PAMR_STEPS = 10  # where the server was started without refinement


@dataclass(frozen=True)
class Form:
    """A request, checked for types and sizes but not for meaning.

    Attributes:
        image: content of the uploaded file.
        name: the visitor's name for it.
        classes: classes separated by semicolons or lines, synonyms by commas.
        background: `GENERAL`, `OWN` or `NONE`.
        own_words: the background's words, for `OWN`.
        definitions: lines ``name >=text``.
        refine: PAMR.
        views: image engineering with five views.
        threshold: pixels whose best score is lower become background; in [0, 1].
        method: one of `offered_methods`; empty for the server's own.
        correct: map correction: one label per image region.
    """

    image: bytes
    name: str
    classes: str
    background: str = GENERAL
    own_words: str = ""
    definitions: str = ""
    refine: bool = True
    views: bool = True
    threshold: float = 0.1
    method: str = ""
    correct: bool = False

    @classmethod
    def checked(cls, image: bytes, name: str, limits: Limits, **values: Any) -> Form:
        """The form from an image and values of any type.

        Args:
            image: as the attribute.
            name: as the attribute.
            limits: for the length of texts.
            values: the other attributes, of any type.

        Raises:
            ItaclipError: a value of the wrong type, too much text, or an unknown background.
        """
        for field, value in values.items():
            expected = type(getattr(cls, field, ""))
            fits = isinstance(value, (int, float) if expected is float else expected)
            if not fits or (isinstance(value, bool) and expected is not bool):
                raise ItaclipError(f"{field} = {str(value)[:60]!r}: expected a {expected.__name__}.")
        length = sum(len(value) for value in values.values() if isinstance(value, str))
        if length > limits.characters:
            raise ItaclipError(f"{length:,} characters of text; at most {limits.characters:,} are accepted.")
        if values.get("background", GENERAL) not in (GENERAL, OWN, NONE):
            raise ItaclipError(f"background = {values['background']!r}: expected {GENERAL}, {OWN} or {NONE}.")
        return cls(image, name, **values)


def offered_methods(settings: Settings) -> list[str]:
    """The methods that a visitor may choose: those that need only CLIP, and those that need a
    second encoder if the server has its weights."""
    second = settings.second_encoder == DEMO or Path(settings.second_encoder).exists()
    own = [name for name in COMPARED if second or not METHODS[name].reads_features]
    return list(dict.fromkeys([settings.method, *own]))


def words_of(vocabulary: Vocabulary | None) -> tuple[str, str, str, str]:
    """Classes, background, background words and definitions of a vocabulary, as a form has them."""
    if vocabulary is None:
        return "", GENERAL, "", ""
    lines = [", ".join(words) for words in vocabulary.bank.class_names.synonyms]
    own_words = ""
    if vocabulary.background:  # published lists use some words twice; visitors may not
        first, *others = vocabulary.bank.class_names.synonyms
        taken = {plain_name(word) for words in others for word in words}
        own_words = ", ".join(word for word in first if plain_name(word) not in taken)
        lines = lines[1:]
    names = vocabulary.names[1:] if vocabulary.background else vocabulary.names
    texts = zip(names, vocabulary.definitions or (), strict=False)
    definitions = "\n".join(f"{name} {SEPARATOR}{text}" for name, text in texts if text)
    return "\n".join(lines), OWN if vocabulary.background else NONE, own_words, definitions


def segment(segmenter: Segmenter, form: Form, limits: Limits, stopped: threading.Event | None = None) -> Result:
    """Segment as the form asks, within the limits, until `stopped` is set.

    The labels are those of ``segmenter(path, segmenter.prepare(...))``.

    Raises:
        ItaclipError: a bad image, class list or setting, or the time is over. Messages name
            the visitor's file, never a path of this machine.
    """
    image = decode_image(form.image, form.name, _reading(segmenter, limits))
    classes = split_classes(form.classes)
    background = _words(form.own_words) if form.background == OWN else form.background == GENERAL
    count = sum(len(_words(line)) for line in classes) + (len(background) if isinstance(background, list) else 0)
    if count > limits.words:
        raise ItaclipError(f"{count} words, synonyms included; at most {limits.words} are accepted.")
    offered = offered_methods(segmenter.settings)
    if form.method and form.method not in offered:
        raise ItaclipError(f"method = {form.method[:60]!r}: expected one of {', '.join(offered)}.")
    changes: dict[str, Any] = {
        "method": form.method or segmenter.settings.method,
        "map_correction": form.correct,
        "img_engineering": form.views,
        "pamr_steps": (segmenter.settings.pamr_steps or _PAMR_STEPS) if form.refine else 0,
    }
    if background is not False:
        changes["prob_thd"] = form.threshold
    with TimeLimit(limits.seconds, stopped):
        definitions = split_definitions(form.definitions.splitlines(), "definitions")
        vocabulary = segmenter.prepare(classes, background, definitions, source="classes")
        own = segmenter.vocabulary
        if own is not None and own.names == vocabulary.names:
            vocabulary = replace(vocabulary, colors=own.colors)
        result = segmenter(image, vocabulary, **changes)
    return replace(result, source=Path(form.name))


def segment_and_warn(
    segmenter: Segmenter, form: Form, limits: Limits, stopped: threading.Event | None = None
) -> tuple[Result, list[str]]:
    """`segment`, and the warnings that it logged, each once."""
    with collected_warnings() as warnings:
        result = segment(segmenter, form, limits, stopped)
    return result, list(dict.fromkeys(warnings))


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """The warnings that this thread logs within the block, for the visitor to read too."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == threading.get_ident():
                messages.append(record.getMessage())

    collector = Collector(logging.WARNING)
    logger = logging.getLogger("itaclip")
    logger.addHandler(collector)
    try:
        yield messages
    finally:
        logger.removeHandler(collector)


def _reading(segmenter: Segmenter, limits: Limits) -> ReadOptions:
    """How the server reads images: as its segmenter does, within the server's own limit."""
    return replace(segmenter.reading, largest=limits.pixels, limit="--max-megapixels, where the server is started")


def _words(text: str) -> list[str]:
    return [word.strip() for word in re.split("[,;\n]", text) if word.strip()]


def has_coco() -> bool:
    """Whether pycocotools, which COCO's JSON needs, is installed."""
    return find_spec("pycocotools") is not None
