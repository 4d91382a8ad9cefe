"""Where a collection's results lie, which parts of it are there, and what is in a part.

DEST/run.json                                  what the results depend on, and what there is to label
DEST/plan/000000.parquet                       the units, in order
DEST/labels/range=000012/UNIT-PART-KEY.parquet results; the last part of a unit is UNIT-PART-end-KEY
DEST/masks/range=000012/UNIT-PART-KEY.tar      with `masks`: class ids as PNG

A part's name tells its place in the plan and, by a hash, all that it depends on. It appears
whole or not at all, so what is there is finished, and what is written again is the same.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from itaclip.collection.places import Place
from itaclip.collection.sources import Unit
from itaclip.errors import ItaclipError

UNITS_PER_FILE = 1024
"""Of the plan; a range of units has a folder of its own."""

_UNITS_PER_GROUP = 16  # read together

SEGMENT = pa.struct(
    [
        ("id", pa.int32()), ("name", pa.string()), ("area", pa.int64()), ("share", pa.float64()),
        ("score", pa.float32()), ("rle", pa.string()),
    ]
)  # fmt: skip

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("segments", pa.list_(SEGMENT)),
        ("error", pa.string()),
    ]
)
"""A row per image. `segments` has the classes that occur: label, name, pixels, share of the image, mean
score, and the mask as COCO's compressed run lengths of size (height, width)."""

METADATA = b"itaclip"
"""Key of the provenance, as JSON, in the metadata of a part's schema."""

_UNIT = pa.schema(
    [
        ("path", pa.string()), ("group", pa.int32()), ("names", pa.list_(pa.binary())),
        ("offsets", pa.list_(pa.int64())), ("count", pa.int64()),
    ]
)  # fmt: skip

_NAME = re.compile(r"(\d{8})-(\d{6})(-end)?-([0-9a-f]{16})\.parquet")


@dataclass(frozen=True)
class Plan:
    """What there is to label.

    Attributes:
        units: how many.
        images: how many; None while archives were not counted.
        digest: hash of the units.
    """

    units: int
    images: int | None
    digest: str


@dataclass(frozen=True)
class Part:
    """A finished part's place: number of its unit, its own within, and whether it is the unit's last."""

    unit: int
    number: int
    end: bool


class Store:
    """A destination.

    Args:
        place: its folder.
    """

    def __init__(self, place: Place) -> None:
        self.place = place

    # --- the plan --------------------------------------------------------------

    def write_plan(self, units: Iterable[Unit]) -> Plan:
        """Write the units as they are found; what a killed listing left is written over.

        Raises:
            ItaclipError: the source cannot be listed, or the plan not written.
        """
        digest = hashlib.sha256()
        count = images = 0
        counted = True
        waiting: list[dict[str, Any]] = []

        def write() -> None:
            buffer = io.BytesIO()
            table = pa.Table.from_pylist(waiting, _UNIT)
            pq.write_table(table, buffer, row_group_size=_UNITS_PER_GROUP, compression="zstd")
            name = f"plan/{(count - 1) // UNITS_PER_FILE:06d}.parquet"
            (self.place / name).write(buffer.getvalue(), self.place)
            waiting.clear()

        for unit in units:
            digest.update(repr(unit).encode("utf-8", "surrogateescape"))
            waiting.append(asdict(unit))
            count += 1
            images, counted = images + (unit.count or 0), counted and unit.count is not None
            if count % UNITS_PER_FILE == 0:
                write()
        if waiting:
            write()
        return Plan(count, images if counted else None, digest.hexdigest()[:16])

    def unit(self, number: int) -> Unit:
        """A unit of the plan.

        Raises:
            ItaclipError: the plan cannot be read.
        """
        place = self.place / f"plan/{number // UNITS_PER_FILE:06d}.parquet"
        within = number % UNITS_PER_FILE
        with place.opened() as file:
            group = pq.ParquetFile(file).read_row_group(within // _UNITS_PER_GROUP)
        row = group.slice(within % _UNITS_PER_GROUP, 1).to_pylist()[0]
        return Unit(row["path"], row["group"], tuple(row["names"]), tuple(row["offsets"]), row["count"])

    def read_run(self) -> tuple[dict[str, Any], Plan] | None:
        """What the results here depend on, and the plan; None where nothing was begun.

        Raises:
            ItaclipError: it cannot be read.
        """
        place = self.place / "run.json"
        if place.kind() is None:
            return None
        try:
            found = json.loads(place.read())
            return found["key"], Plan(**found["plan"])
        except (ValueError, KeyError, TypeError):
            raise ItaclipError(f"{place}: not written by `itaclip label`; take another destination.") from None

    def write_run(self, key: Mapping[str, Any], plan: Plan) -> None:
        """Say that the plan is whole, and what the results depend on.

        Raises:
            ItaclipError: it cannot be written.
        """
        content = json.dumps({"key": key, "plan": asdict(plan)}, indent=2, ensure_ascii=False) + "\n"
        (self.place / "run.json").write(content.encode(), self.place)

    def clear(self) -> None:
        """Remove a run's results and plan, and last what says that they are a run's.

        Raises:
            ItaclipError: they cannot be removed.
        """
        for name in ("labels", "masks", "plan", "run.json"):
            self.place.clear(name)

    def check_free(self) -> None:
        """Make sure that no run's results would lie among other files.

        Raises:
            ItaclipError: somebody else's folder has a name that is needed.
        """
        for name in ("labels", "masks"):
            if (self.place / name).kind() is not None:
                raise ItaclipError(
                    f"{self.place / name}: there already, and not written by `itaclip label`; take another destination."
                )

    # --- parts -------------------------------------------------------------------

    def name_of(self, part: Part, digest: str) -> str:
        """A part's path below the destination, without kind and ending: ``range=000012/...``."""
        end = "-end" if part.end else ""
        return f"range={part.unit // UNITS_PER_FILE:06d}/{part.unit:08d}-{part.number:06d}{end}-{digest}"

    def parts(self, units: int, digest: str) -> Iterator[tuple[Part, Place]]:
        """The finished parts of a run, a range of units at a time, in order.

        Raises:
            ItaclipError: the destination cannot be listed.
        """
        for number in range(-(-units // UNITS_PER_FILE)):
            folder = self.place / f"labels/range={number:06d}"
            for name in folder.names():
                match = _NAME.fullmatch(name)
                if match and match[4] == digest:
                    yield Part(int(match[1]), int(match[2]), match[3] is not None), folder / name

    def finished(self, units: int, digest: str) -> tuple[NDArray[np.bool_], dict[int, frozenset[int]]]:
        """Which units are finished, and of those that are begun the numbers of the parts that are there.

        Raises:
            ItaclipError: the destination cannot be listed.
        """
        done = np.zeros(units, np.bool_)
        begun: dict[int, set[int]] = {}
        ends: dict[int, int] = {}
        for part, _ in self.parts(units, digest):
            begun.setdefault(part.unit, set()).add(part.number)
            if part.end:
                ends[part.unit] = part.number
            if len(begun[part.unit]) == ends.get(part.unit, -1) + 1:
                done[part.unit] = True
                del begun[part.unit], ends[part.unit]
        return done, {unit: frozenset(numbers) for unit, numbers in begun.items()}

    def failed(self, units: int, digest: str) -> list[int]:
        """Units of which an image has failed.

        Raises:
            ItaclipError: the destination cannot be read.
        """
        found = []
        for part, place in self.parts(units, digest):
            with place.opened() as file:
                errors = pq.read_table(file, columns=["error"]).column(0)
            if errors.null_count < len(errors):
                found.append(part.unit)
        return list(dict.fromkeys(found))

    def remove(self, unit: int, digest: str) -> None:
        """Remove the parts of a unit: a mended archive may have more of them, with other names.

        Raises:
            ItaclipError: they cannot be removed.
        """
        for kind in ("labels", "masks"):
            folder = self.place / f"{kind}/range={unit // UNITS_PER_FILE:06d}"
            for name in folder.names():
                if name.startswith(f"{unit:08d}-") and digest in name:
                    folder.clear(name)

    def write_part(self, name: str, labels: bytes, masks: bytes | None) -> None:
        """Write a part, its masks first.

        Raises:
            ItaclipError: it cannot be written.
        """
        if masks is not None:
            (self.place / f"masks/{name}.tar").write(masks, self.place)
        (self.place / f"labels/{name}.parquet").write(labels, self.place)


def run_digest(key: Mapping[str, Any], plan: Plan) -> str:
    """A short name for all that a part depends on besides its place in the plan."""
    return hashlib.sha256(json.dumps([key, plan.digest], sort_keys=True).encode()).hexdigest()[:16]


def part_bytes(rows: Sequence[Mapping[str, Any]], provenance: str) -> bytes:
    """A part as a Parquet file, with its provenance in the metadata."""
    table = pa.Table.from_pylist(list(rows), SCHEMA).replace_schema_metadata({METADATA: provenance.encode()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
