"""Class files: one class per line, synonyms separated by ", "."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from itaclip.errors import ItaclipError


@dataclass(frozen=True)
class ClassNames:
    """The classes of a data set and the query words of each.

    Attributes:
        synonyms: the query words of each class, in label order; the first names the class.
        source: where the classes come from, for messages.
    """

    synonyms: tuple[tuple[str, ...], ...]
    source: str = "class list"

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

    Args:
        lines: one class per line, synonyms separated by ", ".
        source: where the lines come from, for messages.
        background: whether class 0 is the background, whose words may recur in other classes,
            as "bed" does in the published list of COCO-Object.

    Raises:
        ItaclipError: no class, a blank line, an empty synonym, or a word that occurs twice.
    """
    if not lines:
        raise ItaclipError(f"{source}: contains no class; write one class per line, synonyms separated by ', '.")
    classes: list[tuple[str, ...]] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        words = tuple(word.strip() for word in line.split(", "))
        if not line.strip():
            raise ItaclipError(f"{source}, line {number}: blank. Every line is a class; fill in or delete this line.")
        if not all(words):
            raise ItaclipError(f"{source}, line {number}: {line!r} has an empty synonym.")
        for word in words:
            lower = word.lower()  # like CLIP's tokenizer
            if lower in seen and not (background and seen[lower] == 1 != number):
                raise ItaclipError(
                    f"{source}, line {number}: {word!r} already occurs on line {seen[lower]}; "
                    "a word can belong to only one class."
                )
            seen[lower] = number
        classes.append(words)
    return ClassNames(tuple(classes), source)


def read_class_names(path: str | Path, background: bool = False) -> ClassNames:
    """Read a class file (UTF-8); see `parse_class_names`.

    Raises:
        ItaclipError: a missing or unreadable file, or bad content; the message names file and line.
    """
    return parse_class_names(read_lines(path), str(path), background)


def plain_name(name: str) -> str:
    """Normalise a name for comparison: 'Traffic light' and 'traffic-light' become 'trafficlight'."""
    return "".join(ch for ch in name.lower() if ch not in " -_")


def read_lines(path: str | Path) -> list[str]:
    """Read the lines of a UTF-8 text file, without byte-order mark and line endings."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ItaclipError(f"{path}: no such file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ItaclipError(f"{path}: cannot be read as UTF-8 text ({error}).") from error
    return text.splitlines()
