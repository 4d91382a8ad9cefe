"""The layout of a collection's results, which parts are finished, and the schema of a part.

DEST/run.json                                  everything the results depend on, and a summary of the plan
DEST/plan/000000.parquet                       the units, in order
DEST/labels/range=000012/UNIT-PART-KEY.parquet results; the last part of a unit is UNIT-PART-end-KEY
DEST/masks/range=000012/UNIT-PART-KEY.tar      with `masks`: class ids as PNG

The name of a part gives its position in the plan and a hash of everything it depends on. Parts
are written atomically, so every part found is complete, and writing it again gives the same content.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from itaclip.apps.collection.locations import Location
from itaclip.apps.collection.units import Unit
from itaclip.apps.result_folders import LABEL_FOLDERS, filled_by
from itaclip.errors import ItaclipError

UNITS_PER_FILE = 1024
"""Units per file of the plan; each such range of units has its own result folder."""

_UNITS_PER_GROUP = 16  # per row group of the plan, which is read as a whole

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
"""One row per image. `segments` lists the classes that occur: id, name, area in pixels, share of the
image, mean score, and the mask as a COCO compressed RLE of size (height, width)."""

METADATA = b"itaclip"
"""Key of the provenance (JSON) in the metadata of a part's schema."""

_UNIT = pa.schema(
    [
        ("path", pa.string()), ("group", pa.int32()), ("names", pa.list_(pa.binary())),
        ("offsets", pa.list_(pa.int64())), ("count", pa.int64()),
    ]
)  # fmt: skip

_NAME = re.compile(r"(\d{8})-(\d{6})(-end)?-([0-9a-f]{16})\.parquet")


@dataclass(frozen=True)
class Plan:
    """Summary of the units to label.

    Attributes:
        units: number of units.
        images: number of images; None for archives, which are not counted in advance.
        digest: hash of the units.
        skipped: folders of the source that were left out, because an earlier run filled them.
    """

    units: int
    images: int | None
    digest: str
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """Position of a finished part: number of its unit, number within the unit, and whether it is the last."""

    unit: int
    number: int
    end: bool


class Store:
    """The results in a destination folder.

    Args:
        location: the folder.
    """

    def __init__(self, location: Location) -> None:
        self.location = location

    # --- the plan --------------------------------------------------------------

    def write_plan(self, units: Iterable[Unit]) -> Plan:
        """Write the units as they are listed, overwriting what an interrupted listing left.

        Raises:
            ItaclipError: the source cannot be listed, or the plan cannot be written.
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
            (self.location / name).write(buffer.getvalue(), self.location)
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
        """Read a unit of the plan.

        Raises:
            ItaclipError: the plan cannot be read.
        """
        location = self.location / f"plan/{number // UNITS_PER_FILE:06d}.parquet"
        within = number % UNITS_PER_FILE
        with location.opened() as file:
            group = pq.ParquetFile(file).read_row_group(within // _UNITS_PER_GROUP)
        row = group.slice(within % _UNITS_PER_GROUP, 1).to_pylist()[0]
        return Unit(row["path"], row["group"], tuple(row["names"]), tuple(row["offsets"]), row["count"])

    def read_run(self) -> tuple[dict[str, Any], Plan] | None:
        """Read everything the results depend on and the plan; None if no run was started here.

        Raises:
            ItaclipError: run.json cannot be read.
        """
        location = self.location / "run.json"
        if location.kind() is None:
            return None
        try:
            found = json.loads(location.read())
            return found["key"], Plan(**found["plan"])
        except (ValueError, KeyError, TypeError):
            other = "`itaclip segment`" if filled_by(location.read()) else "another program"
            raise ItaclipError(
                f"{location}: written by {other}, not by `itaclip label`; choose another destination."
            ) from None

    def write_run(self, key: Mapping[str, Any], plan: Plan) -> None:
        """Record everything the results depend on, which also marks the plan as complete.

        Raises:
            ItaclipError: run.json cannot be written.
        """
        content = json.dumps({"key": key, "plan": asdict(plan)}, indent=2, ensure_ascii=False) + "\n"
        (self.location / "run.json").write(content.encode(), self.location)

    def clear(self) -> None:
        """Remove the results and the plan of a run, and run.json last.

        Raises:
            ItaclipError: they cannot be removed.
        """
        for name in (*sorted(LABEL_FOLDERS), "run.json"):
            self.location.clear(name)

    def check_free(self) -> None:
        """Check that the result folders do not exist yet, so that results never mix with other files.

        Raises:
            ItaclipError: a folder with one of their names exists.
        """
        for name in ("labels", "masks"):
            if (self.location / name).kind() is not None:
                raise ItaclipError(
                    f"{self.location / name}: exists, but not from `itaclip label`; choose another destination."
                )

    # --- parts -------------------------------------------------------------------

    def name_of(self, part: Part, digest: str) -> str:
        """Return the path of a part below the folder of its kind, without extension: ``range=000012/...``."""
        end = "-end" if part.end else ""
        return f"range={part.unit // UNITS_PER_FILE:06d}/{part.unit:08d}-{part.number:06d}{end}-{digest}"

    def parts(self, units: int, digest: str) -> Iterator[tuple[Part, Location]]:
        """Yield the finished parts of a run in order, listing one range of units at a time.

        Raises:
            ItaclipError: the destination cannot be listed.
        """
        for number in range(-(-units // UNITS_PER_FILE)):
            folder = self.location / f"labels/range={number:06d}"
            for name in folder.names():
                match = _NAME.fullmatch(name)
                if match and match[4] == digest:
                    yield Part(int(match[1]), int(match[2]), match[3] is not None), folder / name

    def finished(self, units: int, digest: str) -> tuple[NDArray[np.bool_], dict[int, frozenset[int]]]:
        """Return which units are finished, and for each partly finished unit the numbers of its finished parts.

        Raises:
            ItaclipError: the destination cannot be listed.
        """
        done = np.zeros(units, np.bool_)
        started: dict[int, set[int]] = {}
        ends: dict[int, int] = {}
        for part, _ in self.parts(units, digest):
            started.setdefault(part.unit, set()).add(part.number)
            if part.end:
                ends[part.unit] = part.number
            if len(started[part.unit]) == ends.get(part.unit, -1) + 1:
                done[part.unit] = True
                del started[part.unit], ends[part.unit]
        return done, {unit: frozenset(numbers) for unit, numbers in started.items()}

    def remove_failed(self, units: int, digest: str) -> list[int]:
        """Remove the parts of units with a failed image; returns the units.

        A repaired archive may have more parts, with other names.

        Raises:
            ItaclipError: the destination cannot be read, or they cannot be removed.
        """
        found: dict[int, None] = {}
        for part, location in self.parts(units, digest):
            with location.opened() as file:
                errors = pq.read_table(file, columns=["error"]).column(0)
            if errors.null_count < len(errors):
                found[part.unit] = None
        for unit in found:
            self._remove(unit, digest)
        return list(found)

    def _remove(self, unit: int, digest: str) -> None:
        for kind in ("labels", "masks"):
            folder = self.location / f"{kind}/range={unit // UNITS_PER_FILE:06d}"
            for name in folder.names():
                if name.startswith(f"{unit:08d}-") and digest in name:
                    folder.clear(name)

    def write_part(self, name: str, labels: bytes, masks: bytes | None) -> None:
        """Write a part, masks first.

        Raises:
            ItaclipError: it cannot be written.
        """
        if masks is not None:
            (self.location / f"masks/{name}.tar").write(masks, self.location)
        (self.location / f"labels/{name}.parquet").write(labels, self.location)


def run_digest(key: Mapping[str, Any], plan: Plan) -> str:
    """Return a short hash of everything a part depends on besides its position in the plan."""
    return hashlib.sha256(json.dumps([key, plan.digest], sort_keys=True).encode()).hexdigest()[:16]


def part_bytes(rows: Sequence[Mapping[str, Any]], provenance: str) -> bytes:
    """Encode a part as a Parquet file, with its provenance in the metadata."""
    table = pa.Table.from_pylist(list(rows), SCHEMA).replace_schema_metadata({METADATA: provenance.encode()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
