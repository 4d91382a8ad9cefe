"""The two halves of the work: encode the windows of a unit, and decide the pixels of a block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itaclip.apps.raster.plan import CLOSING, CORRECTED, CORRECTION_HALO, STRIP, TILE, Plan, pieces
from itaclip.apps.raster.source import Source, blank
from itaclip.apps.raster.store import SETTLED, Block, Store, label_type
from itaclip.core.decision import close_labels, count_values, label_map, rank, rank_allowed
from itaclip.core.images import normalise
from itaclip.core.patch_logits import windows_per_batch
from itaclip.core.pipeline import Pipeline
from itaclip.core.query_maps import ready_maps
from itaclip.core.regions import map_correction
from itaclip.core.settings import Settings
from itaclip.core.strips import MovingPamr, Span, stitched_part, windows_of
from itaclip.core.text import TextBank
from itaclip.core.windows import WindowPlan


class Decider:
    """Encodes units and decides blocks of one raster, reading and writing the working folder.

    Args:
        pipeline: the image tower and its settings.
        bank: the classes.
        settings: those of the call, for the decision.
        source: the raster, open.
        store: the working folder.
        plan: the division.
        windows: the windows of the whole raster.
        scores: whether to keep scores.
    """

    def __init__(
        self, pipeline: Pipeline, bank: TextBank, settings: Settings, source: Source, store: Store, plan: Plan,
        windows: WindowPlan, scores: bool,
    ) -> None:  # fmt: skip
        self._pipeline, self._bank = pipeline, bank
        self._settings = pipeline.at_temperature(settings)
        self._source, self._store, self._plan, self._windows = source, store, plan, windows
        self._scores = scores
        self._device = pipeline.encoder.tower.device
        self._empty: Tensor | None = None

    # --- encode ------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, unit: int) -> None:
        """Encode the windows of a unit, in the batches in which the whole raster would be encoded."""
        first, last = self._plan.unit(unit, self._windows)
        per_batch = windows_per_batch(self._pipeline.settings, self._device)
        found: list[Tensor] = []
        for start in range(first, last, per_batch):
            spans = list(self._spans(start, min(start + per_batch, last)))
            read = [self._source.read(*span) for span in spans]
            found += self._encoded([pixels for pixels, _ in read], any(valid.any() for _, valid in read))
        self._store.write_logits(unit, found)

    def _encoded(self, pixels: Sequence[NDArray[np.uint8]], any_data: bool) -> list[Tensor]:
        """Compute the logits of the windows of rectangles, n x r x c x Q each; those without data are all alike."""
        if any_data:
            return self._pipeline.patch_logits([normalise(one).to(self._device) for one in pixels], self._bank)
        plans = [self._pipeline.plan(torch.empty(3, *one.shape[:2])) for one in pixels]
        return [self._empty_window().expand(plan.count, -1, -1, -1) for plan in plans]

    def _empty_window(self) -> Tensor:
        """Compute the logits of a window without data: 1 x r x c x Q."""
        if self._empty is None:
            pixels = blank(self._windows.rows.window, self._windows.columns.window)
            self._empty = self._pipeline.patch_logits([normalise(pixels).to(self._device)], self._bank)[0]
        return self._empty

    def _spans(self, first: int, last: int) -> Iterator[tuple[Span, Span]]:
        """List the rectangles that consecutive windows cover, one per row of windows."""
        rows, columns = self._windows.rows, self._windows.columns
        at = first
        while at < last:
            row, column = divmod(at, columns.count)
            end = min(columns.count, column + last - at)
            yield (
                (rows.starts[row], rows.starts[row] + rows.window),
                (columns.starts[column], columns.starts[end - 1] + columns.window),
            )
            at += end - column

    # --- decide ------------------------------------------------------------------

    @torch.no_grad()
    def decide(self, number: int, dropped: Sequence[int] = ()) -> Block:
        """Stitch, refine and label the pixels of a block.

        Args:
            number: of the block.
            dropped: classes that the area rule has dropped.
        """
        core, halo = self._plan.span(number), self._plan.span(number, self._plan.halo)
        rows, columns = self._plan.span(number, CLOSING if self._settings.closing else 0)
        valid = self._valid(*core)
        queries, classes = self._bank.class_names.queries_per_class, len(self._bank.class_names.queries_per_class)
        scores = np.zeros(valid.shape, np.uint8) if self._scores else None
        counts = torch.zeros(2, classes, dtype=torch.int64)  # of pixels with data, and of all
        if not valid.any():
            nothing = np.full(valid.shape, classes, label_type(classes))
            return Block(nothing, scores, counts[0].numpy(), counts[1].numpy() > 0)
        labels = np.empty((rows[1] - rows[0], columns[1] - columns[0]), label_type(classes))
        settings = self._settings.changed(closing=False)  # later, with the rows around
        allowed = torch.ones(classes, dtype=torch.bool, device=self._device)
        allowed[list(dropped)] = False
        for at, logits in self._refined(number):
            first, last = max(rows[0], at), min(rows[1], at + logits.shape[1])
            if first >= last:
                continue
            part = logits[:, first - at : last - at, columns[0] - halo[1][0] : columns[1] - halo[1][0]]
            maps = ready_maps(part, queries)
            ranking = rank(maps, settings.logit_scale, 1)
            if dropped:
                ranking = rank_allowed(ranking, maps, settings.logit_scale, allowed)
            best, chosen = ranking.scores(ranking.logits[0]).view(maps.size), ranking.classes[0].view(maps.size)
            labels[first - rows[0] : last - rows[0]] = label_map(chosen, best, settings).cpu().numpy()
            counts[1] += count_values(chosen, classes).cpu()
            first, last = max(core[0][0], at), min(core[0][1], at + logits.shape[1])
            if first >= last:
                continue
            inside = slice(first - max(rows[0], at), last - max(rows[0], at))
            across = slice(core[1][0] - columns[0], core[1][1] - columns[0])
            has_data = torch.from_numpy(valid[first - core[0][0] : last - core[0][0]]).to(self._device)
            counts[0] += count_values(chosen[inside, across][has_data], classes).cpu()
            if scores is not None:
                percent = (best[inside, across] * 100).round().byte().cpu().numpy()
                scores[first - core[0][0] : last - core[0][0]] = percent
        found = np.empty(valid.shape, labels.dtype)
        across = slice(core[1][0] - columns[0], core[1][1] - columns[0])
        for first, last in pieces(core[0], TILE):
            above, below = max(rows[0], first - CLOSING), min(rows[1], last + CLOSING)
            shown = labels[above - rows[0] : below - rows[0]]
            shown = _closed(shown) if self._settings.closing else shown
            found[first - core[0][0] : last - core[0][0]] = shown[first - above : last - above, across]
        found[~valid] = classes
        return Block(found, scores, counts[0].numpy(), counts[1].numpy() > 0)

    @torch.no_grad()
    def correct(self, number: int) -> Block:
        """Give all pixels of a region their most frequent label, tile by tile; regions end at a tile's halo."""
        block = self._store.read_block(number, SETTLED)
        (top, bottom), (left, right) = self._plan.span(number)
        labels, classes = block.labels.copy(), len(self._bank.class_names.queries_per_class)
        for row in range(top, bottom, CORRECTED):
            for column in range(left, right, CORRECTED):
                rows, columns = (
                    (max(0, at - CORRECTION_HALO), min(size, at + CORRECTED + CORRECTION_HALO))
                    for at, size in ((row, self._plan.height), (column, self._plan.width))
                )
                pixels, valid = self._source.read(rows, columns)
                (regions,) = self._pipeline.region_maps([self._settings], [pixels], [None])[self._settings.regions]
                ids = regions.astype(np.int64)
                ids[~valid] = 0  # belongs to no region
                before = torch.from_numpy(self._store.read_labels(rows, columns))
                after = map_correction(before, torch.from_numpy(ids), classes + 1, int(ids.max()))
                height, width = min(CORRECTED, bottom - row), min(CORRECTED, right - column)
                labels[row - top : row - top + height, column - left : column - left + width] = after[
                    row - rows[0] : row - rows[0] + height, column - columns[0] : column - columns[0] + width
                ].numpy()
        return replace(block, labels=labels)

    def _refined(self, number: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the refined logits of a block with its halo, a few rows at a time: the first row, and Q x rows x W."""
        (top, bottom), columns = self._plan.span(number, self._plan.halo)
        settings = self._settings
        moving = MovingPamr(bottom - top, settings.pamr_steps, settings.pamr_stride) if settings.pamr_steps else None
        read = _WindowRows(self._store, windows_of(self._windows.columns, columns))
        done = top
        for at, end in pieces((top, bottom), STRIP):
            read.forget(windows_of(self._windows.rows, (at, end))[0])
            logits = torch.cat(
                [
                    stitched_part(read, self._windows, (at, end), piece, self._device)
                    for piece in pieces(columns, TILE)  # a piece needs few of the windows across
                ], 2,
            )  # fmt: skip
            if moving is None:
                yield at, logits
                continue
            pixels, _ = self._source.read((at, end), columns)
            for refined in moving.push(logits, normalise(pixels).to(self._device)):
                yield done, refined
                done += refined.shape[1]

    def _valid(self, rows: Span, columns: Span) -> NDArray[np.bool_]:
        """Where a block has data, read strip by strip."""
        return np.concatenate([self._source.read(strip, columns)[1] for strip in pieces(rows, TILE)])


class _WindowRows:
    """Reads logits of windows, keeping the rows of windows that neighbouring strips share."""

    def __init__(self, store: Store, columns: Span) -> None:
        self._store, self._columns = store, columns
        self._kept: dict[int, Tensor] = {}

    def __call__(self, row: int, columns: Span) -> Tensor:
        """Get the logits of a row of windows, from one column of windows to another: n x r x c x Q."""
        if row not in self._kept:
            self._kept[row] = self._store.read_logits(row, self._columns)
        first = self._columns[0]
        return self._kept[row][columns[0] - first : columns[1] - first]

    def forget(self, before: int) -> None:
        """Drop the rows of windows before one."""
        self._kept = {row: logits for row, logits in self._kept.items() if row >= before}


def _closed(labels: NDArray[Any]) -> NDArray[Any]:
    """Close a label map."""
    closed: NDArray[Any] = close_labels(torch.from_numpy(labels.astype(np.int64))).numpy()
    return closed
