"""Class files: one class per line, synonyms separated by ", "."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from itaclip.errors import ItaclipError


@dataclass(frozen=True)
class ClassNames:
    """The classes of a data set and the words that stand for each.

    Attributes:
        synonyms: per class, in label order, its query words; the first one names it.
        source: where they come from, for messages.
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
        """How many queries every class has."""
        return tuple(len(words) for words in self.synonyms)

    def __len__(self) -> int:
        return len(self.synonyms)


def parse_class_names(lines: Sequence[str], source: str = "class list", background: bool = False) -> ClassNames:
    """Check and split class lines; line number (from 0) is the class id.

    Args:
        lines: one class each, synonyms separated by ", ".
        source: where the lines come from, for messages.
        background: class 0 is the background. Its words may recur in other classes, as
            "bed" does in the published list of COCO-Object.

    Raises:
        ItaclipError: no class, a blank line, an empty synonym, or a word that two
            classes share (or one class repeats).
    """
    if not lines:
        raise ItaclipError(f"{source}: holds no class; write one class per line, synonyms separated by ', '.")
    classes: list[tuple[str, ...]] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        words = tuple(word.strip() for word in line.split(", "))
        if not line.strip():
            raise ItaclipError(f"{source}, line {number}: blank. Every line is a class; delete the line or name it.")
        if not all(words):
            raise ItaclipError(f"{source}, line {number}: {line!r} has an empty synonym.")
        for word in words:
            lower = word.lower()  # as CLIP's tokenizer reads it
            if lower in seen and not (background and seen[lower] == 1 != number):
                raise ItaclipError(
                    f"{source}, line {number}: {word!r} already stands on line {seen[lower]}; "
                    "a word can name only one class."
                )
            seen[lower] = number
        classes.append(words)
    return ClassNames(tuple(classes), source)


def read_class_names(path: str | Path, background: bool = False) -> ClassNames:
    """Read a class file (UTF-8); see `parse_class_names`.

    Raises:
        ItaclipError: file missing or unreadable, or bad content; names file and line.
    """
    return parse_class_names(read_lines(path), str(path), background)


def plain_name(name: str) -> str:
    """A name without case, blanks and hyphens, for comparing: 'Traffic light' = 'trafficlight'."""
    return "".join(ch for ch in name.lower() if ch not in " -_")


def read_lines(path: str | Path) -> list[str]:
    """The lines of a UTF-8 text file, without a byte-order mark and line ends."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ItaclipError(f"{path}: no such file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ItaclipError(f"{path}: cannot be read as UTF-8 text ({error}).") from error
    return text.splitlines()
