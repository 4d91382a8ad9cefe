"""From the fields of a request to a result."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from itaclip.apps.web.limits import Limits
from itaclip.apps.web.request import GENERAL, NONE, SegmentFields, split_words
from itaclip.apps.web.time_limit import TimeLimit
from itaclip.common.images import ReadOptions, decode_image
from itaclip.core.clip.names import DEMO
from itaclip.core.concepts.options import CONCEPTS
from itaclip.core.methods import COMPARED, METHODS
from itaclip.core.scores import KEPT
from itaclip.core.settings import Settings
from itaclip.core.text.auxiliary import SEPARATOR
from itaclip.core.text.class_names import plain_name
from itaclip.errors import ItaclipError
from itaclip.result import Result
from itaclip.segmenter import Segmenter
from itaclip.vocabulary import Vocabulary

_PAMR_STEPS = 10  # where the server was started without refinement


def default_options(settings: Settings) -> dict[str, Any]:
    """Return values of the fields that a request leaves out."""
    return {
        "method": settings.method, "refine": settings.pamr_steps > 0, "correct": settings.map_correction,
        "views": settings.img_engineering, "threshold": settings.prob_thd,
    }  # fmt: skip


def offered_methods(settings: Settings) -> list[str]:
    """List the methods that a visitor may choose: those that need only CLIP, and those that need a
    second encoder if the server has its weights. A model that is not CLIP has its own method alone."""
    if settings.method in CONCEPTS:
        return [settings.method]
    second = settings.second_encoder == DEMO or Path(settings.second_encoder).exists()
    own = [name for name in COMPARED if second or not METHODS[name].reads_features]
    return list(dict.fromkeys([settings.method, *own]))


def own_classes(vocabulary: Vocabulary | None) -> dict[str, str] | None:
    """Return the server's own classes, background and definitions as a request would send them; None without any."""
    if vocabulary is None:
        return None
    lines = [", ".join(words) for words in vocabulary.bank.class_names.synonyms]
    names, background = vocabulary.names, NONE
    if vocabulary.background:  # published lists use some words twice; requests may not
        first, *others = vocabulary.bank.class_names.synonyms
        taken = {plain_name(word) for words in others for word in words}
        background = ", ".join(word for word in first if plain_name(word) not in taken) or GENERAL
        lines, names = lines[1:], names[1:]
    texts = zip(names, vocabulary.definitions or (), strict=False)
    definitions = "\n".join(f"{name} {SEPARATOR}{text}" for name, text in texts if text)
    return {"classes": "\n".join(lines), "background": background, "definitions": definitions}


def segment(
    segmenter: Segmenter, image: bytes, fields: SegmentFields, limits: Limits, stopped: threading.Event | None = None
) -> tuple[Result, Vocabulary]:
    """Segment as a request asks, within the limits, until `stopped` is set.

    The labels are those of ``segmenter(path, segmenter.prepare(...))``. The vocabulary is what `prepare` gave.

    Args:
        segmenter: its settings and classes serve requests that leave theirs out.
        image: content of the image file.
        fields: of the request.
        limits: on pixels, words and time.
        stopped: set once the client has disconnected.

    Raises:
        ItaclipError: a bad image, class list or setting, or the time is over. Messages name
            the client's file, never a path of this machine.
    """
    asked = default_options(segmenter.settings) | fields.model_dump(exclude_unset=True, exclude={"image"})
    name, classes, background = asked.get("name", "image"), asked.get("classes"), asked.get("background", True)
    pixels = decode_image(image, name, _read_options(segmenter, limits))
    words = [*(classes or ()), *([] if isinstance(background, (bool, str)) else background)]
    count = sum(len(split_words(line)) for line in words)
    if count > limits.words:
        raise ItaclipError(f"{count} words, synonyms included; at most {limits.words} are accepted.")
    offered = offered_methods(segmenter.settings)
    if asked["method"] not in offered:
        raise ItaclipError(f"method = {asked['method'][:60]!r}: expected one of {', '.join(offered)}.")
    changes: dict[str, Any] = {
        "method": asked["method"],
        "map_correction": asked["correct"],
        "img_engineering": asked["views"],
        "pamr_steps": (segmenter.settings.pamr_steps or _PAMR_STEPS) if asked["refine"] else 0,
    }
    with TimeLimit(limits.seconds, stopped):
        vocabulary = segmenter.vocabulary
        if classes is not None or vocabulary is None:
            own = vocabulary
            vocabulary = segmenter.prepare(classes or (), background, asked.get("definitions"), source="classes")
            if own is not None and own.names == vocabulary.names:
                vocabulary = replace(vocabulary, colors=own.colors)
        if vocabulary.background:
            changes["prob_thd"] = asked["threshold"]
        result = segmenter(pixels, vocabulary, scores="full" if asked.get("output") == "view" else KEPT, **changes)
    return replace(result, source=Path(name)), vocabulary


def _read_options(segmenter: Segmenter, limits: Limits) -> ReadOptions:
    """Return how the server reads images: as its segmenter does, within the server's own limit."""
    return replace(segmenter.read_options, largest=limits.pixels, limit="--max-megapixels, where the server is started")


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Collect the warnings that this thread logs within the block, for the visitor to read too."""
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
