"""Parquet tables as sources."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from itaclip.apps.collection.folder_source import FolderSource
from itaclip.apps.collection.locations import Location, redacted
from itaclip.apps.collection.units import FETCHES, Entry, Unit, already_seen, fetched
from itaclip.errors import ItaclipError, did_you_mean


class Tables(FolderSource):
    """Parquet tables with a column of bytes, of structs with bytes (as in Hugging Face data sets), or of addresses.

    The key is the value of the key column, or ``FILE/ROW`` with the row number.
    """

    def __init__(self, root: Location, pattern: str, column: str | None, key: str | None) -> None:
        super().__init__(root, pattern)
        self._column, self._key = column, key

    def units(self, size: int) -> Iterator[Unit]:
        """See `Source`."""
        seen: set[bytes] = set()
        for path in self._some_matching():
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
            for batch in table.iter_batches(FETCHES, row_groups=[unit.group], columns=wanted):
                values = batch.column(column).to_pylist()
                keys = batch.column(self._key).to_pylist() if self._key else [None] * len(values)
                found: list[tuple[str, bytes | Location | str]] = []
                for value, given in zip(values, keys, strict=True):
                    key = f"{unit.path}/{row}" if given is None else redacted(str(given))
                    found.append((key, self._content(key, value)))
                    row += 1
                yield from fetched(found)

    def _content(self, key: str, value: Any) -> bytes | Location | str:
        """Return the bytes, their location, or the reason why there are none."""
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
        """Choose the column with the images.

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
                if value is None or already_seen(seen, redacted(str(value))):
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
