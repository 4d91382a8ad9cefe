"""Colours of the drawn town's things."""

from __future__ import annotations

import numpy as np

from itaclip.common.demo.canvas import Color, Generator, Plane
from itaclip.common.demo.world import COLORS


def tint(word: str | None, rng: Generator, jitter: float = 0.1) -> Plane:
    """Draw a random colour close to the named one, RGB in 0..255."""
    base = np.array(COLORS[word or "grey"], np.float32)
    return np.clip(base * rng.uniform(1 - jitter, 1 + jitter) + rng.uniform(-10, 10, 3), 8, 252).astype(np.float32)


def darker(color: Color, factor: float = 0.6) -> Plane:
    """Return a darker shade, RGB in 0..255."""
    return np.asarray(color, np.float32) * factor
