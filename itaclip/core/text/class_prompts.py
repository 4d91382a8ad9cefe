"""Class-biased prompts: sentences about single words, encoded beside the 80 templates.

OV-Stitcher (arXiv 2604.08110) publishes them as JSON, ``{word: [sentence, ...]}``, 15 sentences a word.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from itaclip.core.text.class_names import ClassNames, plain_name
from itaclip.errors import ItaclipError, did_you_mean

ClassPrompts: TypeAlias = "Mapping[str, Sequence[str]]"

_LOG = logging.getLogger(__name__)
_SHOWN = 5


def read_class_prompts(
    path: str | Path | None, classes: ClassNames, needed: bool = True
) -> dict[str, tuple[str, ...]] | None:
    """Read the sentences of a class list's words.

    Words are compared without case, spaces and hyphens. A file may hold words of other lists, which
    causes a warning. Words without an entry keep the templates alone.

    Args:
        path: a JSON file; None gives None.
        classes: the classes.
        needed: whether a file without any word of the classes is an error; free-form lists may
            have none.

    Returns:
        Sentences by query word of the classes, verbatim.

    Raises:
        ItaclipError: no such file, not JSON of this form, an entry without sentences, a word that
            occurs twice, or a needed file without a word of the classes.
    """
    if path is None:
        return None
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=_Pairs)
    except FileNotFoundError:
        raise ItaclipError(f"{path}: no such file of class-biased prompts.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ItaclipError(f"{path}: cannot be read as UTF-8 text ({error}).") from error
    except (ValueError, RecursionError) as error:
        raise ItaclipError(f"{path}: not valid JSON ({error}); expected {{word: [sentence, ...]}}.") from error
    if not isinstance(content, _Pairs):
        raise ItaclipError(f"{path}: expected one JSON object, {{word: [sentence, ...]}}.")
    entries: dict[str, tuple[str, ...]] = {}
    spelled: dict[str, str] = {}
    for word, sentences in content:
        plain = plain_name(word)
        if plain in spelled:
            raise ItaclipError(f"{path}: {word!r} occurs twice ({spelled[plain]!r}); join its sentences in one list.")
        spelled[plain] = word
        entries[plain] = _checked(word, sentences, str(path))
    words = {plain_name(word): word for word in classes.queries}
    unknown = [word for plain, word in spelled.items() if plain not in words]
    if needed and len(unknown) == len(spelled):
        first = did_you_mean(unknown[0], classes.queries) if unknown else ""
        raise ItaclipError(
            f"{path}: no entry is a word of {classes.source} ({', '.join(classes.queries[:_SHOWN])}, ...); entries: "
            f"{', '.join(unknown[:_SHOWN]) or 'none'}.{first}"
        )
    if unknown:
        _LOG.warning("%s: entries that belong to no class of %s are not used: %s%s.%s", path, classes.source,
                     ", ".join(unknown[:_SHOWN]), f", ... ({len(unknown)})" if len(unknown) > _SHOWN else "",
                     did_you_mean(unknown[0], classes.queries))  # fmt: skip
    return {words[plain]: sentences for plain, sentences in entries.items() if plain in words}


class _Pairs(list[Any]):
    """A JSON object as its pairs, so that a key that occurs twice is noticed."""


def _checked(word: str, sentences: Any, source: str) -> tuple[str, ...]:
    if isinstance(sentences, _Pairs) or not isinstance(sentences, list):
        raise ItaclipError(f"{source}: {word!r} has {str(sentences)[:40]!r}; expected a list of sentences.")
    if not sentences:
        raise ItaclipError(f"{source}: {word!r} has no sentence; add some, or leave it out to keep the templates.")
    for number, sentence in enumerate(sentences, 1):
        if not isinstance(sentence, str) or not sentence.strip():
            raise ItaclipError(f"{source}: sentence {number} of {word!r} is {str(sentence)[:40]!r}; expected a text.")
    return tuple(sentences)
