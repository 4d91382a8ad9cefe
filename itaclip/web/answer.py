"""From a filled-in form to a result, its legend, its score maps and its files."""

from __future__ import annotations

import html
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from itaclip.clip.loading import DEMO
from itaclip.core.images import decode_image, read_image
from itaclip.core.methods import COMPARED, METHODS
from itaclip.core.settings import Settings
from itaclip.errors import ItaclipError
from itaclip.figures import heat_map
from itaclip.files import write_json
from itaclip.result import Result
from itaclip.segmenter import Segmenter
from itaclip.text.auxiliary import SEPARATOR
from itaclip.vocabulary import Vocabulary, split_classes, split_definitions
from itaclip.web.limits import Limits, TimeLimit

GENERAL, OWN, NONE = "general", "own", "none"
"""Backgrounds: general contrast words, words of one's own, or a class for every pixel."""

_PAMR_STEPS = 10  # where the server was started without refinement
_SCORE_SIDE = 480  # pixels of a score map on the page
_MOST_SCORE_MAPS = 24
_LONGEST_STEM = 60


@dataclass(frozen=True)
class Form:
    """What a visitor sends, checked for type and size but not for sense.

    Attributes:
        image: the uploaded file, or its content.
        name: what the visitor calls it.
        classes: classes separated by semicolons or lines, synonyms by commas.
        background: `GENERAL`, `OWN` or `NONE`.
        own_words: the background's words, for `OWN`.
        definitions: lines ``name >=text``.
        refine: PAMR.
        views: image engineering with five views.
        threshold: pixels whose best score is less become background; in [0, 1].
        method: one of `offered_methods`; empty takes the server's own.
        correct: map correction, by regions of the image.
    """

    image: Path | bytes
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
    def of(cls, image: Any, limits: Limits, **values: Any) -> Form:
        """The form from JSON values that anyone may have sent.

        Args:
            image: gradio's description of an uploaded file.
            limits: for the length of texts.
            values: the other attributes.

        Raises:
            ItaclipError: no image, a text too long, or a value of another kind.
        """
        if not isinstance(image, dict) or not isinstance(image.get("path"), str):
            raise ItaclipError("no image: upload one, or take an example.")
        path = Path(image["path"])
        name = Path(str(image.get("orig_name") or path.name)).name
        return cls.checked(path, name, limits, **values)

    @classmethod
    def checked(cls, image: Path | bytes, name: str, limits: Limits, **values: Any) -> Form:
        """The form from an image and values of any kind; errors as for `of`."""
        for field, value in values.items():
            expected = type(getattr(cls, field, ""))
            fits = isinstance(value, (int, float) if expected is float else expected)
            if not fits or (isinstance(value, bool) and expected is not bool):
                raise ItaclipError(f"{field} = {str(value)[:60]!r}: expected a {expected.__name__}.")
        length = sum(len(value) for value in values.values() if isinstance(value, str))
        if length > limits.characters:
            raise ItaclipError(f"{length:,} characters of text; at most {limits.characters:,} are taken.")
        if values.get("background", GENERAL) not in (GENERAL, OWN, NONE):
            raise ItaclipError(f"background = {values['background']!r}: expected {GENERAL}, {OWN} or {NONE}.")
        return cls(image, name, **values)


def offered_methods(settings: Settings) -> list[str]:
    """The methods that a visitor may choose: those that read CLIP alone, and those that need a
    second encoder where its weights were put beside the server."""
    second = settings.second_encoder == DEMO or Path(settings.second_encoder).exists()
    own = [name for name in COMPARED if second or not METHODS[name].reads_features]
    return list(dict.fromkeys([settings.method, *own]))


def words_of(vocabulary: Vocabulary | None) -> tuple[str, str, str, str]:
    """Classes, background, its words and definitions of a class list, as the form takes them."""
    if vocabulary is None:
        return "", GENERAL, "", ""
    lines = [", ".join(words) for words in vocabulary.bank.class_names.synonyms]
    own_words = ""
    if vocabulary.background:  # published lists name some words twice, visitors may not
        first, *others = vocabulary.bank.class_names.synonyms
        taken = {word.lower() for words in others for word in words}
        own_words = ", ".join(word for word in first if word.lower() not in taken)
        lines = lines[1:]
    names = vocabulary.names[1:] if vocabulary.background else vocabulary.names
    texts = zip(names, vocabulary.definitions or (), strict=False)
    definitions = "\n".join(f"{name} {SEPARATOR}{text}" for name, text in texts if text)
    return "\n".join(lines), OWN if vocabulary.background else NONE, own_words, definitions


# --- the result --------------------------------------------------------------


def segment(segmenter: Segmenter, form: Form, limits: Limits, stopped: threading.Event | None = None) -> Result:
    """Segment as the form says, within the limits, until `stopped` is set.

    The labels are those of ``segmenter(path, segmenter.prepare(...))``.

    Raises:
        ItaclipError: an image, a class list or a setting that is refused, or no time left.
            Names the visitor's file, never a path of this machine.
    """
    image = _read_upload(form, limits)
    classes = split_classes(form.classes)
    background = _words(form.own_words) if form.background == OWN else form.background == GENERAL
    count = sum(len(_words(line)) for line in classes) + (len(background) if isinstance(background, list) else 0)
    if count > limits.words:
        raise ItaclipError(f"{count} words, synonyms included; at most {limits.words} are taken.")
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
        vocabulary = segmenter.prepare(
            classes, background, split_definitions(form.definitions.splitlines(), "definitions")
        )
        result = segmenter(image, vocabulary, **changes)
    return replace(result, source=Path(form.name))


def segment_and_warn(
    segmenter: Segmenter, form: Form, limits: Limits, stopped: threading.Event | None = None
) -> tuple[Result, list[str]]:
    """`segment`, and the warnings that it gave, each once."""
    with collected_warnings() as warnings:
        result = segment(segmenter, form, limits, stopped)
    return result, list(dict.fromkeys(warnings))


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """The project's warnings of this thread while the block runs, for the visitor to read too."""
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


def _read_upload(form: Form, limits: Limits) -> NDArray[np.uint8]:
    if isinstance(form.image, bytes):
        return decode_image(form.image, form.name, limits.pixels)
    try:
        return read_image(form.image, limits.pixels)
    except ItaclipError as error:
        raise type(error)(str(error).replace(str(form.image), form.name)) from None


def _words(text: str) -> list[str]:
    return [word.strip() for word in re.split("[,;\n]", text) if word.strip()]


# --- what is shown -----------------------------------------------------------


def legend_table(result: Result) -> str:
    """The classes that occur with colour and share, as an HTML table that screen readers read too."""
    rows = []
    for name, share in result.areas.items():
        color = "#{:02x}{:02x}{:02x}".format(*result.colors[result.names.index(name)])
        swatch = f'<span class="swatch" style="background:{color}"></span>'
        rows.append(f"<tr><td>{swatch}</td><td>{html.escape(name)}</td><td>{share:.1%}</td></tr>")
    absent = [html.escape(name) for name in result.names if name not in result.areas]
    note = f"<p>Not found: {', '.join(absent)}</p>" if absent else ""
    return (
        '<table class="legend"><thead><tr><th>Colour</th><th>Class</th><th>Share</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>{note}"
    )


def described(result: Result) -> str:
    """The result in a sentence, in the place of the picture for those who cannot see it."""
    shares = ", ".join(f"{name} {share:.1%}" for name, share in result.areas.items())
    return f"The image with its classes in colour: {shares}"


def score_maps(result: Result) -> list[tuple[NDArray[np.uint8], str]]:
    """Heat maps with captions, the class of the highest score first; one scale for all."""
    highest = result.scores.max(axis=(1, 2))
    order = np.argsort(-highest, kind="stable")[:_MOST_SCORE_MAPS]
    height, width = result.labels.shape
    factor = min(1.0, _SCORE_SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    image = cv2.resize(result.image, size, interpolation=cv2.INTER_AREA)
    return [
        (
            heat_map(image, cv2.resize(result.scores[i], size, interpolation=cv2.INTER_AREA), float(highest.max())),
            f"{result.names[i]}: up to {highest[i]:.2f}",
        )
        for i in order
    ]


# --- what is taken away ------------------------------------------------------


def write_downloads(result: Result, folder: Path) -> dict[str, Path]:
    """Write mask, overlay and summary, and COCO's JSON where pycocotools is installed.

    Returns:
        Paths by kind: ``mask``, ``overlay``, ``json``, ``coco``.
    """
    name = result.source.stem if result.source else ""
    stem = re.sub(r"[^\w-]+", "_", name)[:_LONGEST_STEM].strip("_") or "image"
    paths = result.save(folder, stem)
    if has_coco():
        paths["coco"] = folder / f"{stem}_coco.json"
        write_json(paths["coco"], result.coco())
    return paths


def has_coco() -> bool:
    """Whether COCO's JSON can be written."""
    return find_spec("pycocotools") is not None
