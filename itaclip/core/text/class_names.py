"""Class files: one class per line, synonyms separated by ", "."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from itaclip.errors import ItaclipError
from itaclip.files import local_path

BACKGROUND_NAME = "background"
"""Name of the class that means "none of these". A line with this first word is that class."""

_LABELME_IGNORED = "__ignore__"
_LABELME_BACKGROUND = "_background_"


@dataclass(frozen=True)
class ClassNames:
    """The classes of a data set and the query words of each.

    Attributes:
        synonyms: the query words of each class, in label order; the first names the class.
        source: where the classes come from, for messages.
        first_line: line of class 0 in a class file, counted from 1; 2 after labelme's ``__ignore__``.
    """

    synonyms: tuple[tuple[str, ...], ...]
    source: str = "class list"
    first_line: int = 1

    @property
    def names(self) -> tuple[str, ...]:
        """The first word of every class."""
        return tuple(words[0] for words in self.synonyms)

    @property
    def queries(self) -> tuple[str, ...]:
        """All words of all classes, class by class."""
        return tuple(word for words in self.synonyms for word in words)

    @property
    def query_to_class(self) -> tuple[int, ...]:
        """The class id of every query."""
        return tuple(i for i, words in enumerate(self.synonyms) for _ in words)

    @property
    def queries_per_class(self) -> tuple[int, ...]:
        """Number of queries of every class."""
        return tuple(len(words) for words in self.synonyms)

    def __len__(self) -> int:
        return len(self.synonyms)


def parse_class_names(lines: Sequence[str], source: str = "class list", background: bool = False) -> ClassNames:
    """Check and split class lines; the line number, from 0, is the class id.

    The first words name the classes. `plain_name` compares names, and words of different classes.
    The marks of labelme's ``labels.txt`` are understood: ``__ignore__`` on the first line is no class,
    because labelme stores it as 255; ``_background_`` is the class "background".

    Args:
        lines: one class per line, synonyms separated by ", ".
        source: where the lines come from, for messages.
        background: whether class 0 is the background, whose words may recur in other classes,
            as "bed" does in the published list of COCO-Object, but not name them. No other class
            may be named "background" then.

    Raises:
        ItaclipError: no class, a blank line, an empty synonym, a word with a semicolon, a word that
            occurs twice, a second background, or ``__ignore__`` elsewhere.
    """
    marked = bool(lines) and lines[0].strip() == _LABELME_IGNORED
    if not lines[marked:]:
        raise ItaclipError(f"{source}: contains no class; write one class per line, synonyms separated by ', '.")
    classes: list[tuple[str, ...]] = []
    seen: dict[str, int] = {}
    first = 1 + marked
    for number, line in enumerate(lines[marked:], first):
        where = f"{source}, line {number}"
        words = tuple(" ".join(word.split()) for word in line.split(", "))
        if not line.strip():
            raise ItaclipError(f"{where}: blank. Every line is a class; fill in or delete this line.")
        if not all(words):
            raise ItaclipError(f"{where}: {line!r} has an empty synonym.")
        if ";" in line:
            raise ItaclipError(f"{where}: {line!r} contains ';'; write one class per line, synonyms separated by ', '.")
        if _LABELME_IGNORED in words:
            raise ItaclipError(
                f"{where}: {_LABELME_IGNORED!r} is no class. labelme writes it on the first line and numbers the "
                "classes from the second line on; delete the word here."
            )
        if words[0] == _LABELME_BACKGROUND:
            words = (BACKGROUND_NAME, *words[1:])
        if background and number > first and is_background(words[0]):
            raise ItaclipError(
                f"{where}: names a second background; with background=True, line {first} is the background. Lines are "
                "not reordered, because line numbers are label numbers: rename one of the two, or set background=False."
            )
        for position, word in enumerate(words):
            earlier = seen.get(plain_name(word))
            within = word.lower() in {other.lower() for other in words[:position]}  # like CLIP's tokenizer
            recurs = background and earlier == first and not (position == 0 and is_same(word, classes[0][0]))
            if within or (earlier not in (None, number) and not recurs):
                raise ItaclipError(
                    f"{where}: {word!r} already occurs on line {number if within else earlier}; "
                    "a word can belong to only one class."
                )
        seen |= {plain_name(word): number for word in words}
        classes.append(words)
    return ClassNames(tuple(classes), source, first)


def read_class_names(path: str | Path, background: bool = False) -> ClassNames:
    """Read a class file (UTF-8); see `parse_class_names`.

    Raises:
        ItaclipError: a missing or unreadable file, or bad content; the message names file and line.
    """
    return parse_class_names(read_lines(path), str(path), background)


def plain_name(name: str) -> str:
    """Normalise a name for comparison: 'Traffic light' and 'traffic-light' become 'trafficlight'."""
    return "".join(ch for ch in name.lower() if ch not in " -_") or name  # nothing but hyphens


def is_same(one: str, other: str) -> bool:
    """Tell whether two names are the same except for case, spaces, hyphens and underscores."""
    return plain_name(one) == plain_name(other)


def is_background(name: str) -> bool:
    """Tell whether a name is "background", in any spelling: "Background", "_background_"."""
    return is_same(name, BACKGROUND_NAME)


def read_lines(path: str | Path) -> list[str]:
    """Read the lines of a UTF-8 text file, without byte-order mark and line endings."""
    try:
        text = local_path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ItaclipError(f"{path}: no such file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ItaclipError(f"{path}: cannot be read as UTF-8 text ({error}).") from error
    return text.splitlines()
