"""The reading workers: they list the source and read its units in parts, without torch.

A part travels as an Arrow table with a single row, so Ray never splits it. If a process or
machine dies, Ray recomputes the parts that it held.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import ray

from itaclip.apps.collection.locations import Location, Storage, redacted
from itaclip.apps.collection.sources import open_source
from itaclip.apps.collection.store import Plan, Store
from itaclip.apps.collection.units import Entry, Source, Unit, split_into_parts
from itaclip.errors import ItaclipError

_READ = pa.schema(
    [
        ("unit", pa.int64()), ("part", pa.int64()), ("end", pa.bool_()), ("keys", pa.list_(pa.string())),
        ("contents", pa.large_list(pa.large_binary())), ("errors", pa.list_(pa.string())),
    ]
)  # fmt: skip

REPORT = pa.schema(
    [
        ("unit", pa.int64()), ("part", pa.int64()), ("end", pa.bool_()), ("images", pa.int64()),
        ("failed", pa.int64()), ("seconds", pa.float64()), ("reasons", pa.list_(pa.string())),
        ("fatal", pa.string()),
    ]
)  # fmt: skip
"""Report on a written part, or in `fatal` why it was not written; Ray would hide the message of an exception."""


@dataclass(frozen=True)
class Job:
    """Where parts come from and go to; can be pickled for the workers.

    Attributes:
        source: address of the collection.
        dest: address of the results.
        column: see `open_source`.
        key: see `open_source`.
        size: images per part.
        digest: digest of the run; empty until known.
        started: finished parts of partly finished units.
        limiter: Ray actor of a `RateLimiter`; None for no limit.
        storage: fsspec options by protocol; may contain secrets, so `repr` omits it.
    """

    source: str
    dest: str
    column: str | None
    key: str | None
    size: int
    storage: Storage = field(repr=False)
    digest: str = ""
    started: Mapping[int, frozenset[int]] = field(default_factory=dict, repr=False)
    limiter: Any = field(default=None, repr=False)

    def open(self) -> Source:
        """Open the source."""
        return open_source(self.source, self.storage, self.column, self.key)

    def store(self) -> Store:
        """Open the destination."""
        return Store(Location(self.dest, self.storage))


def _entries(source: Source, unit: Unit) -> Iterator[Entry]:
    """Yield entries of a unit; an unreadable file becomes an entry with the error and does not stop the run."""
    try:
        yield from source.entries(unit)
    except (ItaclipError, OSError, pa.ArrowException) as error:
        key = f"{unit.path} (row group {unit.group})"
        yield Entry(key, None, f"{key}: cannot be read ({redacted(str(error))}).")


def make_plan(job: Job, overwrite: bool) -> Plan:
    """List the source and write the plan to the destination; with `overwrite`, first remove an earlier run's results.

    Raises:
        ItaclipError: the source cannot be listed, or the destination cannot be written.
    """
    store = job.store()
    if overwrite:
        store.clear()
    source = job.open()
    plan = store.write_plan(source.units(job.size))
    return replace(plan, skipped=source.skipped)


class RateLimiter:
    """Computes waiting times so that all workers together stay below a rate.

    Args:
        rate: images per second.
    """

    def __init__(self, rate: float) -> None:
        self._rate, self._free = rate, time.monotonic()

    def reserve(self, count: int) -> float:
        """Reserve a slot for `count` images; returns the seconds to wait before passing them on."""
        begin = max(self._free, time.monotonic())
        self._free = begin + count / self._rate
        return begin - time.monotonic()


def read_units(units: pa.Table, job: Job) -> Iterator[pa.Table]:
    """Yield the unfinished parts of units, with the bytes of their images."""
    source, store = job.open(), job.store()
    for number in units.column("unit").to_pylist():
        done = job.started.get(number, frozenset())
        for part, (entries, end) in enumerate(split_into_parts(_entries(source, store.unit(number)), job.size)):
            if part in done:
                continue
            if job.limiter is not None:
                time.sleep(max(0.0, ray.get(job.limiter.reserve.remote(len(entries)))))
            row = {
                "unit": number, "part": part, "end": end, "keys": [entry.key for entry in entries],
                "contents": [entry.content for entry in entries], "errors": [entry.error for entry in entries],
            }  # fmt: skip
            yield pa.Table.from_pylist([row], _READ)
