"""The settings of a data set in a configuration: its type, classes and palette."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from itaclip.errors import ItaclipError, did_you_mean
from itaclip.research.preparation.layout import registered

_KEY = "test_dataloader.dataset"


def check_settings(config: Config) -> None:
    """Check the data set's type, classes and palette as the configuration writes them.

    Raises:
        ItaclipError: the message names the key, what it holds and what to write.
    """
    settings = config.test_dataloader.dataset
    kind = registered(settings.get("type"))
    declared = dict(getattr(kind, "METAINFO", None) or {})
    given = settings.get("metainfo") or {}
    key = f"{named(config)}{_KEY}.metainfo"
    if not isinstance(given, dict):
        raise ItaclipError(f"{key} is {given!r}; expected dict(classes=[...]).")
    for holder, source in ((declared, f"{getattr(kind, '__name__', kind)}.METAINFO"), (given, key)):
        if holder.get("classes") is not None:
            _check_names(holder["classes"], f"{source}.classes")
    classes = given.get("classes")
    known = declared.get("classes")
    if known and classes is not None and not isinstance(classes, str):
        for name in classes:
            if name not in known:
                raise ItaclipError(
                    f"{key}.classes: {name!r} is no class of {kind.__name__}, of which it selects some."
                    f"{did_you_mean(name, known)} For classes of your own, set type='BaseSegDataset'."
                )
    colors = given.get("palette")
    if colors is not None and not isinstance(classes, str):
        _check_palette(colors, classes or known, known, f"{key}.palette")


def named(config: Config) -> str:
    """Return the configuration's file, to begin a message with; "" if it comes from no file."""
    return f"{config.filename}: " if config.filename else ""


def _check_names(classes: Any, source: str) -> None:
    if isinstance(classes, str):
        if Path(classes).is_file():  # MMEngine reads it, one class per line
            return
        names = [name.strip() for name in classes.split(",") if name.strip()]
        raise ItaclipError(
            f"{source} is the text {classes!r}, not a list, and no file; a single class in parentheses is a text "
            f"in Python. Write classes={names!r}."
        )
    if not isinstance(classes, (list, tuple)) or not classes:
        raise ItaclipError(f"{source} is {classes!r}; expected a list of class names.")
    for number, name in enumerate(classes):
        if not isinstance(name, str) or not name.strip():
            raise ItaclipError(f"{source}[{number}] is {name!r}; expected a class name.")
        if classes.index(name) != number:
            raise ItaclipError(f"{source}[{number}]: {name!r} is class {classes.index(name)} already.")


def _check_palette(colors: Any, classes: Sequence[str] | None, known: Sequence[str] | None, source: str) -> None:
    if not isinstance(colors, (list, tuple)):
        raise ItaclipError(f"{source} is {colors!r}; expected one [r, g, b] per class.")
    for number, color in enumerate(colors):
        if (
            not isinstance(color, (list, tuple)) or len(color) != 3
            or not all(isinstance(part, int) and 0 <= part <= 255 for part in color)
        ):  # fmt: skip
            raise ItaclipError(f"{source}[{number}] is {color!r}; expected [r, g, b], each 0..255.")
    expected = {len(names) for names in (classes, known) if names}
    if colors and expected and len(colors) not in expected:
        count = f"{len(colors)} colour{'s' * (len(colors) != 1)}"
        raise ItaclipError(
            f"{source} has {count}, but there are {len(classes or ())} classes; write one colour per class, or leave "
            "out the palette."
        )
