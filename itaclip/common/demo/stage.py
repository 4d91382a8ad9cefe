"""A picture while it is drawn: time of day, horizon, and what all kinds of scenes have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from itaclip.common.demo import grounds
from itaclip.common.demo.built_things import fence_row
from itaclip.common.demo.canvas import Brush, Canvas, Generator, Paint, ellipse, noise, smooth
from itaclip.common.demo.things import HALF_WIDTH, PAINTERS
from itaclip.common.demo.world import CLASS_ID, KINDS


class Stage:
    """A canvas with a horizon, a time of day and the permitted colours."""

    def __init__(self, shape: tuple[int, int], rng: Generator, unseen: bool) -> None:
        self.canvas, self.rng, self.unseen = Canvas(shape, rng), rng, unseen
        self.height, self.width = shape
        self.unit = min(shape) / 288
        self.time = str(rng.choice(["day", "evening", "grey", "night"], p=[0.5, 0.14, 0.11, 0.25]))
        self.canvas.side = int(rng.choice([-1, 1]))
        self.canvas.light = np.array(
            {"day": (1, 1, 1), "evening": (1.0, 0.9, 0.8), "grey": (0.93, 0.95, 0.98), "night": (0.62, 0.66, 0.82)}[
                self.time
            ],
            np.float32,
        )
        self.horizon = 0.0
        self.waiting: list[tuple[float, Callable[[], None]]] = []

    def color(self, name: str) -> str | None:
        """Choose a colour for a thing; None if it has none to choose."""
        kind = KINDS[CLASS_ID[name]]
        colors = [c for c in kind.colors if self.unseen or c != kind.unseen_color]
        return str(self.rng.choice(colors)) if colors else None

    def area(self, name: str, points: NDArray[np.floating], paint: Paint, glow: bool = False) -> int:
        """Fill a polygon; returns the number of the thing."""
        thing = self.canvas.begin(name)
        self.canvas.fill(points, paint, thing, shade=0, glow=glow)
        return thing

    def band(self, name: str, top: float, bottom: float, paint: Paint, glow: bool = False, wavy: float = 0.0) -> None:
        """Fill the picture between two heights, in pixels."""
        x = np.linspace(-2, self.width + 2, 40)
        edge = top + wavy * (noise((2, 40), 9, self.rng)[0] - 0.5)
        points = np.concatenate([np.stack([x, edge], 1), [(self.width + 2, bottom), (-2, bottom)]])
        self.area(name, points, paint, glow)

    def sky(self, horizon: float) -> None:
        """Draw the sky, down to the horizon in pixels."""
        self.horizon = horizon
        name = "night sky" if self.time == "night" else "sky"
        self.band(name, -1, horizon + 2, grounds.sky_paint(self.time, horizon, self.rng), glow=True)

    def now(self, name: str, x: float, y: float, size: float, shadow: bool = True, color: str | None = None) -> None:
        """Draw a thing that stands at (x, y), `size` pixels high."""
        size *= self.unit
        word = color or self.color(name)
        thing = self.canvas.begin(name, word)
        if shadow:
            reach = HALF_WIDTH.get(name, 0.4) * size * (0.6 if name in ("tree", "parasol", "fir") else 1.0)
            self.canvas.shadow(x, y - 1, reach * 1.1, max(3.0, 0.09 * size))
        flip = int(self.rng.choice([-1, 1]))
        PAINTERS[name](Brush(self.canvas, thing, x, y, size, flip), word, self.rng)

    def later(self, name: str, x: float, y: float, size: float, shadow: bool = True) -> None:
        """Draw a thing after everything farther away."""
        self.waiting.append((y, lambda: self.now(name, x, y, size, shadow)))

    def flush(self) -> None:
        """Draw what waits, the farthest first."""
        for _, step in sorted(self.waiting, key=lambda entry: entry[0]):
            step()
        self.waiting.clear()

    def places(self, count: int, margin: float = 0.08) -> list[float]:
        """Choose `count` x positions, spaced apart, in random order."""
        if count == 0:
            return []
        cells = (np.arange(count) + self.rng.uniform(0.25, 0.75, count)) / count
        return [float(x) for x in self.rng.permutation((margin + (1 - 2 * margin) * cells) * self.width)]

    def some(self, names: dict[str, float], count: int) -> list[str]:
        """Draw names at random by their weights."""
        weights = np.array(list(names.values()))
        return [str(n) for n in self.rng.choice(list(names), count, p=weights / weights.sum())]

    def scatter(self, kinds: dict[str, tuple[float, float, float]], count: int, top: float, bottom: float) -> None:
        """Put things somewhere between two heights.

        Args:
            kinds: how often a thing occurs, and its lowest and highest size, by name.
            count: number of things.
            top: smallest y coordinate of their feet, in pixels.
            bottom: largest one.
        """
        names = self.some({name: weight for name, (weight, _, _) in kinds.items()}, count)
        for name, x in zip(names, self.places(count), strict=True):
            y = float(self.rng.uniform(top, bottom))
            self.later(name, x, y, self.rng.uniform(*kinds[name][1:]))

    def in_the_air(self, most: int, low: float = 0.8) -> None:
        """Draw sun or moon, clouds, birds and balloons above the horizon."""
        rng = self.rng
        count = int(rng.integers(1, most + 1))
        spots = self.places(count, 0.12)
        names = []
        if self.time == "night":
            names = ["moon", *self.some({"cloud": 1, "balloon": 1, "bird": 0.6}, count)]
        else:
            names = self.some({"cloud": 1.2, "balloon": 0.8, "bird": 1.0}, count)
            if self.time != "grey" and rng.random() < 0.7:
                names = ["sun", *names]
        for name, x in zip(names, spots, strict=False):
            size = {"sun": (64, 92), "moon": (54, 80), "cloud": (52, 86), "balloon": (96, 140), "bird": (40, 58)}[name]
            tall = rng.uniform(*size)
            room = max(self.horizon * low - tall * self.unit, 4)
            if name in ("sun", "moon"):
                tall_px = tall * self.unit
                self.now(
                    name, x, float(rng.uniform(0.6 * tall_px, max(0.62 * tall_px, self.horizon * 0.62))), tall, False
                )
            else:
                self.now(name, x, float(rng.uniform(0.05, 1.0)) * room + tall * self.unit, tall, False)

    def pond(self, x: float, y: float, rx: float, ry: float) -> None:
        """Draw still water with leaves; `rx` and `ry` are its radii in pixels."""
        edge = ellipse(x, y, rx, ry, corners=14) + self.rng.uniform(-0.06, 0.06, (14, 2)) * (rx, ry)
        thing = self.area(
            "pond",
            smooth(ellipse(x, y, rx * 1.05, ry * 1.1, corners=14)),
            lambda x, y: np.full((*x.shape, 3), (150, 138, 112), np.float32),
        )
        self.canvas.fill(smooth(edge), grounds.pond_paint(self.rng), thing)
        for _ in range(int(self.rng.integers(5, 9))):
            t, q = self.rng.uniform(0, 2 * np.pi), self.rng.uniform(0.1, 0.82)
            px, py, r = x + q * rx * np.cos(t), y + q * ry * np.sin(t), rx * self.rng.uniform(0.08, 0.13)
            self.canvas.fill(ellipse(px, py, r, r * 0.5), (120, 190, 80), thing)
            if self.rng.random() < 0.5:
                self.canvas.fill(ellipse(px, py - r * 0.2, r * 0.4, r * 0.3), (246, 190, 215), thing)

    def road(self, top: float, bottom: float, pavement: bool = True) -> None:
        """Draw asphalt with a broken line, and a pavement at its edges."""
        self.band("road", top, bottom, grounds.asphalt_paint(self.rng))
        thing = len(self.canvas.things) - 1
        thick = (bottom - top) * 0.07
        if pavement:
            for y in (top, bottom - thick):
                self.canvas.fill(
                    np.array([(-2, y), (self.width + 2, y), (self.width + 2, y + thick), (-2, y + thick)]),
                    (176, 172, 166),
                    thing,
                )
        middle, step = (top + bottom) / 2, 52 * self.unit
        x = -self.rng.uniform(0, step)
        while x < self.width:
            self.canvas.fill(
                np.array(
                    [
                        (x, middle - thick / 2),
                        (x + step * 0.55, middle - thick / 2),
                        (x + step * 0.5, middle + thick / 2),
                        (x - step * 0.05, middle + thick / 2),
                    ]
                ),
                (236, 234, 226),
                thing,
            )
            x += step

    def wall(self, top: float, bottom: float, kind: str) -> None:
        """Draw a "brick wall" or "wooden wall" across the picture."""
        paint = grounds.brick_paint(self.rng) if kind == "brick wall" else grounds.planks_paint(self.rng)
        self.band(kind, top, bottom, paint)
        self.canvas.fill(
            np.array([(-2, top), (self.width + 2, top), (self.width + 2, top + 5), (-2, top + 5)]),
            (120, 108, 98),
            len(self.canvas.things) - 1,
        )

    def fence(self, left: float, right: float, y: float, height: float) -> None:
        """Draw a picket fence; the height is a thing's, not in pixels."""
        word = self.color("fence")
        fence_row(self.canvas, self.canvas.begin("fence", word), left, right, y, height * self.unit, word, self.rng)
