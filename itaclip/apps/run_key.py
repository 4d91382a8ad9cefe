"""Everything that the results of a run depend on besides the images, so that results of different runs never mix."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from itaclip.core.choices import follow
from itaclip.errors import ItaclipError
from itaclip.segmenter import Segmenter
from itaclip.vocabulary import Vocabulary

CHOICES = "choices"
"""Name of what a run chose by measuring, in its key."""


def follow_run(key: Any) -> None:
    """Let this process choose as an earlier run did, if it recorded its choices in its key."""
    if isinstance(key, dict) and isinstance(key.get(CHOICES), dict):
        follow(key[CHOICES])


def follow_folder(folder: Path) -> None:
    """Let this process choose as the run in a folder did, if there is one whose run.json records its choices."""
    try:
        follow_run(json.loads((folder / "run.json").read_bytes()))
    except (OSError, ValueError):  # whoever opens the run says what is wrong with it
        return


def run_key(segmenter: Segmenter, vocabulary: Vocabulary) -> dict[str, Any]:
    """Collect everything the results depend on besides the images, as JSON values; settles what is measured."""
    segmenter.settle(vocabulary)
    pipeline, settings = segmenter.pipeline, asdict(segmenter.for_vocabulary(vocabulary))
    del settings["device"], settings["batch_crops"], settings["agreement"]  # these do not affect results
    if settings["dtype"] == "auto":
        settings |= {"engine": pipeline.engine, "dtype": pipeline.dtype}
    key = {
        "weights": segmenter.fingerprint,
        "short_side": segmenter.short_side,
        "classes": vocabulary.bank.class_names.synonyms,
        "background": vocabulary.background,
        "definitions": vocabulary.definitions,
        "colors": vocabulary.own_colors,
        "settings": settings,
    }
    if segmenter.read_options.value_range is not None:
        key["value_range"] = segmenter.read_options.value_range
    if pipeline.choices:
        key[CHOICES] = pipeline.choices
    as_read_back: dict[str, Any] = json.loads(json.dumps(key))
    return as_read_back


def refuse_other_run(place: object, known: dict[str, Any], key: dict[str, Any]) -> None:
    """Refuse a folder with results of another run.

    Args:
        place: the folder, for the message.
        known: key of the run whose results it holds.
        key: key of this run.

    Raises:
        ItaclipError: the keys differ; the message says in what.
    """
    different = [name for name in known | key if known.get(name) != key.get(name)]
    if different:
        raise ItaclipError(
            f"{place}: holds results of another run (different {', '.join(different)}); choose another folder, or "
            "overwrite them (--overwrite)."
        )
