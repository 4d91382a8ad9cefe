"""Parts of a map too large for memory: stitch any rectangle of it, and refine it row by row.

`stitched_part` equals the same pixels of `itaclip.core.windows.stitch` at the image's own size.
`MovingPamr` equals `itaclip.core.pamr.pamr`, but holds only the rows that later rows depend on: a
row after step s needs the rows within one reach after step s - 1, so each step runs one reach
behind the step before.

Shapes: Q queries, N neighbours, windows of r x c patches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.core.pamr import MASKS_ON_A_CPU, affinity, neighbours
from itaclip.core.windows import Axis, WindowPlan, resampling_matrix, window_starts
from itaclip.devices import float64_device, kernel_device

Span = tuple[int, int]
"""First and last (exclusive) row or column."""


def windows_of(axis: Axis, span: Span) -> Span:
    """First and last (exclusive) window that shows a pixel of a span along an axis."""
    first, last = span
    beyond = axis.count - 1 if axis.size - axis.window < last else min(axis.count - 1, -(-last // axis.stride) - 1)
    early = max(0, -(-(first - axis.window + 1) // axis.stride))  # the first that starts late enough to reach `first`
    return min(early, axis.count - 1), beyond + 1


def stitched_part(
    logits: Callable[[int, Span], Tensor], plan: WindowPlan, rows: Span, columns: Span, device: torch.device
) -> Tensor:
    """Stitch the pixels of a rectangle at the image's own size.

    Args:
        logits: returns the logits of a row of windows from one column of windows to another:
            n x r x c x Q.
        plan: the windows of the whole image.
        rows: the rectangle's pixel rows.
        columns: its pixel columns.
        device: where the result lies.

    Returns:
        Q x height x width float32.
    """
    down, across = windows_of(plan.rows, rows), windows_of(plan.columns, columns)
    tiles = torch.stack([logits(row, across) for row in range(*down)]).to(device)
    tiled = tiles.permute(4, 0, 2, 1, 3).flatten(3, 4).flatten(1, 2)
    left = _part_of_matrix(plan.rows, rows, device, tiled.dtype)
    right = _part_of_matrix(plan.columns, columns, device, tiled.dtype)
    return left @ (tiled @ right.T)


@lru_cache(maxsize=256)
def _part_of_matrix(axis: Axis, span: Span, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Get the rows `span` of `stitching_matrix` for the image's own size, with the columns of `windows_of` alone."""
    place = float64_device(device)
    first, last = windows_of(axis, span)
    pixels = torch.arange(*span, device=place)
    inside = pixels[:, None] - window_starts(axis, torch.arange(first, last, device=place))
    seen = (inside >= 0) & (inside < axis.window)
    upsample = resampling_matrix(axis.patches, axis.padded, place)
    weights = upsample[inside.clamp(0, axis.window - 1) + axis.before] * seen[..., None]
    return (weights / weights.sum((1, 2), keepdim=True)).flatten(1).to(dtype).to(device)


class MovingPamr:
    """PAMR of an image whose rows arrive from the top down.

    Args:
        height: rows of the image.
        steps: number of rounds, 1 or more.
        dilations: distances of the neighbours in pixels.
    """

    def __init__(self, height: int, steps: int, dilations: Sequence[int]) -> None:
        self._height, self._steps, self._dilations = height, steps, tuple(dilations)
        self._reach = max(dilations)
        self._fed = 0
        self._fronts = [0] * (steps + 1)  # rows that each step has done
        self._guide = _Rows()
        self._weights = _Rows()
        self._tables: list[list[_Rows]] = []  # per step but the last, and per group of masks

    def push(self, logits: Tensor, guide: Tensor) -> Iterator[Tensor]:
        """Take the next rows; yield those that are refined: Q x rows x W.

        Args:
            logits: Q x rows x W.
            guide: 3 x rows x W, the normalised image.
        """
        place = kernel_device("_embedding_bag_forward_only", logits.device)
        logits, guide = logits.to(place), guide.to(place)
        together = len(logits) if logits.is_cuda else MASKS_ON_A_CPU
        groups = [part.permute(1, 2, 0).contiguous() for part in logits.split(together)]
        self._tables = self._tables or [[_Rows() for _ in groups] for _ in range(self._steps)]
        for table, rows in zip(self._tables[0], groups, strict=True):
            table.append(rows)
        self._guide.append(guide.transpose(0, 1))
        self._fed += guide.shape[1]
        yield from self._advance(self._fed, logits.device)
        ahead = self._fed
        while self._fed == self._height and self._fronts[-1] < self._height:  # the steps catch up at the end
            ahead += guide.shape[1]
            yield from self._advance(ahead, logits.device)

    def _advance(self, ahead: int, device: torch.device) -> Iterator[Tensor]:
        """Let every step follow as far as `ahead` rows of input allow."""
        self._fronts[0] = self._fed
        spans = [
            (self._fronts[step], max(0, min(self._height, ahead - step * self._reach)))
            for step in range(1, self._steps + 1)
        ]
        self._weigh(spans[0])
        for step, (first, last) in enumerate(spans, start=1):
            if first == last:
                continue
            sources = self._tables[step - 1]
            near = neighbours(
                last - first, sources[0].width, self._dilations, sources[0].device, first - sources[0].first,
                min(first, self._reach), min(self._height - last, self._reach),
            )  # fmt: skip
            weights = self._weights.part(first, last).flatten(0, 1)
            done = []
            for number, source in enumerate(sources):
                table = F.embedding_bag(near, source.flat, mode="sum", per_sample_weights=weights)
                done.append(table.unflatten(0, (last - first, -1)))
                source.drop(last - self._reach if last < self._height else self._height)
                if step < self._steps:
                    self._tables[step][number].append(done[-1])
            self._fronts[step] = last
            if step == self._steps:
                self._weights.drop(last)
                yield torch.cat(done, 2).permute(2, 0, 1).to(device)

    def _weigh(self, span: Span) -> None:
        """Compute the weights of the neighbours of some rows."""
        first, last = span
        if first == last:
            return
        above, below = max(0, first - self._reach), min(self._height, last + self._reach)
        guide = self._guide.part(above, below).transpose(0, 1)
        weights = affinity(guide, self._dilations)[:, first - above : last - above]
        self._weights.append(weights.permute(1, 2, 0).contiguous())
        self._guide.drop(last - self._reach)


class _Rows:
    """Consecutive rows of an image, the first of which are dropped as later ones come.

    They move inside one buffer that grows to what is needed: new tensors for every strip would scatter the memory.
    """

    def __init__(self) -> None:
        self.first = 0
        self._buffer: Tensor | None = None
        self._begin = self._end = 0  # rows of the buffer in use

    def append(self, rows: Tensor) -> None:
        held = self._end - self._begin
        if self._buffer is None or held + len(rows) > len(self._buffer):
            larger = rows.new_empty(held + len(rows), *rows.shape[1:])
            if self._buffer is not None:
                larger[:held] = self._buffer[self._begin : self._end]
            self._buffer, self._begin, self._end = larger, 0, held
        elif self._end + len(rows) > len(self._buffer):
            self._buffer[:held] = self._buffer[self._begin : self._end].clone()
            self._begin, self._end = 0, held
        self._buffer[self._end : self._end + len(rows)] = rows
        self._end += len(rows)

    def drop(self, before: int) -> None:
        """Forget the rows before `before`."""
        count = max(0, min(before - self.first, self._end - self._begin))
        self.first, self._begin = self.first + count, self._begin + count

    def part(self, first: int, last: int) -> Tensor:
        assert self._buffer is not None
        at = self._begin - self.first
        return self._buffer[first + at : last + at]

    @property
    def flat(self) -> Tensor:
        assert self._buffer is not None
        return self._buffer[self._begin : self._end].flatten(0, 1)

    @property
    def width(self) -> int:
        assert self._buffer is not None
        return self._buffer.shape[1]

    @property
    def device(self) -> torch.device:
        assert self._buffer is not None
        return self._buffer.device
