"""Sources of a collection: images, lists, tables and archives, divided into units that are read independently.

A unit never changes between readings: a fixed number of images of a listing, a row group of a
table, or a tar archive. It is read in parts of a fixed number of images; each part becomes one
result file.
"""

from __future__ import annotations

import codecs
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

from itaclip.apps.collection.locations import Location, MissingError, Storage, redacted
from itaclip.errors import ItaclipError, did_you_mean
from itaclip.files import IMAGE_SUFFIXES, RESULT_FOLDERS, is_hidden, result_folders

LIST_SUFFIXES = (".txt", ".lst")
TABLE_SUFFIXES = (".parquet", ".pq")
ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz")

_MAGIC = re.compile(r"[*?\[{]")
_FETCHES = 16  # concurrent reads of separate images, to overlap network latencies


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


def open_source(
    address: str, storage: Storage | None = None, column: str | None = None, key: str | None = None
) -> Source:
    """Open the source at an address; its extension selects list, tables, archives, or (otherwise) image files.

    Args:
        address: a path or address; ``*``, ``?``, ``[abc]``, ``**`` and ``{000..123}`` make it a pattern.
        storage: fsspec options by protocol.
        column: for tables, the column with the images' bytes or addresses; for archives, the extension of images.
        key: for tables, the column whose values name the images.

    Raises:
        ItaclipError: `column` or `key` for a source that does not support it.
    """
    lowered = address.lower()
    root, pattern = _split(address)
    location = Location(root, storage)
    table, archive = lowered.endswith(TABLE_SUFFIXES), lowered.endswith(ARCHIVE_SUFFIXES)
    if key is not None and not table:
        raise ItaclipError(f"key = {key!r}: only tables (.parquet) have keys; {redacted(address)} is not a table.")
    if column is not None and not table and not archive:
        raise ItaclipError(
            f"column = {column!r}: only for tables (.parquet) and archives (.tar); {redacted(address)} is neither."
        )
    if table:
        return Tables(location, pattern, column, key)
    if archive:
        return Archives(location, pattern, column)
    if lowered.endswith(LIST_SUFFIXES):
        return ImageList(Location(address, storage))
    return ImageFiles(location, pattern)


# --- separate image files ----------------------------------------------------


class ImageFiles:
    """Images in a folder, searched recursively, or those that match a pattern; the key is the relative path.

    The search takes no hidden files (`itaclip.files.is_hidden`) and no results of earlier runs.
    """

    def __init__(self, root: Location, pattern: str) -> None:
        self._root, self._pattern, self._results = root, pattern, _Results(root)

    @property
    def skipped(self) -> list[str]:
        """See `Source`."""
        return list(self._results.skipped)

    def units(self, size: int) -> Iterator[Unit]:
        """See `Source`."""
        if not self._pattern and self._root.kind() is None:
            raise MissingError(f"{self._root}: no such file or folder.")
        found = False
        for chunk in _chunks(self._names(), size):
            found = True
            yield Unit("", names=tuple(os.fsencode(name) for name in chunk), count=len(chunk))
        if not found:
            self._results.check_others()
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
        return _fetched(wanted)

    def _names(self) -> Iterator[str]:
        if not self._pattern or "**" in self._pattern:  # recursive: one folder at a time
            matches = _matcher(self._pattern) if self._pattern else _is_image
            spelled = is_hidden(self._pattern)
            if self._results.hold_root():
                return
            for below, files in self._root.walk(self._enters):
                names = (f"{below}/{file}" if below else file for file in files if _is_image(file))
                yield from (name for name in names if matches(name) and (spelled or not is_hidden(name)))
        else:
            yield from filter(_is_image, _files(self._root, self._pattern, self._results))

    def _enters(self, folder: str) -> bool:
        hidden = is_hidden(folder) and not is_hidden(self._pattern)
        return not hidden and not self._results.is_result(folder)


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
        for chunk in _chunks(self._lines(seen), size):
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
        return _fetched(wanted)

    def _resolved(self, line: str) -> Location:
        if "://" in line or line.startswith("/"):
            return Location(line.removeprefix("file://"), self._location.storage)
        return Location(f"{self._location.address.rpartition('/')[0]}/{line}", self._location.storage)

    def _lines(self, seen: set[bytes]) -> Iterator[tuple[str, int, int]]:
        """Key, start and end offset of every distinct line."""
        position = 0
        with self._location.opened() as file:
            for raw in file:
                if not position and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                    raise ItaclipError(f"{self._location}: the list is UTF-16 text; save it as UTF-8.")
                begin, position = position, position + len(raw)
                line = _line(raw)
                if not line or _already_seen(seen, "line " + line):
                    continue
                key = stem = _listed_key(line)
                for number in itertools.count(2):
                    if not _already_seen(seen, "key " + key):
                        break
                    key = f"{stem}#{number}"
                yield key, begin, position


def _line(raw: bytes) -> str:
    return raw.decode("utf-8", "replace").removeprefix("\ufeff").strip()


def _listed_key(line: str) -> str:
    return redacted(line) if "://" in line else line


# --- tables ------------------------------------------------------------------


class Tables:
    """Parquet tables with a column of bytes, of structs with bytes (as in Hugging Face data sets), or of addresses.

    The key is the value of the key column, or ``FILE/ROW`` with the row number.
    """

    def __init__(self, root: Location, pattern: str, column: str | None, key: str | None) -> None:
        self._root, self._pattern, self._column, self._key = root, pattern, column, key
        self._results = _Results(root)

    @property
    def skipped(self) -> list[str]:
        """See `Source`."""
        return list(self._results.skipped)

    def units(self, size: int) -> Iterator[Unit]:
        """See `Source`."""
        seen: set[bytes] = set()
        for path in _some(_files(self._root, self._pattern, self._results), self._results):
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
                found: list[tuple[str, bytes | Location | str]] = []
                for value, given in zip(values, keys, strict=True):
                    key = f"{unit.path}/{row}" if given is None else redacted(str(given))
                    found.append((key, self._content(key, value)))
                    row += 1
                yield from _fetched(found)

    def _content(self, key: str, value: Any) -> bytes | Location | str:
        """The bytes, their location, or the reason why there are none."""
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if not value:
            return f"{key}: the table has no image in this row."
        if isinstance(value, bytes):
            return value
        address = str(value)
        if "://" not in address and not address.startswith("/"):
            address = f"{self._root.address}/{address}"
        return Location(address.removeprefix("file://"), self._root.storage)

    def _columns(self, path: str, schema: pa.Schema) -> str:
        """The column with the images.

        Raises:
            ItaclipError: the named column is missing or unsuitable, or none is named and the choice is ambiguous.
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
                f"{path}: name the column with the images' bytes or addresses in `column`; columns: "
                f"{', '.join(schema.names)}."
            )
        return found[0]

    def _check_keys(self, path: str, table: pq.ParquetFile, group: int, seen: set[bytes]) -> None:
        for batch in table.iter_batches(row_groups=[group], columns=[self._key]):
            for value in batch.column(0).to_pylist():
                if value is None or _already_seen(seen, redacted(str(value))):
                    found = "has a row without a value" if value is None else f"holds {redacted(str(value))!r} twice"
                    raise ItaclipError(
                        f"{path}: column {self._key!r} {found}; every image needs its own key. Without `key`, images "
                        "are named by file and row."
                    )


@contextmanager
def _opened_table(location: Location) -> Iterator[pq.ParquetFile]:
    with location.opened() as file:
        try:
            table = pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise ItaclipError(f"{location}: not a Parquet table ({redacted(str(error))}).") from None
        yield table


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


# --- archives ----------------------------------------------------------------


class Archives:
    """WebDataset shards: tar archives with images among other files; the key is ``TAR/MEMBER``.

    If several members share a name, the first one counts. Hidden members do not count, such as those
    that macOS adds.
    """

    def __init__(self, root: Location, pattern: str, ending: str | None) -> None:
        self._root, self._pattern = root, pattern
        self._endings = ("." + ending.lower().lstrip("."),) if ending else tuple(IMAGE_SUFFIXES)
        self._results = _Results(root)

    @property
    def skipped(self) -> list[str]:
        """See `Source`."""
        return list(self._results.skipped)

    def units(self, size: int) -> Iterator[Unit]:
        """See `Source`."""
        for path in _some(_files(self._root, self._pattern, self._results), self._results):
            yield Unit(path)

    def entries(self, unit: Unit) -> Iterator[Entry]:
        """See `Source`."""
        seen: set[bytes] = set()
        count = 0
        try:
            with (self._root / unit.path).opened() as file, tarfile.open(fileobj=file, mode="r|*") as archive:
                for member in archive:
                    name = member.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                    wanted = member.isfile() and name.lower().endswith(self._endings) and not is_hidden(name)
                    if not wanted or _already_seen(seen, name):
                        continue
                    opened = archive.extractfile(member)
                    assert opened is not None  # a file
                    content = opened.read()
                    count += 1
                    yield Entry(f"{unit.path}/{name}", content)
        except (ItaclipError, tarfile.TarError, EOFError, zlib.error, OSError) as error:
            reason = redacted(str(error) or type(error).__name__)
            yield Entry(unit.path, None, f"{unit.path}: cannot be read beyond {count} images ({reason}).")


# --- shared ------------------------------------------------------------------


def split_into_parts(entries: Iterable[Entry], size: int) -> Iterator[tuple[list[Entry], bool]]:
    """Divide entries into parts of `size`; flag the last. There is at least one part, which may be empty."""
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


def _fetched(wanted: Sequence[tuple[str, bytes | Location | str]]) -> Iterator[Entry]:
    """Entries from bytes, locations (read concurrently) and failure reasons."""

    def fetch(item: tuple[str, bytes | Location | str]) -> Entry:
        key, source = item
        if isinstance(source, Location):
            try:
                return Entry(key, source.read())
            except ItaclipError as error:
                return Entry(key, None, str(error))
        return Entry(key, None, source) if isinstance(source, str) else Entry(key, source)

    with ThreadPoolExecutor(_FETCHES) as pool:
        yield from pool.map(fetch, wanted)


class _Results:
    """Recognises the folders below a source that earlier runs of `segment` or `label` filled.

    Attributes:
        skipped: those found so far.
    """

    def __init__(self, root: Location) -> None:
        self._root = root
        self._known: dict[str, frozenset[str]] = {}
        self.skipped: dict[str, None] = {}

    def is_result(self, folder: str) -> bool:
        """Whether an earlier run filled a folder, given relative to the root."""
        return self._filled(f"{self._root.address.rstrip('/')}/{folder}")

    def hold(self, name: str) -> bool:
        """Whether a file, given relative to the root, lies in such a folder."""
        return any(self.is_result(name[: match.start()]) for match in re.finditer("/", name)) or self.hold_root()

    def hold_root(self) -> bool:
        """Whether the root is such a folder, or lies in one."""
        addresses = [self._root.address]
        if self._root.local:
            addresses.append(os.path.realpath(self._root.address))
        parts = [(address, match.start()) for address in addresses for match in re.finditer("(?<=[^:/])(/|$)", address)]
        return any(self._filled(address[:end]) for address, end in parts)

    def check_others(self) -> None:
        """Refuse a source that holds nothing but results.

        Raises:
            ItaclipError: something was skipped.
        """
        if self.skipped:
            names = ", ".join(self.skipped)
            raise ItaclipError(f"{self._root}: holds nothing but results of an earlier run ({names}).")

    def _filled(self, address: str) -> bool:
        parent, _, name = address.rpartition("/")
        if name not in RESULT_FOLDERS:
            return False
        if parent not in self._known:
            try:
                self._known[parent] = result_folders((Location(parent, self._root.storage) / "run.json").read())
            except ItaclipError:
                self._known[parent] = frozenset()
        found = name in self._known[parent]
        if found:
            self.skipped[redacted(address)] = None
        return found


def _files(root: Location, pattern: str, results: _Results) -> Iterator[str]:
    """Names below the root that a pattern matches, after expanding ``{000..123}``; a literal file name comes first.

    Hidden files match only where the pattern spells them, results of earlier runs never.
    """
    for plain in _braces(pattern):
        if (root / plain).kind() == "file":
            found = [plain]
        elif not (found := root.matches(plain) if _MAGIC.search(plain) else []):
            raise MissingError(f"{root / plain}: no such file, and no file matches.")
        elif not is_hidden(plain):
            found = [name for name in found if not is_hidden(name)]
        yield from (name for name in found if not results.hold(name))


def _some(names: Iterator[str], results: _Results) -> Iterator[str]:
    """The names; raises an error if results of earlier runs are all there is."""
    first = next(names, None)
    if first is None:
        results.check_others()
        return
    yield first
    yield from names


def _split(address: str) -> tuple[str, str]:
    """Split an address into its fixed folder and the rest: a pattern, or the name of a table, archive or image."""
    head, separator, tail = address.rpartition("/")
    magic = _MAGIC.search(address)
    if Location(address).local and os.path.lexists(address):  # an existing file wins over a pattern
        return (address, "") if os.path.isdir(address) else (head or separator, tail)  # noqa: PTH112
    if magic is not None:
        cut = address.rfind("/", 0, magic.start())
        return address[:cut] or "/", address[cut + 1 :]
    if tail.lower().endswith((*TABLE_SUFFIXES, *ARCHIVE_SUFFIXES, *IMAGE_SUFFIXES)):
        return (head or separator), tail
    return address, ""


def _braces(pattern: str) -> Iterator[str]:
    """Expand braces: ``a{08..11}`` to a08, a09, a10, a11; ``{x,y}`` to x and y."""
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


def _matcher(text: str) -> Callable[[str], bool]:
    """A predicate for names that match a pattern: ``**/`` matches any folders, ``*`` stays within one."""
    translated = "".join(
        {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(piece)
        or (piece.replace("[!", "[^") if piece.startswith("[") else re.escape(piece))
        for piece in re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|.", text, re.DOTALL)
    )
    compiled = re.compile(translated, re.DOTALL)
    return lambda name: compiled.fullmatch(name) is not None


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 - names, not paths


def _already_seen(seen: set[bytes], text: str) -> bool:
    """Whether a text is already in `seen`, which stores 12-byte hashes; adds it if not."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=12).digest()
    if digest in seen:
        return True
    seen.add(digest)
    return False
