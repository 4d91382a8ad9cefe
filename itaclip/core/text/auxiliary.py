"""Read auxiliary texts: a definition or a synonym for every class, one per line.

Lines have the format of the published LLaMA texts: ``name >=text``, in the order of the class
file, without a line for the background.
"""

from __future__ import annotations

import logging
from pathlib import Path

from itaclip.core.text.class_names import ClassNames, plain_name, read_class_names, read_lines
from itaclip.errors import ItaclipError

SEPARATOR = ">="

_LOG = logging.getLogger(__name__)


def read_texts(
    name_path: str | Path, auxiliary_text_path: str | Path | None, background: bool
) -> tuple[ClassNames, tuple[str, ...] | None]:
    """Read a class file and, if given, the file of its auxiliary texts, for `build_text_bank`.

    Raises:
        ItaclipError: see `read_class_names` and `read_auxiliary_texts`.
    """
    classes = read_class_names(name_path, background)
    return classes, read_auxiliary_texts(auxiliary_text_path, classes, background) if auxiliary_text_path else None


def read_auxiliary_texts(path: str | Path, classes: ClassNames, background: bool) -> tuple[str, ...]:
    """Read and check the auxiliary texts of a class list.

    A name that belongs to no class may be another wording, so it only causes a warning.

    Args:
        path: the text file.
        classes: the classes to describe.
        background: whether class 0 is the background, which has no line.

    Returns:
        One text per described class, verbatim after ``>=``.

    Raises:
        ItaclipError: a missing or surplus line, or one without ``>=``, with an empty text, or at
            the position of another class; the message names file and line.
    """
    lines = read_lines(path)
    while lines and not lines[-1].strip():
        lines.pop()
    owner = {plain_name(word): words[0] for words in classes.synonyms for word in words}
    expected = classes.synonyms[1:] if background else classes.synonyms
    texts = []
    for number, line in enumerate(lines, 1):
        name, separator, text = line.partition(SEPARATOR)
        where = f"{path}, line {number}"
        if not separator:
            raise ItaclipError(f"{where}: {line!r} has no ' >='; write `name >=text`.")
        if not text.strip():
            raise ItaclipError(f"{where}: the text of {name!r} is empty.")
        if number > len(expected):
            raise ItaclipError(
                f"{where}: {name!r} is surplus; {classes.source} has only {len(expected)} classes"
                f"{' besides the background' if background else ''}."
            )
        words = expected[number - 1]
        if plain_name(name) not in {plain_name(word) for word in words}:
            message = f"{where}: describes {name.strip()!r}, but {words[0]!r} of {classes.source} is expected here"
            if plain_name(name) in owner:
                raise ItaclipError(
                    f"{message}; lines must follow the order of the class file"
                    f"{', without the background' if background else ''}."
                )
            _LOG.warning("%s; assuming that this is another wording.", message)
        texts.append(text)
    if len(texts) < len(expected):
        raise ItaclipError(
            f"{path}: has {len(texts)} of {len(expected)} lines; {expected[len(texts)][0]!r} is the first "
            f"class of {classes.source} without a text."
        )
    return tuple(texts)
