"""Read the labels of a collection from Parquet into arrays."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pycocotools import mask as rle

from itaclip.apps.collection.locations import Location, Storage, checked_address
from itaclip.apps.collection.store import METADATA, Store, run_digest
from itaclip.errors import ItaclipError
from itaclip.formats.coco import CocoFile, CocoMask, check_begin, check_target


@dataclass(frozen=True, eq=False)
class Labels:
    """One image of a labelled collection.

    Attributes:
        key: name of the image in the source.
        labels: H x W int32 class ids, indices into `names`; None if the image could not be labelled.
        names: K class names.
        areas: share of the image, in (0, 1], of every class that occurs, largest first.
        scores: mean score over the mask, in [0, 1], of every class that occurs.
        error: why there are no labels; None if there are.
        provenance: settings, fingerprint of the weights, versions.
    """

    key: str
    labels: NDArray[np.int32] | None
    names: tuple[str, ...]
    areas: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)


def read_labels(
    dest: str | os.PathLike[str], keys: Collection[str] | None = None, storage: Storage | None = None
) -> Iterator[Labels]:
    """Yield the images of a labelled collection in source order, reading one result file at a time.

    Args:
        dest: destination of `itaclip label`.
        keys: only these images; None for all.
        storage: fsspec options by protocol.

    Raises:
        ItaclipError: the destination holds no labelled collection, or cannot be read.
    """
    store = Store(Location(checked_address(dest, "DEST"), storage))
    found = store.read_run()
    if found is None:
        raise ItaclipError(
            f"{store.location}: no labelled collection (no run.json); pass the --out of `itaclip label`."
        )
    key, plan = found
    wanted = None if keys is None else set(keys)
    return _labels(store, plan.units, run_digest(key, plan), wanted)


def _labels(store: Store, units: int, digest: str, wanted: set[str] | None) -> Iterator[Labels]:
    for _, location in store.parts(units, digest):
        table, provenance = _read(location)
        if wanted is not None:
            mask = [key in wanted for key in table.column("key").to_pylist()]
            table = table.filter(mask)
        for row in table.to_pylist():
            yield _decoded(row, provenance)


def _decoded(row: Mapping[str, Any], provenance: Mapping[str, Any]) -> Labels:
    names = tuple(provenance["names"])
    if row["error"] is not None:
        return Labels(row["key"], None, names, error=row["error"], provenance=provenance)
    size = [row["height"], row["width"]]
    labels = np.zeros(size, np.int32)
    for segment in row["segments"]:
        labels[rle.decode({"size": size, "counts": segment["rle"].encode()}).astype(bool)] = segment["id"]
    return Labels(
        row["key"], labels, names, {s["name"]: s["share"] for s in row["segments"]},
        {s["name"]: s["score"] for s in row["segments"]}, provenance=provenance,
    )  # fmt: skip


# --- one COCO file -------------------------------------------------------------


def write_coco(store: Store, units: int, digest: str, target: Location, skip: Sequence[str] = ()) -> None:
    """Write the masks of a labelled collection into one COCO file, in source order and constant memory.

    Images that could not be labelled are left out; ``file_name`` is the key.

    Args:
        store: the results.
        units: number of units of the run.
        digest: digest of the run.
        target: the file; see `check_coco_target`.
        skip: names of classes to leave out.

    Raises:
        ItaclipError: the results cannot be read, the file cannot be written, or an unknown class in `skip`.
    """
    with TemporaryDirectory() as folder:
        path = Path(target.address) if target.local else Path(folder) / "coco.json"
        parts = (_read(location) for _, location in store.parts(units, digest))
        first = next(parts)  # every run has at least one
        with CocoFile(path, first[1]["names"], skip) as coco:
            for rows, _ in itertools.chain([first], parts):
                for row in rows.to_pylist():
                    if row["error"] is None:
                        coco.add(row["key"], (row["height"], row["width"]), map(_coco_mask, row["segments"]))
        if not target.local:
            target.upload(path)


def check_coco_target(target: Location) -> None:
    """Check that a COCO file may be written: it ends in ``.json``, and replaces only one from here.

    Raises:
        ItaclipError: it may not, or the storage does not respond.
    """
    if target.local:
        check_target(Path(target.address))
    elif not target.address.lower().endswith(".json"):
        raise ItaclipError(f"{target}: the COCO file must end in .json.")
    elif target.kind() is not None:
        check_begin(target.slice(0, 1000), str(target))


def _coco_mask(segment: Mapping[str, Any]) -> CocoMask:
    return CocoMask(segment["id"], segment["rle"], segment["area"], segment["score"])


def _read(location: Location) -> tuple[pa.Table, dict[str, Any]]:
    """Read the rows of a part, and its provenance."""
    with location.opened() as file:
        table = pq.ParquetFile(file).read()
    return table, json.loads(table.schema.metadata[METADATA])
