"""What reading workers do: the source listed, and its units read in parts; they need no torch.

A part travels as an Arrow table of one row, so that it stays whole: what is lost with a
process or a machine is a part, and Ray makes it again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import ray

from itaclip.collection.places import Place, Storage, scrubbed
from itaclip.collection.sources import Entry, Source, Unit, in_parts, open_source
from itaclip.collection.store import Plan, Store
from itaclip.errors import ItaclipError

_READ = pa.schema(
    [
        ("unit", pa.int64()), ("part", pa.int64()), ("end", pa.bool_()), ("keys", pa.list_(pa.string())),
        ("contents", pa.large_list(pa.large_binary())), ("errors", pa.list_(pa.string())),
    ]
)  # fmt: skip

WRITTEN = pa.schema(
    [
        ("unit", pa.int64()), ("part", pa.int64()), ("end", pa.bool_()), ("images", pa.int64()),
        ("failed", pa.int64()), ("seconds", pa.float64()), ("reasons", pa.list_(pa.string())),
        ("fatal", pa.string()),
    ]
)  # fmt: skip
"""What is told of a part that was written, or in `fatal` why it was not: Ray would bury the words of an exception."""


@dataclass(frozen=True)
class Job:
    """Where parts come from and go to; can be sent to workers.

    Attributes:
        source: address of the collection.
        dest: address of the results.
        column: see `open_source`.
        key: see `open_source`.
        size: images per part.
        digest: of the run; empty before it is known.
        begun: finished parts of units that are not finished.
        pace: an actor that says how long to wait; None for no limit.
        storage: options of fsspec; may hold secrets, so it is never shown.
    """

    source: str
    dest: str
    column: str | None
    key: str | None
    size: int
    storage: Storage = field(repr=False)
    digest: str = ""
    begun: Mapping[int, frozenset[int]] = field(default_factory=dict, repr=False)
    pace: Any = field(default=None, repr=False)

    def open(self) -> Source:
        """The source."""
        return open_source(self.source, self.storage, self.column, self.key)

    def store(self) -> Store:
        """The destination."""
        return Store(Place(self.dest, self.storage))


def _entries(source: Source, unit: Unit) -> Iterator[Entry]:
    """Entries of a unit; a file that cannot be read costs its unit a row that says so, not the run."""
    try:
        yield from source.entries(unit)
    except (ItaclipError, OSError, pa.ArrowException) as error:
        key = f"{unit.path} (row group {unit.group})"
        yield Entry(key, None, f"{key}: cannot be read ({scrubbed(str(error))}).")


def make_plan(job: Job, overwrite: bool) -> Plan:
    """List the source into the destination, after a former run's results were removed if `overwrite` says so.

    Raises:
        ItaclipError: the source cannot be listed, or the destination not written.
    """
    store = job.store()
    if overwrite:
        store.clear()
    return store.write_plan(job.open().units(job.size))


class Pace:
    """Says how long to wait so that all workers together keep to a rate."""

    def __init__(self, rate: float) -> None:
        self._rate, self._free = rate, time.monotonic()

    def turn(self, count: int) -> float:
        """Seconds to wait before so many images are passed on."""
        begin = max(self._free, time.monotonic())
        self._free = begin + count / self._rate
        return begin - time.monotonic()


def read_units(units: pa.Table, job: Job) -> Iterator[pa.Table]:
    """Parts of units, with the bytes of their images; those that are finished are left out."""
    source, store = job.open(), job.store()
    for number in units.column("unit").to_pylist():
        done = job.begun.get(number, frozenset())
        for part, (entries, end) in enumerate(in_parts(_entries(source, store.unit(number)), job.size)):
            if part in done:
                continue
            if job.pace is not None:
                time.sleep(max(0.0, ray.get(job.pace.turn.remote(len(entries)))))
            row = {
                "unit": number, "part": part, "end": end, "keys": [entry.key for entry in entries],
                "contents": [entry.content for entry in entries], "errors": [entry.error for entry in entries],
            }  # fmt: skip
            yield pa.Table.from_pylist([row], _READ)
