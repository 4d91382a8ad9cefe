"""The working folder of a run: finished units and blocks, each a file, so that an interrupted run continues.

- ``run.json``: everything that the files depend on;
- ``logits/000012``: patch logits of a unit, float32, windows x r x c x Q;
- ``labels/000003.npz``: labels of a block, and how many pixels chose each class;
- ``settled``, ``corrected``: the same after the area rule, and after map correction.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor

from itaclip.apps.raster.plan import Plan
from itaclip.apps.run_key import refuse_other_run
from itaclip.core.strips import Span
from itaclip.core.windows import WindowPlan
from itaclip.errors import ItaclipError
from itaclip.files import atomic_path, write_json

RUN = "run.json"
LABELS, SETTLED, CORRECTED = "labels", "settled", "corrected"
"""Folders of decided blocks, in the order in which they are made."""


@dataclass(frozen=True)
class Block:
    """Decided pixels of a block.

    Attributes:
        labels: H x W class ids of `label_type`; pixels without data are K.
        scores: H x W uint8, the score of the best class in percent; None if not asked for.
        counts: K int64, pixels with data whose best class each is, before any threshold.
        present: K bool, whether any pixel that the labels depend on chose a class.
    """

    labels: NDArray[Any]
    scores: NDArray[np.uint8] | None
    counts: NDArray[np.int64]
    present: NDArray[np.bool_]


def label_type(classes: int) -> type[np.uint8] | type[np.uint16]:
    """Choose the smallest type that holds all class ids and one value for pixels without data."""
    return np.uint8 if classes <= 255 else np.uint16


class Store:
    """Reads and writes the working folder; processes may share it."""

    def __init__(self, folder: Path, plan: Plan, windows: WindowPlan) -> None:
        self.folder, self._plan, self._windows = folder, plan, windows
        self._record = windows.grid[0] * windows.grid[1] * plan.queries * 4  # bytes of a window's logits

    @contextmanager
    def in_use(self, key: dict[str, Any], overwrite: bool) -> Iterator[None]:
        """Hold the folder for a run; another process is refused.

        Raises:
            ItaclipError: another process or another run uses it, or it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / "lock")
            lock.acquire(timeout=0)
        except Timeout:
            raise ItaclipError(f"{self.folder}: in use by another process; wait, or choose another --out.") from None
        except OSError as error:
            raise ItaclipError(f"{self.folder}: cannot be written ({error.strerror or error}).") from error
        try:
            self._check(key, overwrite)
            yield
        finally:
            lock.release()

    def _check(self, key: dict[str, Any], overwrite: bool) -> None:
        path = self.folder / RUN
        key = json.loads(json.dumps(key))
        try:
            known = json.loads(path.read_bytes())
        except (OSError, ValueError):
            known = None
        if known != key:
            if known is not None and not overwrite:
                refuse_other_run(self.folder, known, key)
            if known is None and any(entry.name not in ("lock", RUN) for entry in self.folder.iterdir()):
                raise ItaclipError(f"{self.folder}: holds something else; choose another --out.")
            self._empty()
            write_json(path, key)

    def _empty(self) -> None:
        for name in ("logits", LABELS, SETTLED, CORRECTED):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def remove(self) -> None:
        """Remove the folder when the result is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- logits ------------------------------------------------------------------

    def has_logits(self, unit: int) -> bool:
        """Whether a unit's file is there and complete."""
        first, last = self._plan.unit(unit, self._windows)
        try:
            return self._logits(unit).stat().st_size == (last - first) * self._record
        except OSError:
            return False

    def write_logits(self, unit: int, logits: Sequence[Tensor]) -> None:
        """Write the logits of a unit, in parts: each n x r x c x Q."""
        with atomic_path(self._logits(unit)) as partial, partial.open("wb") as file:
            for part in logits:
                file.write(part.cpu().float().contiguous().numpy().tobytes())

    def read_logits(self, row: int, columns: Span) -> Tensor:
        """Read the logits of a row of windows, from one column of windows to another: n x r x c x Q."""
        first, last = (row * self._windows.columns.count + column for column in columns)
        found = np.empty((last - first, *self._windows.grid, self._plan.queries), np.float32)
        at = first
        while at < last:
            unit = at // self._plan.per_unit
            begin, end = self._plan.unit(unit, self._windows)
            stop = min(end, last)
            with self._logits(unit).open("rb") as file:
                file.seek((at - begin) * self._record)
                content = file.read((stop - at) * self._record)
            if len(content) != (stop - at) * self._record:
                raise ItaclipError(f"{self._logits(unit)}: damaged; remove it and run the same command again.")
            found[at - first : stop - first] = np.frombuffer(content, np.float32).reshape(stop - at, *found.shape[1:])
            at = stop
        return torch.from_numpy(found)

    def bytes_of_logits(self) -> int:
        """Bytes that all logits take."""
        return self._windows.count * self._record

    def _logits(self, unit: int) -> Path:
        return self.folder / "logits" / f"{unit:06d}"

    # --- blocks ------------------------------------------------------------------

    def has_block(self, stage: str, block: int) -> bool:
        """Whether a block's file is there. Files appear only when they are complete."""
        return self._block(stage, block).is_file()

    def write_block(self, stage: str, number: int, block: Block) -> None:
        """Write a decided block."""
        arrays = {"labels": block.labels, "counts": block.counts, "present": block.present}
        if block.scores is not None:
            arrays["scores"] = block.scores
        with atomic_path(self._block(stage, number)) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    def read_block(self, number: int, stage: str | None = None) -> Block:
        """Read a block at a stage, or as it is after the last stage that changed it.

        Raises:
            ItaclipError: it is damaged.
        """
        stages = (CORRECTED, SETTLED, LABELS) if stage is None else (stage, LABELS)
        path = next(self._block(name, number) for name in stages if self.has_block(name, number))
        try:
            with np.load(path, allow_pickle=False) as found:
                scores = found.get("scores")
                return Block(found["labels"], scores, found["counts"], found["present"])
        except Exception as error:  # zipfile, zlib and numpy raise all kinds
            raise ItaclipError(f"{path}: damaged ({error}); remove it and run the same command again.") from error

    def read_labels(self, rows: Span, columns: Span) -> NDArray[Any]:
        """Read the labels of a rectangle before map correction: H x W."""
        found = np.empty((rows[1] - rows[0], columns[1] - columns[0]), np.int64)
        for number in self._plan.overlapping(rows, columns):
            down, across = self._plan.span(number)
            top, bottom = max(rows[0], down[0]), min(rows[1], down[1])
            left, right = max(columns[0], across[0]), min(columns[1], across[1])
            labels = self.read_block(number, SETTLED).labels
            found[top - rows[0] : bottom - rows[0], left - columns[0] : right - columns[0]] = labels[
                top - down[0] : bottom - down[0], left - across[0] : right - across[0]
            ]
        return found

    def _block(self, stage: str, number: int) -> Path:
        return self.folder / stage / f"{number:06d}.npz"
