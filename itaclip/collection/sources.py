"""What a collection is made of: images, lists, tables and archives, cut into units that are read alone.

A unit is the same however often it is read: so many images of a listing, a row group of a
table, or a tar. Reading one gives parts of a fixed number of images; a part becomes one
file of results.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from itaclip.collection.places import MissingError, Place, Storage, scrubbed
from itaclip.errors import ItaclipError, did_you_mean
from itaclip.files import IMAGE_SUFFIXES

LIST_SUFFIXES = (".txt", ".lst")
TABLE_SUFFIXES = (".parquet", ".pq")
ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz")

_MAGIC = re.compile(r"[*?\[{]")
_FETCHES = 16  # at a time, of a unit whose images lie apart: a network's delays overlap


class Entry(NamedTuple):
    """An image to label: its key, and its bytes or in words why there are none."""

    key: str
    content: bytes | None
    error: str | None = None


@dataclass(frozen=True)
class Unit:
    """A piece of a source.

    Attributes:
        path: the file to read, below the source's root; "" where `names` are the files.
        group: row group of a table.
        names: of images, below the root, as the file system has them; of a list, the keys.
        offsets: where the lines of a list begin, and where the last one ends; of a table, the number of its
            first row.
        count: images; None for an archive, which nobody has counted.
    """

    path: str
    group: int = 0
    names: tuple[bytes, ...] = ()
    offsets: tuple[int, ...] = ()
    count: int | None = None


class Source(Protocol):
    """A collection."""

    def units(self, size: int) -> Iterator[Unit]:
        """Its units in a fixed order, found one after the other; of `size` images where they are cut here.

        Raises:
            ItaclipError: it cannot be listed, or is not what it was taken for.
        """

    def entries(self, unit: Unit) -> Iterator[Entry]:
        """The images of a unit, always in the same order; what cannot be read is told in the entry."""


def open_source(
    address: str, storage: Storage | None = None, column: str | None = None, key: str | None = None
) -> Source:
    """The source at an address, told by its ending: a list, a table, archives, or else a folder or pattern of images.

    Args:
        address: a path or address; ``*``, ``?``, ``[abc]``, ``**`` and ``{000..123}`` make a pattern.
        storage: options of fsspec by protocol.
        column: of a table, where the images' bytes or addresses are; of archives, the ending of images.
        key: of a table, the column whose values name the images.

    Raises:
        ItaclipError: `column` or `key` for a source that has none.
    """
    lowered = address.lower()
    root, pattern = _split(address)
    place = Place(root, storage)
    table, archive = lowered.endswith(TABLE_SUFFIXES), lowered.endswith(ARCHIVE_SUFFIXES)
    if key is not None and not table:
        raise ItaclipError(f"key = {key!r}: only tables (.parquet) have one; {scrubbed(address)} is none.")
    if column is not None and not table and not archive:
        raise ItaclipError(
            f"column = {column!r}: only tables (.parquet) and archives (.tar) have one; {scrubbed(address)} is none."
        )
    if table:
        return Tables(place, pattern, column, key)
    if archive:
        return Archives(place, pattern, column)
    if lowered.endswith(LIST_SUFFIXES):
        return Listed(Place(address, storage))
    return Images(place, pattern)


# --- images that lie apart ---------------------------------------------------


class Images:
    """Images in a folder, to any depth, or those that fit a pattern; the key is the name below the folder."""

    def __init__(self, root: Place, pattern: str) -> None:
        self._root, self._pattern = root, pattern

    def units(self, size: int) -> Iterator[Unit]:
        """See `Source`."""
        if not self._pattern and self._root.kind() is None:
            raise MissingError(f"{self._root}: no such file or folder.")
        found = False
        for chunk in _chunks(self._names(), size):
            found = True
            yield Unit("", names=tuple(os.fsencode(name) for name in chunk), count=len(chunk))
        if not found:
            what = f"nothing fits {self._pattern}" if self._pattern else "no image in it"
            kinds = ", ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
            raise ItaclipError(
                f"{self._root}: {what} ({kinds}). Tables, archives and lists are told by their endings; name them, "
                "such as folder/*.parquet or folder/*.tar."
            )

    def entries(self, unit: Unit) -> Iterator[Entry]:
        """See `Source`."""
        wanted: list[tuple[str, bytes | Place | str]] = []
        for name in map(os.fsdecode, unit.names):
            # A name that is no Unicode has a key that is.
            key = os.fsencode(name).decode("utf-8", "backslashreplace")
            wanted.append((key, self._root / name))
        return _fetched(wanted)

    def _names(self) -> Iterator[str]:
        if not self._pattern or "**" in self._pattern:  # any depth: a folder at a time
            fits = _pattern(self._pattern) if self._pattern else _is_image
            for below, files in self._root.walk():
                names = (f"{below}/{file}" if below else file for file in files if _is_image(file))
                yield from filter(fits, names)
        else:
            yield from filter(_is_image, _files(self._root, self._pattern))


class Listed:
    """A text file with a path or address a line; the key is the line, less user, password, query and fragment.

    A line without an address or a leading slash is a path below the folder of the list.
    Of equal lines the first counts; lines that differ in their query alone are numbered.
    """

    def __init__(self, place: Place) -> None:
        self._place = place

    def units(self, size: int) -> Iterator[Unit]:
        """See `Source`."""
        seen: set[bytes] = set()
        found = False
        for chunk in _chunks(self._lines(seen), size):
            found = True
            offsets = itertools.chain.from_iterable((begin, end) for _, begin, end in chunk)
            yield Unit("", names=tuple(key.encode() for key, _, _ in chunk), offsets=tuple(offsets), count=len(chunk))
        if not found:
            raise ItaclipError(f"{self._place}: holds no line; write a path or address a line.")

    def entries(self, unit: Unit) -> Iterator[Entry]:
        """See `Source`."""
        first = unit.offsets[0]
        try:
            content = self._place.slice(first, unit.offsets[-1])
        except ItaclipError as error:
            return (Entry(name.decode(), None, str(error)) for name in unit.names)
        wanted: list[tuple[str, bytes | Place | str]] = []
        for n, key in enumerate(name.decode() for name in unit.names):
            begin, end = unit.offsets[2 * n] - first, unit.offsets[2 * n + 1] - first
            line = content[begin:end].decode("utf-8", "replace").strip()
            if not key.startswith(_listed_key(line)) or not line:
                wanted.append((key, f"{key}: {self._place} was changed since it was first read."))
            else:
                wanted.append((key, self._resolved(line)))
        return _fetched(wanted)

    def _resolved(self, line: str) -> Place:
        if "://" in line or line.startswith("/"):
            return Place(line.removeprefix("file://"), self._place.storage)
        return Place(f"{self._place.address.rpartition('/')[0]}/{line}", self._place.storage)

    def _lines(self, seen: set[bytes]) -> Iterator[tuple[str, int, int]]:
        """Key, first byte and end of every line that counts."""
        position = 0
        with self._place.opened() as file:
            for raw in file:
                begin, position = position, position + len(raw)
                line = raw.decode("utf-8", "replace").strip()
                if not line or _known(seen, "line " + line):
                    continue
                key = stem = _listed_key(line)
                for number in itertools.count(2):
                    if not _known(seen, "key " + key):
                        break
                    key = f"{stem}#{number}"
                yield key, begin, position


def _listed_key(line: str) -> str:
    return scrubbed(line) if "://" in line else line


# --- tables ------------------------------------------------------------------


class Tables:
    """Parquet with a column of bytes (or of structs with them, as data sets on hubs have) or of addresses.

    The key is the value of the key's column, or ``FILE/ROW`` with the number of the row.
    """

    def __init__(self, root: Place, pattern: str, column: str | None, key: str | None) -> None:
        self._root, self._pattern, self._column, self._key = root, pattern, column, key

    def units(self, size: int) -> Iterator[Unit]:
        """See `Source`."""
        seen: set[bytes] = set()
        for path in _files(self._root, self._pattern):
            with _opened_table(self._root / path) as table:
                self._columns(path, table.schema_arrow)
                start = 0
                for group in range(table.num_row_groups):
                    rows = table.metadata.row_group(group).num_rows
                    if self._key is not None:
                        self._check_keys(path, table, group, seen)
                    if rows:
                        yield Unit(path, group, offsets=(start,), count=rows)
                    start += rows

    def entries(self, unit: Unit) -> Iterator[Entry]:
        """See `Source`."""
        with _opened_table(self._root / unit.path) as table:
            column = self._columns(unit.path, table.schema_arrow)
            wanted = [column] if self._key in (None, column) else [column, str(self._key)]
            row = unit.offsets[0]
            for batch in table.iter_batches(_FETCHES, row_groups=[unit.group], columns=wanted):
                values = batch.column(column).to_pylist()
                keys = batch.column(self._key).to_pylist() if self._key else [None] * len(values)
                found: list[tuple[str, bytes | Place | str]] = []
                for value, given in zip(values, keys, strict=True):
                    key = f"{unit.path}/{row}" if given is None else scrubbed(str(given))
                    found.append((key, self._content(key, value)))
                    row += 1
                yield from _fetched(found)

    def _content(self, key: str, value: Any) -> bytes | Place | str:
        """Bytes, where they are, or in words why there are none."""
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if not value:
            return f"{key}: the table holds no image here."
        if isinstance(value, bytes):
            return value
        address = str(value)
        if "://" not in address and not address.startswith("/"):
            address = f"{self._root.address}/{address}"
        return Place(address.removeprefix("file://"), self._root.storage)

    def _columns(self, path: str, schema: pa.Schema) -> str:
        """The column of the images.

        Raises:
            ItaclipError: none, or several and none was named.
        """
        for name in (self._column, self._key):
            if name is not None and name not in schema.names:
                hint = did_you_mean(name, schema.names)
                raise ItaclipError(f"{path}: no column {name!r}.{hint} Columns: {', '.join(schema.names)}.")
        if self._column is not None:
            if not (_holds_bytes(schema.field(self._column).type) or _is_text(schema.field(self._column).type)):
                kind = schema.field(self._column).type
                raise ItaclipError(f"{path}: column {self._column!r} holds {kind}; expected bytes or addresses.")
            return self._column
        found = [field.name for field in schema if _holds_bytes(field.type)]
        found = found or [field.name for field in schema if _is_text(field.type) and field.name != self._key]
        if len(found) != 1:
            raise ItaclipError(
                f"{path}: name the column of the images' bytes or addresses with `column`; columns: "
                f"{', '.join(schema.names)}."
            )
        return found[0]

    def _check_keys(self, path: str, table: pq.ParquetFile, group: int, seen: set[bytes]) -> None:
        for batch in table.iter_batches(row_groups=[group], columns=[self._key]):
            for value in batch.column(0).to_pylist():
                if value is None or _known(seen, scrubbed(str(value))):
                    raise ItaclipError(
                        f"{path}: column {self._key!r} holds {scrubbed(str(value))!r} "
                        f"{'' if value is None else 'twice'}; keys must be there and differ. Without `key`, images are "
                        "called by file and row."
                    )


@contextmanager
def _opened_table(place: Place) -> Iterator[pq.ParquetFile]:
    with place.opened() as file:
        try:
            table = pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise ItaclipError(f"{place}: not a Parquet table ({scrubbed(str(error))}).") from None
        yield table


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


# --- archives ----------------------------------------------------------------


class Archives:
    """WebDataset's shards: tars with images among other files; the key is ``TAR/MEMBER``.

    Of members with the same name the first counts.
    """

    def __init__(self, root: Place, pattern: str, ending: str | None) -> None:
        self._root, self._pattern = root, pattern
        self._endings = ("." + ending.lower().lstrip("."),) if ending else tuple(IMAGE_SUFFIXES)

    def units(self, size: int) -> Iterator[Unit]:
        """See `Source`."""
        for path in _files(self._root, self._pattern):
            yield Unit(path)

    def entries(self, unit: Unit) -> Iterator[Entry]:
        """See `Source`."""
        seen: set[bytes] = set()
        count = 0
        try:
            with (self._root / unit.path).opened() as file, tarfile.open(fileobj=file, mode="r|*") as archive:
                for member in archive:
                    name = member.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                    if not member.isfile() or not name.lower().endswith(self._endings) or _known(seen, name):
                        continue
                    opened = archive.extractfile(member)
                    assert opened is not None  # a file
                    content = opened.read()
                    count += 1
                    yield Entry(f"{unit.path}/{name}", content)
        except (ItaclipError, tarfile.TarError, EOFError, zlib.error, OSError) as error:
            reason = scrubbed(str(error) or type(error).__name__)
            yield Entry(unit.path, None, f"{unit.path}: cannot be read beyond {count} images ({reason}).")


# --- shared ------------------------------------------------------------------


def in_parts(entries: Iterable[Entry], size: int) -> Iterator[tuple[list[Entry], bool]]:
    """Entries in parts of `size`, each with whether it is the last; one part at least, which may be empty."""
    waiting: list[Entry] | None = None
    for chunk in _chunks(entries, size):
        if waiting is not None:
            yield waiting, False
        waiting = chunk
    yield waiting or [], True


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def _fetched(wanted: Sequence[tuple[str, bytes | Place | str]]) -> Iterator[Entry]:
    """Entries of bytes, of places, which are read some at a time, and of reasons."""

    def fetch(item: tuple[str, bytes | Place | str]) -> Entry:
        key, source = item
        if isinstance(source, Place):
            try:
                return Entry(key, source.read())
            except ItaclipError as error:
                return Entry(key, None, str(error))
        return Entry(key, None, source) if isinstance(source, str) else Entry(key, source)

    with ThreadPoolExecutor(_FETCHES) as pool:
        yield from pool.map(fetch, wanted)


def _files(root: Place, pattern: str) -> Iterator[str]:
    """Names below the root that a pattern means: itself, or what fits it, after ``{000..123}`` was written out."""
    for plain in _braces(pattern):
        if (root / plain).kind() == "file":
            yield plain
        elif found := root.matches(plain) if _MAGIC.search(plain) else []:
            yield from found
        else:
            raise MissingError(f"{root / plain}: no such file, or nothing that fits.")


def _split(address: str) -> tuple[str, str]:
    """An address as its fixed folder and what follows: a pattern, or the name of a table, list or archive."""
    head, separator, tail = address.rpartition("/")
    magic = _MAGIC.search(address)
    if Place(address).local and os.path.lexists(address):  # a file before a pattern
        return (address, "") if os.path.isdir(address) else (head or separator, tail)  # noqa: PTH112
    if magic is not None:
        cut = address.rfind("/", 0, magic.start())
        return address[:cut] or "/", address[cut + 1 :]
    if tail.lower().endswith((*TABLE_SUFFIXES, *ARCHIVE_SUFFIXES, *IMAGE_SUFFIXES)):
        return (head or separator), tail
    return address, ""


def _braces(pattern: str) -> Iterator[str]:
    """``a{08..11}`` as a08, a09, a10, a11; ``{x,y}`` as x and y."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        yield pattern
        return
    span = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    words: Iterable[str] = match[1].split(",")
    if span:
        words = (str(n).zfill(len(span[1])) for n in range(int(span[1]), int(span[2]) + 1))
    for word in words:
        yield from _braces(pattern[: match.start()] + word + pattern[match.end() :])


def _pattern(text: str) -> Callable[[str], bool]:
    """Whether a name below the root fits a pattern: ``**/`` is any folders, ``*`` stays within one."""
    translated = "".join(
        {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(piece)
        or (piece.replace("[!", "[^") if piece.startswith("[") else re.escape(piece))
        for piece in re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|.", text, re.DOTALL)
    )
    compiled = re.compile(translated, re.DOTALL)
    return lambda name: compiled.fullmatch(name) is not None


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 - names, not paths


def _known(seen: set[bytes], text: str) -> bool:
    """Whether a text was there before; 12 bytes of its hash are remembered."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=12).digest()
    if digest in seen:
        return True
    seen.add(digest)
    return False
