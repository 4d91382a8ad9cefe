"""Parts of a map equal the same pixels of the whole map, wherever it is cut."""

from __future__ import annotations

import pytest
import torch

from itaclip.core.pamr import pamr
from itaclip.core.strips import MovingPamr, stitched_part, windows_of
from itaclip.core.windows import WindowPlan, stitch

PLANS = [
    ((130, 97), 32, 16, 8, "end"),
    ((61, 50), 30, 13, 8, "centre"),
    ((20, 1), 32, 16, 8, "end"),
    ((33, 90), 32, 32, 8, "end"),
    ((40, 40), 0, 5, 8, "end"),
]


@pytest.mark.parametrize(("size", "crop", "stride", "patch", "padding"), PLANS)
def test_a_stitched_part_equals_the_whole(size, crop, stride, patch, padding) -> None:  # type: ignore[no-untyped-def]
    plan = WindowPlan.of(size, crop, stride, patch, padding)
    logits = torch.randn(plan.count, *plan.grid, 3, generator=torch.Generator().manual_seed(0))
    whole = stitch(logits, plan, size)
    rows_of_windows = logits.view(plan.rows.count, plan.columns.count, *logits.shape[1:])
    for top in range(0, size[0], 23):
        for left in range(0, size[1], 37):
            rows, columns = (top, min(top + 23, size[0])), (left, min(left + 37, size[1]))
            part = stitched_part(
                lambda row, across: rows_of_windows[row, slice(*across)], plan, rows, columns, torch.device("cpu")
            )
            torch.testing.assert_close(part, whole[:, slice(*rows), slice(*columns)], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("size", "crop", "stride", "patch", "padding"), PLANS)
def test_the_windows_of_a_span_are_those_that_show_it(size, crop, stride, patch, padding) -> None:  # type: ignore[no-untyped-def]
    plan = WindowPlan.of(size, crop, stride, patch, padding)
    for axis in (plan.rows, plan.columns):
        for first in range(axis.size):
            for last in range(first + 1, min(axis.size, first + 12) + 1):
                seen = [n for n, start in enumerate(axis.starts) if start + axis.window > first and start < last]
                assert windows_of(axis, (first, last)) == (seen[0], seen[-1] + 1)


@pytest.mark.parametrize(
    ("height", "width", "queries", "rows"), [(130, 41, 5, 32), (90, 33, 40, 17), (7, 1, 3, 2), (64, 20, 33, 64)]
)
def test_refinement_row_by_row_equals_that_of_the_whole(height: int, width: int, queries: int, rows: int) -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(queries, height, width, generator=random)
    guide = torch.randn(3, height, width, generator=random)
    moving = MovingPamr(height, 4, (3, 8))
    parts = [
        part
        for at in range(0, height, rows)
        for part in moving.push(logits[:, at : at + rows], guide[:, at : at + rows])
    ]
    torch.testing.assert_close(torch.cat(parts, 1), pamr(logits, guide, 4, (3, 8)), rtol=0, atol=1e-5)
