"""What sources are made of: units that are read independently, and images, read in parts of a fixed number."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from itaclip.apps.collection.locations import Location
from itaclip.errors import ItaclipError

FETCHES = 16
"""Concurrent reads of separate images, to overlap network latencies."""


class Entry(NamedTuple):
    """An image to label: its key, and its bytes or the reason why there are none."""

    key: str
    content: bytes | None
    error: str | None = None


@dataclass(frozen=True)
class Unit:
    """A piece of a source that is read independently.

    Attributes:
        path: the file to read, relative to the source's root; "" if `names` are the files.
        group: for tables, the row group.
        names: for image files, their paths relative to the root, as file system bytes; for lists, the keys.
        offsets: for lists, the byte offsets of the start and end of each line; for tables, the number of the
            first row.
        count: number of images; None for an archive, whose images are not counted in advance.
    """

    path: str
    group: int = 0
    names: tuple[bytes, ...] = ()
    offsets: tuple[int, ...] = ()
    count: int | None = None


class Source(Protocol):
    """A collection."""

    @property
    def skipped(self) -> list[str]:
        """Folders that `units` has left out, because an earlier run filled them."""

    def units(self, size: int) -> Iterator[Unit]:
        """Yield its units lazily in a fixed order; lists and image files are divided into units of `size` images.

        Raises:
            ItaclipError: the source cannot be listed, or has another format than its name says.
        """

    def entries(self, unit: Unit) -> Iterator[Entry]:
        """Yield the images of a unit in a fixed order; an entry reports an image that cannot be read."""


def split_into_parts(entries: Iterable[Entry], size: int) -> Iterator[tuple[list[Entry], bool]]:
    """Divide entries into parts of `size`; flag the last. There is at least one part, which may be empty."""
    waiting: list[Entry] | None = None
    for chunk in chunks(entries, size):
        if waiting is not None:
            yield waiting, False
        waiting = chunk
    yield waiting or [], True


def chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Divide items into lists of `size`; the last one may be shorter."""
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def fetched(wanted: Sequence[tuple[str, bytes | Location | str]]) -> Iterator[Entry]:
    """Yield entries from bytes, locations (read concurrently) and failure reasons."""

    def fetch(item: tuple[str, bytes | Location | str]) -> Entry:
        key, source = item
        if isinstance(source, Location):
            try:
                return Entry(key, source.read())
            except ItaclipError as error:
                return Entry(key, None, str(error))
        return Entry(key, None, source) if isinstance(source, str) else Entry(key, source)

    with ThreadPoolExecutor(FETCHES) as pool:
        yield from pool.map(fetch, wanted)


def already_seen(seen: set[bytes], text: str) -> bool:
    """Tell whether a text is already in `seen`, which stores 12-byte hashes; add it if not."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=12).digest()
    if digest in seen:
        return True
    seen.add(digest)
    return False
