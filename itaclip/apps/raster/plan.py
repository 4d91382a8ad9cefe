"""How a raster is divided: windows into units that are encoded together, pixels into blocks that are decided together.

The division depends on the raster and the settings alone, never on the machine, so that any number
of workers write the same result, and an interrupted run continues on another machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from itaclip.core.settings import Settings
from itaclip.core.strips import Span
from itaclip.core.windows import WindowPlan

TILE = 512
"""Side in pixels of the tiles of the written raster."""

STRIP = 32
"""Pixel rows that move through the refinement at once."""

_WINDOWS = 320  # per unit, about: seconds of work on a CPU, and what a crash can cost a worker
_ROWS = 3072  # of a block at most
_COLUMNS = 3072
_STATE = 256 << 20  # bytes of logits that the refinement of a block holds at once
CLOSING = 2
"""Pixels that a closing with a 3 x 3 square looks at in each direction."""

CORRECTED, CORRECTION_HALO = 2 * TILE, 256
"""Side of a tile that map correction handles at once, and how far around it regions are looked at, in pixels."""


@dataclass(frozen=True)
class Plan:
    """The division of a raster.

    Attributes:
        height: pixel rows.
        width: pixel columns.
        queries: Q of the text bank.
        per_unit: windows per unit.
        block: height and width of a block in pixels.
        halo: pixels around a block that its labels depend on.
    """

    height: int
    width: int
    queries: int
    per_unit: int
    block: tuple[int, int]
    halo: int

    @classmethod
    def of(cls, size: tuple[int, int], queries: int, settings: Settings, per_batch: int) -> Plan:
        """Divide a raster of (height, width) pixels.

        Args:
            size: height and width.
            queries: Q of the text bank.
            settings: of the pipeline.
            per_batch: windows of a batch; a unit holds whole batches, like those of the raster in one piece.
        """
        reach = settings.pamr_steps * max(settings.pamr_stride) if settings.pamr_steps else 0
        halo = reach + (CLOSING if settings.closing else 0)
        rows_held = settings.pamr_steps * (2 * max(settings.pamr_stride) + STRIP) if reach else STRIP
        columns = min(_COLUMNS, max(CORRECTED, _STATE // (4 * rows_held * queries) - 2 * halo))
        block = _side(size[0], _ROWS), _side(size[1], columns // CORRECTED * CORRECTED)
        return cls(*size, queries, per_batch * max(1, _WINDOWS // per_batch), block, halo)

    def units(self, windows: WindowPlan) -> int:
        """Count the units."""
        return -(-windows.count // self.per_unit)

    def unit(self, number: int, windows: WindowPlan) -> Span:
        """First and last (exclusive) window of a unit."""
        first = number * self.per_unit
        return first, min(windows.count, first + self.per_unit)

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-self.height // self.block[0]) * self._across

    def span(self, number: int, halo: int = 0) -> tuple[Span, Span]:
        """Rows and columns of a block, with `halo` pixels around it as far as there are any."""
        row, column = divmod(number, self._across)
        return (
            _around(row * self.block[0], self.block[0], self.height, halo),
            _around(column * self.block[1], self.block[1], self.width, halo),
        )

    def overlapping(self, rows: Span, columns: Span) -> list[int]:
        """Find the blocks that hold pixels of a rectangle."""
        down = range(rows[0] // self.block[0], -(-rows[1] // self.block[0]))
        across = range(columns[0] // self.block[1], -(-columns[1] // self.block[1]))
        return [row * self._across + column for row in down for column in across]

    @property
    def _across(self) -> int:
        return -(-self.width // self.block[1])

    def key(self) -> dict[str, Any]:
        """Describe the plan as JSON values."""
        return asdict(self)


def pieces(span: Span, length: int) -> Iterator[Span]:
    """Divide a span at the multiples of a length, which lie alike in all blocks."""
    at, last = span
    while at < last:
        end = min(last, (at // length + 1) * length)
        yield at, end
        at = end


def _around(first: int, length: int, size: int, halo: int) -> Span:
    return max(0, first - halo), min(size, first + length + halo)


def _side(size: int, most: int) -> int:
    """Choose the side of blocks of whole tiles, of at most `most` pixels: all large rasters need the same memory."""
    return -(-min(size, most) // CORRECTED) * CORRECTED
