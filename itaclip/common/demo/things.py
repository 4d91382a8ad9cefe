"""The painter of every thing class of the town, and how wide it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from itaclip.common.demo.built_things import balloon, boat, bus, car, clutter, house, parasol
from itaclip.common.demo.canvas import Brush, Generator
from itaclip.common.demo.living_things import bird, cat, dog, fir, flower, person, tree
from itaclip.common.demo.sky_things import cloud, moon, sun

Painter: TypeAlias = Callable[[Brush, str | None, Generator], None]

PAINTERS: dict[str, Painter] = {
    "background": clutter, "house": house, "tree": tree, "fir": fir, "car": car, "bus": bus, "boat": boat, "bird": bird,
    "cat": cat, "dog": dog, "flower": flower, "person": person, "parasol": parasol, "balloon": balloon, "sun": sun,
    "moon": moon, "cloud": cloud,
}  # fmt: skip

HALF_WIDTH: dict[str, float] = {
    "car": 1.1, "bus": 1.25, "boat": 0.55, "house": 0.6, "tree": 0.48, "fir": 0.34, "bird": 0.8, "cat": 0.5, "dog": 0.9,
    "flower": 0.3, "person": 0.22, "parasol": 0.72, "balloon": 0.38, "cloud": 1.0, "background": 0.6,
}  # fmt: skip
"""Approximate half width of a thing in units of its height."""
