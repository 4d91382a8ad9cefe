"""What segmenting workers do: parts with images' bytes in, files of results out."""

from __future__ import annotations

import io
import json
import tarfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray

from itaclip import figures
from itaclip.collection.places import scrubbed
from itaclip.collection.sources import Entry
from itaclip.collection.store import Part, part_bytes
from itaclip.collection.transfer import WRITTEN, Job
from itaclip.core.images import decode_image
from itaclip.errors import ItaclipError
from itaclip.labelling.batches import read_ahead, segment_batch
from itaclip.result import Result
from itaclip.segmenter import Segmenter
from itaclip.vocabulary import Vocabulary

_REASONS = 5  # of failures, told by a part to the display


@dataclass(frozen=True)
class Recipe:
    """How images are segmented; can be sent to workers.

    Attributes:
        load: makes the segmenter; takes `device`.
        device: "cpu" or "cuda".
        fingerprint: of the weights that must come out.
        vocabulary: the classes.
        provenance: JSON for the metadata of results.
        batch: images per step.
        threads: of a worker.
        masks: also make PNG masks.
    """

    load: Callable[..., Segmenter]
    device: str
    fingerprint: str
    vocabulary: Vocabulary
    provenance: str
    batch: int
    threads: int
    masks: bool


class SegmentParts:
    """Holds a segmenter; labels parts and writes their results.

    Two threads may call it: while one has the segmenter, the other decodes, packs and writes.
    What a worker holds is thus two parts, however slow the destination is.
    """

    def __init__(self, recipe: Recipe, job: Job) -> None:
        torch.set_num_threads(recipe.threads)
        self._recipe, self._store, self._digest = recipe, job.store(), job.digest
        self._turn = threading.Lock()
        self._fatal: str | None = None
        try:
            self._segmenter = recipe.load(device=recipe.device)
            if self._segmenter.fingerprint != recipe.fingerprint:
                raise ItaclipError("has other weights under this name; give all machines the same file.")
        except ItaclipError as error:
            self._fatal = f"{ray.util.get_node_ip_address()}: {error}"

    def __call__(self, parts: pa.Table) -> pa.Table:
        """Label and write parts; gives what is told of them."""
        told = []
        for part in parts.to_pylist():
            try:
                if self._fatal is not None:
                    raise ItaclipError(self._fatal)
                told.append(self._written(part))
            except ItaclipError as error:
                told.append({"unit": part["unit"], "part": part["part"], "fatal": str(error)})
        return pa.Table.from_pylist(told, WRITTEN)

    def _written(self, part: Mapping[str, Any]) -> dict[str, Any]:
        rows, masks, seconds = self._segmented(part)
        name = self._store.name_of(Part(part["unit"], part["part"], part["end"]), self._digest)
        self._store.write_part(name, part_bytes(rows, self._recipe.provenance), masks)
        reasons = [row["error"] for row in rows if row["error"] is not None]
        return {
            "unit": part["unit"], "part": part["part"], "end": part["end"], "images": len(rows),
            "failed": len(reasons), "reasons": reasons[:_REASONS], "seconds": seconds,
        }  # fmt: skip

    def _segmented(self, part: Mapping[str, Any]) -> tuple[list[dict[str, Any]], bytes | None, float]:
        """Rows of a part, its masks as a tar if they are wanted, and seconds that it had the segmenter."""
        recipe, rows, buffer, seconds = self._recipe, list[dict[str, Any]](), io.BytesIO(), 0.0
        entries = [Entry(*values) for values in zip(part["keys"], part["contents"], part["errors"], strict=True)]
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for batch, read in read_ahead(self._image, entries, recipe.batch, recipe.threads):
                with self._turn:
                    began = time.perf_counter()
                    found = segment_batch(self._segmenter, recipe.vocabulary, read)
                    seconds += time.perf_counter() - began
                for entry, result in zip(batch, found, strict=True):
                    rows.append(row_of(entry.key, result))
                    if recipe.masks and isinstance(result, Result):
                        _add_mask(tar, entry.key, result)
        return rows, buffer.getvalue() if recipe.masks else None, seconds

    def _image(self, entry: Entry) -> NDArray[np.uint8]:
        if entry.content is None:
            raise ItaclipError(entry.error or f"{entry.key}: holds no image.")
        return decode_image(entry.content, entry.key, self._segmenter.largest)


def describe(segmenter: Segmenter, vocabulary: Vocabulary, key: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    """A run's provenance as JSON: what results depend on, the classes and their colours, versions."""
    content = {"run": key, "names": vocabulary.names, "colors": vocabulary.colors, "versions": versions}
    return json.dumps(content | {"method": segmenter.settings.method}, ensure_ascii=False)


def row_of(key: str, result: Result | str) -> dict[str, Any]:
    """The row of an image, or of the reason why there is none; see `itaclip.collection.store.SCHEMA`."""
    if isinstance(result, str):
        return {"key": key, "error": scrubbed(result)}
    height, width = result.labels.shape
    segments = [
        {
            "id": found["category_id"], "name": result.names[found["category_id"]], "area": found["area"],
            "share": found["area"] / result.labels.size, "score": found["score"],
            "rle": found["segmentation"]["counts"],
        }
        for found in result.coco()["annotations"]
    ]  # fmt: skip
    return {"key": key, "height": height, "width": width, "segments": segments, "error": None}


def _add_mask(tar: tarfile.TarFile, key: str, result: Result) -> None:
    """Add a mask under a name that stays within the folder that a tar is unpacked to."""
    steps = [step for step in key.replace("://", "/").split("/") if step not in ("", ".", "..")]
    buffer = io.BytesIO()
    figures.save_mask(result.labels, result.colors, buffer)
    member = tarfile.TarInfo("/".join(steps) + ".png")
    member.size = buffer.tell()
    buffer.seek(0)
    tar.addfile(member, buffer)
