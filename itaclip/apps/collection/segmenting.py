"""The segmenting workers: they take parts with image bytes and write result files."""

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

from itaclip.apps.collection.locations import redacted
from itaclip.apps.collection.store import Part, part_bytes
from itaclip.apps.collection.transfer import REPORT, Job
from itaclip.apps.collection.units import Entry
from itaclip.apps.folders.batches import read_ahead, reason_of, segment_batch
from itaclip.common import figures
from itaclip.common.images import decode_image
from itaclip.core.choices import follow
from itaclip.errors import ItaclipError
from itaclip.result import Result
from itaclip.segmenter import Segmenter
from itaclip.vocabulary import Vocabulary

_MAX_REASONS = 5  # failure reasons that a part reports


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker segments with; can be pickled for the workers.

    Attributes:
        load: creates the segmenter; takes `device`.
        device: "cpu" or "cuda".
        fingerprint: expected fingerprint of the weights.
        vocabulary: the classes.
        provenance: JSON for the metadata of the results.
        batch: images per batch.
        threads: CPU threads per worker.
        masks: whether to write PNG masks too.
        choices: what the run chose by measuring.
    """

    load: Callable[..., Segmenter]
    device: str
    fingerprint: str
    vocabulary: Vocabulary
    provenance: str
    batch: int
    threads: int
    masks: bool
    choices: dict[str, str]


class SegmentParts:
    """A worker with a segmenter: labels parts and writes their results.

    Two threads may call it: while one uses the segmenter, the other decodes, compresses and
    writes. A worker thus holds at most two parts, however slow the destination is.
    """

    def __init__(self, setup: WorkerSetup, job: Job) -> None:
        torch.set_num_threads(setup.threads)
        self._setup, self._store, self._digest = setup, job.store(), job.digest
        self._lock = threading.Lock()
        self._fatal: str | None = None
        try:
            follow(setup.choices)
            self._segmenter = setup.load(device=setup.device)
            self._segmenter.settle(setup.vocabulary)
            if self._segmenter.fingerprint != setup.fingerprint:
                raise ItaclipError("this machine loads different weights; give all machines the same file.")
        except ItaclipError as error:
            self._fatal = f"{ray.util.get_node_ip_address()}: {error}"

    def __call__(self, parts: pa.Table) -> pa.Table:
        """Label and write parts; returns one report per part."""
        reports = []
        for part in parts.to_pylist():
            try:
                if self._fatal is not None:
                    raise ItaclipError(self._fatal)
                reports.append(self._written(part))
            except ItaclipError as error:
                reports.append({"unit": part["unit"], "part": part["part"], "fatal": str(error)})
        return pa.Table.from_pylist(reports, REPORT)

    def _written(self, part: Mapping[str, Any]) -> dict[str, Any]:
        rows, masks, seconds = self._segmented(part)
        name = self._store.name_of(Part(part["unit"], part["part"], part["end"]), self._digest)
        self._store.write_part(name, part_bytes(rows, self._setup.provenance), masks)
        reasons = [row["error"] for row in rows if row["error"] is not None]
        return {
            "unit": part["unit"], "part": part["part"], "end": part["end"], "images": len(rows),
            "failed": len(reasons), "reasons": reasons[:_MAX_REASONS], "seconds": seconds,
        }  # fmt: skip

    def _segmented(self, part: Mapping[str, Any]) -> tuple[list[dict[str, Any]], bytes | None, float]:
        """Segment a part: its rows, its masks as a tar archive or None, and the seconds spent segmenting."""
        setup, rows, buffer, seconds = self._setup, list[dict[str, Any]](), io.BytesIO(), 0.0
        entries = [Entry(*values) for values in zip(part["keys"], part["contents"], part["errors"], strict=True)]
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for batch, read in read_ahead(self._image, entries, setup.batch, setup.threads):
                with self._lock:
                    began = time.perf_counter()
                    found = segment_batch(self._segmenter, setup.vocabulary, read)
                    seconds += time.perf_counter() - began
                for entry, result in zip(batch, found, strict=True):
                    row, png = _written(entry.key, result, setup.masks)
                    rows.append(row)
                    if png is not None:
                        _add_mask(tar, entry.key, png)
        return rows, buffer.getvalue() if setup.masks else None, seconds

    def _image(self, entry: Entry) -> NDArray[np.uint8]:
        if entry.content is None:
            raise ItaclipError(entry.error or f"{entry.key}: contains no image.")
        return decode_image(entry.content, entry.key, self._segmenter.read_options)


def provenance_json(
    segmenter: Segmenter, vocabulary: Vocabulary, key: Mapping[str, Any], versions: Mapping[str, str]
) -> str:
    """Return the provenance of a run as JSON: everything its results depend on, class names and colours, versions."""
    content = {"run": key, "names": vocabulary.names, "colors": vocabulary.colors, "versions": versions}
    return json.dumps(content | {"method": segmenter.settings.method}, ensure_ascii=False)


def row_of(key: str, result: Result | str) -> dict[str, Any]:
    """Return the row of an image, or of the reason why it failed; see `itaclip.apps.collection.store.SCHEMA`."""
    if isinstance(result, str):
        return {"key": key, "error": redacted(result)}
    height, width = result.labels.shape
    segments = [
        {
            "id": found["category_id"] - 1, "name": result.names[found["category_id"] - 1], "area": found["area"],
            "share": found["area"] / result.labels.size, "score": found["score"],
            "rle": found["segmentation"]["counts"],
        }
        for found in result.to_coco()["annotations"]
    ]  # fmt: skip
    return {"key": key, "height": height, "width": width, "segments": segments, "error": None}


def _written(key: str, result: Result | str, mask: bool) -> tuple[dict[str, Any], bytes | None]:
    """Make the row of an image and, if asked for, its mask as PNG; whatever the image raises becomes the row's
    error."""
    try:
        row = row_of(key, result)
        if not mask or isinstance(result, str):
            return row, None
        return row, figures.mask_png(result.labels, result.colors)
    except Exception as error:
        return row_of(key, f"{key}: {reason_of(error)}"), None


def _add_mask(tar: tarfile.TarFile, key: str, png: bytes) -> None:
    """Add a mask under a name that cannot leave the folder into which the archive is extracted."""
    steps = [step for step in key.replace("://", "/").split("/") if step not in ("", ".", "..")]
    member = tarfile.TarInfo("/".join(steps) + ".png")
    member.size = len(png)
    tar.addfile(member, io.BytesIO(png))
