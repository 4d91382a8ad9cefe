"""The drawn town as an aeroplane shows it: larger than any scene, for rasters."""

from __future__ import annotations

import numpy as np

from itaclip.common.demo import grounds
from itaclip.common.demo.canvas import smooth
from itaclip.common.demo.scenes import Scene, scene_of
from itaclip.common.demo.stage import Stage

_SEED = 20260618
_STREETS = (0.3, 0.78)  # heights, in those of the picture
_HALF_STREET = 26.0  # pixels


def draw_town(height: int = 576, width: int = 896) -> Scene:
    """Draw meadows with streets, houses and trees, and the sea to the east, by day.

    Things have the sizes that they have in scenes of the demo.

    Args:
        height: in pixels.
        width: in pixels.
    """
    rng = np.random.default_rng(_SEED)
    s = Stage((height, width), rng, unseen=True)
    s.time, s.unit, s.horizon = "day", 1.0, -1.2 * height
    s.canvas.light = np.ones(3, np.float32)
    s.band("grass", -1, height + 1, grounds.grass_paint(-9.0, rng))
    shore = 0.74 * width
    for street in _STREETS:
        s.road(street * height - _HALF_STREET, street * height + _HALF_STREET)
    s.pond(0.3 * width, 0.5 * height, 90, 44)
    bends = ((0, -0.1), (0.04, 0.2), (-0.03, 0.45), (0.05, 0.7), (0, 1.1))
    wave = [(shore + dx * width, y * height) for dx, y in bends]
    for name, inland, paint in (
        ("sand", 70, grounds.sand_paint(s.horizon, rng)), ("sea", 0, grounds.sea_paint(s.horizon + 0.6 * height, rng)),
    ):  # fmt: skip
        edge = [(x - inland, y) for x, y in wave]
        s.area(name, smooth(np.array([*edge, (width + 90, 1.1 * height), (width + 90, -0.1 * height)])), paint)
    blocks = [(0.0, _STREETS[0]), *zip(_STREETS, (*_STREETS[1:], 1.0), strict=True)]
    for top, bottom in blocks:
        low, high = top * height + 1.2 * _HALF_STREET, bottom * height - 1.2 * _HALF_STREET
        for name in s.some({"house": 2.0, "tree": 1.6, "fir": 0.8}, round(shore / 96)):
            x, size = rng.uniform(0.05, 0.82) * shore, rng.uniform(76, 104)
            y = low + 0.6 * size + rng.uniform(0, 1) * max(0, high - low - 0.3 * size)
            s.later(name, x, min(y, height - 4), size)
    for street in _STREETS:
        for name in s.some({"car": 1.4, "bus": 0.8}, round(shore / 260)):
            size = rng.uniform(42, 50) if name == "car" else rng.uniform(54, 62)
            s.later(name, rng.uniform(0.05, 0.8) * shore, street * height + rng.uniform(2, 20), size)
    for _ in range(round(height / 220)):
        x, y = rng.uniform(0.84, 0.97) * width, rng.uniform(0.1, 0.98) * height
        s.later("boat", x, y, rng.uniform(76, 96), shadow=False)
    return scene_of(s)
