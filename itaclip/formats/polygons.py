"""Convert masks to polygons with holes, and to GeoJSON.

Outlines run along pixel edges: the pixel in column x and row y is the square from (x, y) to
(x + 1, y + 1). Filling outlines that are not simplified reproduces the mask exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from itaclip.errors import ItaclipError
from itaclip.formats.segments import Segment

Ring: TypeAlias = NDArray[np.int32]
"""N x 2 int32 corners (x, y) of an outline; the first corner is not repeated."""

Polygon: TypeAlias = list[Ring]
"""An outer ring, then its holes."""

_EDGES_AT_ONCE = 2000  # bounds memory: comparing them with their neighbours gives a few hundred thousand pairs


def polygons_of(mask: NDArray[np.bool_], tolerance: float = 1.0) -> list[Polygon]:
    """Trace the outlines of a mask: one polygon per 4-connected component.

    Args:
        mask: H x W bool.
        tolerance: how far, in pixels, a simplified outline may deviate from the exact one; 0 keeps
            every corner. A polygon that would intersect itself is simplified less, or not at all.

    Returns:
        Polygons in the order of their components' first pixels. Outer rings have a positive area
        by the shoelace formula, holes a negative one; no ring touches itself.

    Raises:
        ItaclipError: a negative tolerance.
    """
    if not tolerance >= 0:
        raise ItaclipError(f"tolerance = {tolerance}: expected 0 or more pixels.")
    count, components = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    outer: list[Ring | None] = [None] * count
    holes: list[list[Ring]] = [[] for _ in range(count)]
    for ring, component in _rings(mask, components):
        if _area(ring) > 0:
            outer[component] = ring
        else:
            holes[component].append(ring)
    exact = [[ring, *holes[component]] for component, ring in enumerate(outer) if ring is not None]
    return [_simplified(polygon, tolerance) for polygon in exact] if tolerance else exact


def to_geojson(
    segments: Sequence[Segment], colors: Sequence[Sequence[int]], size: tuple[int, int], tolerance: float
) -> dict[str, Any]:
    """Make a GeoJSON ``FeatureCollection`` with a ``MultiPolygon`` per class, in pixels, y pointing down.

    Args:
        segments: classes that occur.
        colors: RGB per class, by class id.
        size: height and width of the image in pixels.
        tolerance: see `polygons_of`.

    Raises:
        ItaclipError: a negative tolerance.
    """
    height, width = size
    features = [
        {
            "type": "Feature",
            "properties": {
                "name": segment.name, "label": segment.label, "score": segment.score,
                "area": int(segment.mask.sum()), "color": [int(value) for value in colors[segment.label]],
            },
            "geometry": {
                "type": "MultiPolygon",
                "coordinates": [
                    [[*ring.tolist(), ring[0].tolist()] for ring in polygon]
                    for polygon in polygons_of(segment.mask, tolerance)
                ],
            },
        }
        for segment in segments
    ]  # fmt: skip
    return {"type": "FeatureCollection", "bbox": [0, 0, width, height], "features": features}


# --- exact outlines ----------------------------------------------------------


def _rings(mask: NDArray[np.bool_], components: NDArray[np.int32]) -> list[tuple[Ring, int]]:
    """Trace closed outlines, each with the component that it bounds.

    Edges between inside and outside pixels are directed so that the inside is always on the same
    side, then linked into loops, component by component. A point where two pixels meet only at a
    corner has two outgoing edges; a path that returns to a point is cut there, so no ring touches itself.
    """
    padded = np.pad(mask, 1).astype(np.int8)
    stride = mask.shape[1] + 1  # points are numbered row by row
    down = np.diff(padded[1:-1], axis=1)  # H x (W + 1): 1 where the inside begins, from left to right
    across = np.diff(padded[:, 1:-1], axis=0)  # (H + 1) x W
    edges: list[NDArray[np.int64]] = []
    for rows_columns, step, inside in (
        (np.nonzero(across == 1), (0, 0, 0, 1), (0, 0)),  # top edges, going right
        (np.nonzero(down == -1), (0, 0, 1, 0), (0, -1)),  # right edges, going down
        (np.nonzero(across == -1), (0, 1, 0, 0), (-1, 0)),  # bottom edges, going left
        (np.nonzero(down == 1), (1, 0, 0, 0), (0, 0)),  # left edges, going up
    ):
        y, x = rows_columns
        begin = (y + step[0]) * stride + x + step[1]
        end = (y + step[2]) * stride + x + step[3]
        edges.append(np.stack([begin, end, components[y + inside[0], x + inside[1]]], axis=1))
    successors: dict[tuple[int, int], list[int]] = {}  # by component and point
    for begin, end, component in np.concatenate(edges).tolist():
        successors.setdefault((component, begin), []).append(end)

    rings = []
    while successors:
        component, point = next(iter(successors))
        path, index = [point], {point: 0}
        while ends := successors.get((component, path[-1])):
            end = ends.pop()
            if not ends:
                del successors[component, path[-1]]
            if end not in index:
                index[end] = len(path)
                path.append(end)
                continue
            loop = path[index[end] :]
            rings.append((_corners(np.array(loop), stride), component))
            for removed in loop[1:]:
                del index[removed]
            del path[index[end] + 1 :]
    return rings


def _corners(points: NDArray[np.int64], stride: int) -> Ring:
    """Find the corners of a loop of unit steps."""
    rows, columns = np.divmod(points, stride)
    ring = np.stack([columns, rows], axis=1)
    steps = np.roll(ring, -1, axis=0) - ring
    return ring[(steps != np.roll(steps, 1, axis=0)).any(axis=1)].astype(np.int32)


def _area(ring: Ring) -> float:
    x, y = ring.astype(np.int64).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2


# --- simplification ----------------------------------------------------------


def _simplified(polygon: Polygon, tolerance: float) -> Polygon:
    """Simplify rings; those that would intersect get a smaller tolerance, and finally stay exact."""
    factors = [iter((1, 0.5, 0.25, 0)) for _ in polygon]
    rings = list(polygon)
    waiting = set(range(len(polygon)))
    while waiting:
        for n in waiting:
            factor = next(factors[n])
            simple: Ring = cv2.approxPolyDP(polygon[n][:, None], tolerance * factor, closed=True)[:, 0]
            # a ring that would vanish stays exact
            usable = factor and len(simple) > 2 and _area(simple) * _area(polygon[n]) > 0
            rings[n] = simple if usable else polygon[n]
        waiting = {n for n in _intersecting(rings) if rings[n] is not polygon[n]}
    return rings


def _intersecting(rings: Sequence[Ring]) -> set[int]:
    """Find the indices of rings with edges that cross or touch others, except neighbours at their common corner."""
    begins = np.concatenate(rings).astype(np.int64)
    ends = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings]).astype(np.int64)
    sizes = [len(ring) for ring in rings]
    firsts = np.repeat(np.cumsum([0, *sizes[:-1]]), sizes)
    owner = np.repeat(np.arange(len(rings)), sizes)
    within = np.arange(len(begins)) - firsts
    after = firsts + (within + 1) % np.repeat(sizes, sizes)

    low, high = np.minimum(begins, ends), np.maximum(begins, ends)
    order = np.argsort(low[:, 0], kind="stable")
    last = np.searchsorted(low[order, 0], high[order, 0], side="right")
    found: list[NDArray[np.int64]] = []
    for chunk in np.array_split(np.arange(len(order)), len(order) // _EDGES_AT_ONCE + 1):
        counts = last[chunk] - chunk - 1  # later edges that begin before this one ends, from left to right
        first = np.repeat(chunk, counts)
        second = first + 1 + np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        i, j = order[first], order[second]
        near = (low[j, 1] <= high[i, 1]) & (high[j, 1] >= low[i, 1])
        i, j = i[near], j[near]
        a, b, c, d = begins[i], ends[i], begins[j], ends[j]
        abc, abd, cda, cdb = (np.sign(_turn(*points)) for points in ((a, b, c), (a, b, d), (c, d, a), (c, d, b)))
        crossed = (abc * abd <= 0) & (cda * cdb <= 0)
        next_to = (j == after[i]) | (after[j] == i)
        # neighbours share a corner; they overlap only if one runs back along the other
        back = (abc == 0) & (abd == 0) & (((b - a) * (d - c)).sum(axis=1) < 0)
        bad = crossed & (~next_to | back)
        found += [owner[i[bad]], owner[j[bad]]]
    return set(np.concatenate(found).tolist())


def _turn(a: NDArray[np.int64], b: NDArray[np.int64], c: NDArray[np.int64]) -> NDArray[np.int64]:
    """Compute twice the signed area of the triangle a, b, c."""
    ab, ac = b - a, c - a
    turn: NDArray[np.int64] = ab[..., 0] * ac[..., 1] - ab[..., 1] * ac[..., 0]
    return turn
