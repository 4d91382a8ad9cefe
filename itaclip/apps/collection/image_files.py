"""Sources of separate image files: a folder, a pattern, a list of paths and addresses."""

from __future__ import annotations

import codecs
import itertools
import os
import re
from collections.abc import Callable, Iterator

from fsspec.utils import glob_translate

from itaclip.apps.collection.folder_source import FolderSource, braces
from itaclip.apps.collection.locations import Location, MissingError, redacted
from itaclip.apps.collection.units import Entry, Unit, already_seen, chunks, fetched
from itaclip.errors import ItaclipError
from itaclip.files import IMAGE_SUFFIXES, is_hidden


class ImageFiles(FolderSource):
    """Images in a folder, searched recursively, or those that match a pattern; the key is the relative path.

    The search takes no hidden files (`itaclip.files.is_hidden`).
    """

    def units(self, size: int) -> Iterator[Unit]:
        """See `Source`."""
        if not self._pattern and self._root.kind() is None:
            raise MissingError(f"{self._root}: no such file or folder.")
        found = False
        for chunk in chunks(self._names(), size):
            found = True
            yield Unit("", names=tuple(os.fsencode(name) for name in chunk), count=len(chunk))
        if not found:
            self._check_not_only_results()
            what = f"no image matches {self._pattern}" if self._pattern else "contains no image"
            kinds = ", ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
            raise ItaclipError(
                f"{self._root}: {what} ({kinds}). To read tables, archives or lists, name them with their extension, "
                "such as folder/*.parquet or folder/*.tar."
            )

    def entries(self, unit: Unit) -> Iterator[Entry]:
        """See `Source`."""
        wanted: list[tuple[str, bytes | Location | str]] = []
        for name in map(os.fsdecode, unit.names):
            # Keys are valid Unicode even if names are not.
            key = os.fsencode(name).decode("utf-8", "backslashreplace")
            wanted.append((key, self._root / name))
        return fetched(wanted)

    def _names(self) -> Iterator[str]:
        if self._pattern and "**" not in self._pattern:
            yield from filter(_is_image, self._matching())
            return
        if self._lies_in_results():
            return
        matches, spelled = _matcher(self._pattern), is_hidden(self._pattern)
        for below, files in self._root.walk(self._enters):  # one folder at a time
            names = (f"{below}/{file}" if below else file for file in files if _is_image(file))
            yield from (name for name in names if matches(name) and (spelled or not is_hidden(name)))

    def _enters(self, folder: str) -> bool:
        hidden = is_hidden(folder) and not is_hidden(self._pattern)
        return not hidden and not self._is_result(folder)


def _matcher(pattern: str) -> Callable[[str], bool]:
    """Make a function that tells whether a name matches a pattern with ``**``; all do if there is none.

    Raises:
        ItaclipError: ``**`` beside other characters.
    """
    if not pattern:
        return lambda _: True
    try:
        compiled = [re.compile(glob_translate(plain)) for plain in braces(pattern)]
    except ValueError:
        raise ItaclipError(f"{pattern}: ** means any folders; write it between slashes, such as **/*.jpg.") from None
    return lambda name: any(each.match(name) for each in compiled)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 - names, not paths


class ImageList:
    """A text file with one path or address per line; the key is the line without user, password, query and fragment.

    A relative path starts at the folder of the list. Repeated lines are ignored; keys of lines
    that differ only in their query get numbers. A byte-order mark is no part of a line.
    """

    skipped: list[str] = []  # noqa: RUF012 - never changes

    def __init__(self, location: Location) -> None:
        self._location = location

    def units(self, size: int) -> Iterator[Unit]:
        """See `Source`."""
        seen: set[bytes] = set()
        found = False
        for chunk in chunks(self._lines(seen), size):
            found = True
            offsets = itertools.chain.from_iterable((begin, end) for _, begin, end in chunk)
            yield Unit("", names=tuple(key.encode() for key, _, _ in chunk), offsets=tuple(offsets), count=len(chunk))
        if not found:
            raise ItaclipError(f"{self._location}: the list is empty; write one path or address per line.")

    def entries(self, unit: Unit) -> Iterator[Entry]:
        """See `Source`."""
        first = unit.offsets[0]
        try:
            content = self._location.slice(first, unit.offsets[-1])
        except ItaclipError as error:
            return (Entry(name.decode(), None, str(error)) for name in unit.names)
        wanted: list[tuple[str, bytes | Location | str]] = []
        for n, key in enumerate(name.decode() for name in unit.names):
            begin, end = unit.offsets[2 * n] - first, unit.offsets[2 * n + 1] - first
            line = _line(content[begin:end])
            if not key.startswith(_listed_key(line)) or not line:
                wanted.append((key, f"{key}: {self._location} has changed since it was first read."))
            else:
                wanted.append((key, self._resolved(line)))
        return fetched(wanted)

    def _resolved(self, line: str) -> Location:
        if "://" in line or line.startswith("/"):
            return Location(line.removeprefix("file://"), self._location.storage)
        return Location(f"{self._location.address.rpartition('/')[0]}/{line}", self._location.storage)

    def _lines(self, seen: set[bytes]) -> Iterator[tuple[str, int, int]]:
        """Yield the key, start and end offset of every distinct line."""
        position = 0
        with self._location.opened() as file:
            for raw in file:
                if not position and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                    raise ItaclipError(f"{self._location}: the list is UTF-16 text; save it as UTF-8.")
                begin, position = position, position + len(raw)
                line = _line(raw)
                if not line or already_seen(seen, "line " + line):
                    continue
                key = stem = _listed_key(line)
                for number in itertools.count(2):
                    if not already_seen(seen, "key " + key):
                        break
                    key = f"{stem}#{number}"
                yield key, begin, position


def _line(raw: bytes) -> str:
    return raw.decode("utf-8", "replace").removeprefix("\ufeff").strip()


def _listed_key(line: str) -> str:
    return redacted(line) if "://" in line else line
