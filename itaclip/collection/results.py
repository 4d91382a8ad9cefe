"""Read the labels of a collection from Parquet into arrays."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pycocotools import mask as rle

from itaclip.collection.locations import Location, Storage, checked_address
from itaclip.collection.store import METADATA, Store, run_digest
from itaclip.errors import ItaclipError


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
        with location.opened() as file:
            table = pq.ParquetFile(file).read()
        provenance = json.loads(table.schema.metadata[METADATA])
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
