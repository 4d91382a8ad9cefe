"""A canvas that records which object every pixel belongs to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from itaclip.common.demo.world import CLASS_ID

Plane: TypeAlias = NDArray[np.floating[Any]]
Generator: TypeAlias = np.random.Generator
Color: TypeAlias = Sequence[float] | Plane
Paint: TypeAlias = Callable[[Plane, Plane], Plane]

FINE = 2  # drawn pixels per pixel of the image, in each direction


def noise(shape: tuple[int, int], cell: float, rng: Generator, octaves: int = 1, stretch: float = 1.0) -> Plane:
    """Smooth noise, H x W float32 in [0, 1], with features `cell` pixels high and `cell * stretch` pixels wide."""
    height, width = shape
    total, weight_sum, weight = np.zeros(shape, np.float32), 0.0, 1.0
    for _ in range(octaves):
        grid = rng.random((int(height / cell) + 3, int(width / (cell * stretch)) + 3), dtype=np.float32)
        total += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        weight_sum, weight, cell = weight_sum + weight, weight * 0.5, max(cell / 2, 1.0)
    return np.clip((total / weight_sum - 0.5) * 1.3 + 0.5, 0, 1)


def smooth(points: Sequence[Sequence[float]] | Plane, rounds: int = 3) -> Plane:
    """Round a closed outline, N x 2, by cutting its corners (Chaikin's curve)."""
    p = np.asarray(points, np.float32)
    for _ in range(rounds):
        after = np.roll(p, -1, axis=0)
        p = np.stack([0.75 * p + 0.25 * after, 0.25 * p + 0.75 * after], axis=1).reshape(-1, 2)
    return p


def ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0.0, corners: int = 40) -> Plane:
    """Return the outline of an ellipse, N x 2, rotated by `turn` radians."""
    t = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    px, py = rx * np.cos(t), ry * np.sin(t)
    return np.stack(
        [x + px * np.cos(turn) - py * np.sin(turn), y + px * np.sin(turn) + py * np.cos(turn)], axis=1
    ).astype(np.float32)


@dataclass
class Canvas:
    """An image being drawn: colours, and the number of the thing at every pixel.

    Attributes:
        shape: height and width of the finished image, which is drawn `FINE` times as large.
        rng: the only source of randomness.
        light: RGB factor for everything that does not glow; depends on the time of day.
        side: side that the light comes from, -1 (left) or 1 (right).
        things: (class id, colour word or None) of every thing so far; thing 0 is the background.
    """

    shape: tuple[int, int]
    rng: Generator
    light: Plane = field(default_factory=lambda: np.ones(3, np.float32))
    side: int = -1
    things: list[tuple[int, str | None]] = field(default_factory=lambda: [(0, None)])

    def __post_init__(self) -> None:
        height, width = self.shape
        self.image = np.full((height * FINE, width * FINE, 3), 128, np.float32)
        self.owner = np.zeros((height * FINE, width * FINE), np.uint8)

    def begin(self, name: str, color: str | None = None) -> int:
        """Start a thing; returns its number, for subsequent fills."""
        self.things.append((CLASS_ID[name], color))
        return len(self.things) - 1

    def _inside(self, points: Plane) -> tuple[tuple[slice, slice], NDArray[np.bool_], tuple[float, float]] | None:
        """Return the part of the canvas that an outline touches, a mask of the pixels inside, and its top-left
        corner."""
        fine = np.asarray(points, np.float32) * FINE
        height, width = self.owner.shape
        left, top = np.maximum(np.floor(fine.min(0)).astype(int), 0)
        right, bottom = np.minimum(np.ceil(fine.max(0)).astype(int) + 1, (width, height))
        if right <= left or bottom <= top:
            return None
        mask = np.zeros((bottom - top, right - left), np.uint8)
        cv2.fillPoly(mask, [((fine - (left, top)) * 16).round().astype(np.int32)], 1, shift=4)
        return (slice(top, bottom), slice(left, right)), mask.astype(bool), (left / FINE, top / FINE)

    def fill(self, points: Plane, color: Color | Paint, thing: int | None = None, shade: float = 0.16,
             glow: bool = False, opacity: float = 1.0) -> None:  # fmt: skip
        """Fill an outline (N x 2, in pixels of the image, x first).

        Args:
            points: the outline.
            color: RGB in 0..255, or a function ``(x, y) -> H x W x 3`` of pixel coordinates.
            thing: number of the thing that these pixels belong to; None keeps their owners.
            shade: how much darker the side away from the light and the lower end are.
            glow: whether the colour ignores the time of day.
            opacity: opacity in [0, 1].
        """
        found = self._inside(points)
        if found is None:
            return
        where, mask, (left, top) = found
        rows, columns = mask.shape
        if callable(color):
            x, y = np.meshgrid(left + np.arange(columns) / FINE, top + np.arange(rows) / FINE)
            paint = color(x.astype(np.float32), y.astype(np.float32))
        else:
            across = 1 + shade * self.side * (np.linspace(-0.5, 0.5, columns, dtype=np.float32))
            down = 1 + shade * np.linspace(0.5, -0.7, rows, dtype=np.float32)
            paint = np.asarray(color, np.float32) * (down[:, None] * across)[..., None]
        paint = paint if glow else paint * self.light
        region = self.image[where]
        region[mask] = paint[mask] if opacity >= 1 else region[mask] * (1 - opacity) + opacity * paint[mask]
        if thing is not None:
            self.owner[where][mask] = thing

    def shadow(self, x: float, y: float, rx: float, ry: float, strength: float = 0.45) -> None:
        """Draw a soft shadow on the ground below a thing at (x, y)."""
        x += -self.side * 0.35 * rx
        left, top = int((x - 1.6 * rx) * FINE), int((y - 1.8 * ry) * FINE)
        right, bottom = int((x + 1.6 * rx) * FINE), int((y + 1.8 * ry) * FINE)
        left, top = max(left, 0), max(top, 0)
        region = self.image[top : max(bottom, 0), left : max(right, 0)]
        if not region.size:
            return
        gx = (left + np.arange(region.shape[1])) / FINE
        gy = (top + np.arange(region.shape[0])) / FINE
        distance = ((gx - x) / rx) ** 2 + ((gy[:, None] - y) / max(ry, 0.5)) ** 2
        region *= (1 - strength * np.clip(1.4 - distance, 0, 1))[..., None]

    def finish(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the image, H x W x 3 uint8 RGB, and the number of the thing at every pixel, H x W uint8."""
        height, width = self.shape
        image = cv2.resize(self.image, (width, height), interpolation=cv2.INTER_AREA)
        image = image * (1 + 0.05 * (noise(self.shape, 90, self.rng)[..., None] - 0.5))
        image += self.rng.normal(0, self.rng.uniform(1.0, 3.0), (height, width, 1)).astype(np.float32)
        return np.clip(image, 0, 255).astype(np.uint8), self.owner[FINE // 2 :: FINE, FINE // 2 :: FINE].copy()


@dataclass
class Brush:
    """Draws one thing in its own units: x to the right, y up from the ground, height about 1."""

    canvas: Canvas
    thing: int
    x: float
    y: float
    size: float
    flip: int = 1

    def _place(self, points: Sequence[Sequence[float]] | Plane) -> Plane:
        p = np.asarray(points, np.float32)
        return np.stack([self.x + self.flip * p[:, 0] * self.size, self.y - p[:, 1] * self.size], axis=1)

    def shape(self, points: Sequence[Sequence[float]] | Plane, color: Color | Paint, rounds: int = 0,
              shade: float = 0.16, glow: bool = False, opacity: float = 1.0) -> None:  # fmt: skip
        """Fill an outline after cutting its corners `rounds` times."""
        outline = smooth(points, rounds) if rounds else np.asarray(points, np.float32)
        self.canvas.fill(self._place(outline), color, self.thing, shade, glow, opacity)

    def box(self, left: float, low: float, right: float, high: float, color: Color | Paint,
            shade: float = 0.16, glow: bool = False) -> None:  # fmt: skip
        """Fill a rectangle."""
        self.shape([(left, low), (right, low), (right, high), (left, high)], color, shade=shade, glow=glow)

    def disc(self, x: float, y: float, rx: float, ry: float, color: Color, turn: float = 0.0,
             shade: float = 0.16, glow: bool = False) -> None:  # fmt: skip
        """Fill an ellipse."""
        self.shape(ellipse(x, y, rx, ry, turn), color, shade=shade, glow=glow)

    def stroke(self, start: Sequence[float], end: Sequence[float], width: float, color: Color) -> None:
        """Draw a straight bar from one point to another."""
        a, b = np.asarray(start, np.float32), np.asarray(end, np.float32)
        along = (b - a) / max(float(np.hypot(*(b - a))), 1e-6)
        side = np.array([-along[1], along[0]], np.float32) * width / 2
        self.shape(np.stack([a + side, b + side, b - side, a - side]), color)
