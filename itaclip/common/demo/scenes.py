"""Scenes of the drawn town: streets, beaches, gardens, mountains, parks and bird's-eye views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from itaclip.common.demo import grounds
from itaclip.common.demo.canvas import Brush, Canvas, Generator, Paint, ellipse, noise, smooth
from itaclip.common.demo.things import HALF_WIDTH, PAINTERS, fence_row
from itaclip.common.demo.world import CLASS_ID, CLASSES, KINDS

# A class with a smaller share of a scene does not count as part of it.
SMALLEST_SHARE = 0.01


@dataclass(frozen=True)
class Scene:
    """An image with its ground truth.

    Attributes:
        image: H x W x 3 uint8 RGB.
        labels: H x W uint8 class ids.
        owner: H x W uint8, the number of the thing at every pixel.
        things: class id and colour word of every thing.
        night: whether it shows the town at night.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    owner: NDArray[np.uint8]
    things: tuple[tuple[int, str | None], ...]
    night: bool

    def classes(self) -> list[int]:
        """The sorted ids of the classes with a share of at least `SMALLEST_SHARE`."""
        counts = np.bincount(self.labels.ravel(), minlength=CLASSES)
        return [int(c) for c in np.flatnonzero(counts >= SMALLEST_SHARE * self.labels.size)]


class _Set:
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
        kind = KINDS[CLASS_ID[name]]
        colors = [c for c in kind.colors if self.unseen or c != kind.unseen_color]
        return str(self.rng.choice(colors)) if colors else None

    def area(self, name: str, points: NDArray[np.floating], paint: Paint, glow: bool = False) -> int:
        thing = self.canvas.begin(name)
        self.canvas.fill(points, paint, thing, shade=0, glow=glow)
        return thing

    def band(self, name: str, top: float, bottom: float, paint: Paint, glow: bool = False, wavy: float = 0.0) -> None:
        x = np.linspace(-2, self.width + 2, 40)
        edge = top + wavy * (noise((2, 40), 9, self.rng)[0] - 0.5)
        points = np.concatenate([np.stack([x, edge], 1), [(self.width + 2, bottom), (-2, bottom)]])
        self.area(name, points, paint, glow)

    def sky(self, horizon: float) -> None:
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
        for _, step in sorted(self.waiting, key=lambda entry: entry[0]):
            step()
        self.waiting.clear()

    def places(self, count: int, margin: float = 0.08) -> list[float]:
        """`count` x positions, spaced apart, in random order."""
        if count == 0:
            return []
        cells = (np.arange(count) + self.rng.uniform(0.25, 0.75, count)) / count
        return [float(x) for x in self.rng.permutation((margin + (1 - 2 * margin) * cells) * self.width)]

    def some(self, names: dict[str, float], count: int) -> list[str]:
        weights = np.array(list(names.values()))
        return [str(n) for n in self.rng.choice(list(names), count, p=weights / weights.sum())]

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


def _pond(s: _Set, x: float, y: float, rx: float, ry: float) -> None:
    edge = ellipse(x, y, rx, ry, corners=14) + s.rng.uniform(-0.06, 0.06, (14, 2)) * (rx, ry)
    thing = s.area(
        "pond",
        smooth(ellipse(x, y, rx * 1.05, ry * 1.1, corners=14)),
        lambda x, y: np.full((*x.shape, 3), (150, 138, 112), np.float32),
    )
    s.canvas.fill(smooth(edge), grounds.pond_paint(s.rng), thing)
    for _ in range(int(s.rng.integers(5, 9))):
        t, q = s.rng.uniform(0, 2 * np.pi), s.rng.uniform(0.1, 0.82)
        px, py, r = x + q * rx * np.cos(t), y + q * ry * np.sin(t), rx * s.rng.uniform(0.08, 0.13)
        s.canvas.fill(ellipse(px, py, r, r * 0.5), (120, 190, 80), thing)
        if s.rng.random() < 0.5:
            s.canvas.fill(ellipse(px, py - r * 0.2, r * 0.4, r * 0.3), (246, 190, 215), thing)


def _road(s: _Set, top: float, bottom: float, pavement: bool = True) -> None:
    s.band("road", top, bottom, grounds.asphalt_paint(s.rng))
    thing = len(s.canvas.things) - 1
    thick = (bottom - top) * 0.07
    if pavement:
        for y in (top, bottom - thick):
            s.canvas.fill(
                np.array([(-2, y), (s.width + 2, y), (s.width + 2, y + thick), (-2, y + thick)]), (176, 172, 166), thing
            )
    middle, step = (top + bottom) / 2, 52 * s.unit
    x = -s.rng.uniform(0, step)
    while x < s.width:
        s.canvas.fill(
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


def _wall(s: _Set, top: float, bottom: float, kind: str) -> None:
    paint = grounds.brick_paint(s.rng) if kind == "brick wall" else grounds.planks_paint(s.rng)
    s.band(kind, top, bottom, paint)
    s.canvas.fill(
        np.array([(-2, top), (s.width + 2, top), (s.width + 2, top + 5), (-2, top + 5)]),
        (120, 108, 98),
        len(s.canvas.things) - 1,
    )


def _fence(s: _Set, left: float, right: float, y: float, height: float) -> None:
    word = s.color("fence")
    fence_row(s.canvas, s.canvas.begin("fence", word), left, right, y, height * s.unit, word, s.rng)


def street(s: _Set) -> None:
    """Houses or a wall behind a road with traffic and people."""
    rng, h = s.rng, s.height
    s.sky(h * rng.uniform(0.44, 0.54))
    s.in_the_air(2, 0.7)
    s.band("grass", s.horizon, h, grounds.grass_paint(s.horizon, rng))
    top = h * rng.uniform(0.62, 0.7)
    if rng.random() < 0.3:
        _wall(s, s.horizon - h * rng.uniform(0.0, 0.1), top - 4, str(rng.choice(["brick wall", "wooden wall"])))
        behind = {"tree": 1.0, "person": 1.0, "background": 0.8, "flower": 0.5}
    else:
        behind = {"house": 2.2, "tree": 1.0, "fir": 0.5, "background": 0.4, "fence": 0.6}
    names = s.some(behind, int(rng.integers(2, 4)))
    for name, x in zip(names, s.places(len(names), 0.04), strict=True):
        if name == "fence":
            _fence(s, x - 70 * s.unit, x + 70 * s.unit, top - 3, rng.uniform(46, 62))
        else:
            size = {
                "house": (118, 150),
                "tree": (120, 160),
                "fir": (120, 160),
                "person": (84, 100),
                "background": (56, 76),
                "flower": (62, 76),
            }[name]
            s.later(name, x, top - rng.uniform(2, 12), rng.uniform(*size))
    s.flush()
    _road(s, top, h * rng.uniform(0.93, 1.02))
    names = s.some(
        {"car": 1.5, "bus": 1.1, "person": 0.9, "dog": 0.7, "cat": 0.5, "background": 0.8}, int(rng.integers(2, 4))
    )
    for name, x in zip(names, s.places(len(names)), strict=True):
        size = {
            "car": (54, 68),
            "bus": (82, 104),
            "person": (112, 142),
            "dog": (58, 74),
            "cat": (64, 82),
            "background": (58, 76),
        }[name]
        s.later(name, x, float(rng.uniform(top + 0.25 * (h - top), h - 8)), rng.uniform(*size))


def seaside(s: _Set) -> None:
    """Sand in front of the sea."""
    rng, h = s.rng, s.height
    s.sky(h * rng.uniform(0.34, 0.46))
    if rng.random() < 0.25:
        grounds.mountains(s.canvas, s.horizon + 1, h * rng.uniform(0.16, 0.26), rng)
    s.in_the_air(3)
    shore = h * rng.uniform(0.6, 0.74)
    s.band("sea", s.horizon, shore + 20, grounds.sea_paint(s.horizon, rng))
    for x in s.places(int(rng.integers(1, 3)), 0.1):
        s.later(
            "boat",
            x,
            float(rng.uniform(s.horizon + 0.35 * (shore - s.horizon), shore - 6)),
            rng.uniform(84, 125),
            False,
        )
    s.flush()
    s.band("sand", shore, h + 2, grounds.sand_paint(s.horizon, rng), wavy=22)
    names = s.some(
        {"parasol": 1.6, "person": 1.0, "dog": 0.7, "bird": 0.7, "cat": 0.3, "background": 0.8}, int(rng.integers(1, 4))
    )
    for name, x in zip(names, s.places(len(names)), strict=True):
        size = {
            "parasol": (96, 130),
            "person": (106, 138),
            "dog": (60, 78),
            "bird": (50, 64),
            "cat": (62, 80),
            "background": (52, 68),
        }[name]
        s.later(name, x, float(rng.uniform(shore + 0.35 * (h - shore), h - 8)), rng.uniform(*size))


def garden(s: _Set) -> None:
    """A lawn with flowers and pets in front of a fence, a wall or a house."""
    rng, h = s.rng, s.height
    s.sky(h * rng.uniform(0.3, 0.46))
    s.in_the_air(2, 0.8)
    s.band("grass", s.horizon, h, grounds.grass_paint(s.horizon, rng))
    foot = s.horizon + h * rng.uniform(0.08, 0.18)
    names = s.some({"house": 1.3, "tree": 1.2, "fir": 0.7}, int(rng.integers(1, 3)))
    for name, x in zip(names, s.places(len(names)), strict=True):
        s.later(name, x, foot - 4, rng.uniform(120, 165))
    s.flush()
    back = rng.random()
    if back < 0.42:
        _fence(s, -5, s.width + 5, foot + 8, rng.uniform(56, 80))
    elif back < 0.75:
        _wall(s, foot - h * rng.uniform(0.22, 0.34), foot + 8, str(rng.choice(["brick wall", "wooden wall"])))
    if rng.random() < 0.3:
        _pond(
            s, s.width * rng.uniform(0.25, 0.75), h * rng.uniform(0.72, 0.82), s.width * rng.uniform(0.2, 0.3), h * 0.11
        )
    names = s.some(
        {"flower": 2.2, "cat": 1.2, "dog": 1.0, "person": 0.8, "bird": 0.8, "parasol": 0.3, "background": 0.9},
        int(rng.integers(3, 6)),
    )
    for name, x in zip(names, s.places(len(names)), strict=True):
        y = float(rng.uniform(foot + 0.4 * (h - foot), h - 6))
        if name == "flower":  # a small bed of one colour
            for _ in range(int(rng.integers(1, 4))):
                dx, dy = rng.uniform(-34, 34) * s.unit, rng.uniform(-10, 6)
                s.later(name, x + dx, min(y + dy, h - 3), rng.uniform(74, 104))
            continue
        size = {
            "cat": (72, 98),
            "dog": (68, 90),
            "person": (118, 150),
            "bird": (52, 68),
            "parasol": (110, 140),
            "background": (58, 80),
        }[name]
        s.later(name, x, y, rng.uniform(*size))


def highland(s: _Set) -> None:
    """Mountains above snow or meadows with firs and a cottage."""
    rng, h = s.rng, s.height
    s.sky(h * rng.uniform(0.46, 0.58))
    s.in_the_air(2, 0.6)
    grounds.mountains(s.canvas, s.horizon + 2, h * rng.uniform(0.26, 0.4), rng)
    if rng.random() < 0.65:
        s.band("snow", s.horizon, h, grounds.snow_paint(rng), wavy=12)
    else:
        s.band("grass", s.horizon, h, grounds.grass_paint(s.horizon, rng), wavy=12)
    if rng.random() < 0.25:
        _pond(s, s.width * rng.uniform(0.25, 0.75), h * 0.8, s.width * 0.26, h * 0.11)
    names = s.some(
        {"fir": 2.6, "house": 1.0, "person": 0.7, "dog": 0.5, "car": 0.4, "cat": 0.3, "bus": 0.2, "background": 0.6},
        int(rng.integers(3, 6)),
    )
    for name, x in zip(names, s.places(len(names)), strict=True):
        y = float(rng.uniform(s.horizon + 0.25 * (h - s.horizon), h - 6))
        size = {
            "fir": (110, 165),
            "house": (104, 130),
            "person": (96, 130),
            "dog": (58, 76),
            "car": (50, 62),
            "cat": (62, 80),
            "bus": (76, 90),
            "background": (54, 70),
        }[name]
        s.later(name, x, y, rng.uniform(*size))


def park(s: _Set) -> None:
    """A pond in the grass with trees around it."""
    rng, h = s.rng, s.height
    s.sky(h * rng.uniform(0.34, 0.46))
    s.in_the_air(3, 0.8)
    if rng.random() < 0.3:
        grounds.mountains(s.canvas, s.horizon + 2, h * rng.uniform(0.14, 0.24), rng)
    s.band("grass", s.horizon, h, grounds.grass_paint(s.horizon, rng))
    names = s.some({"tree": 2.4, "fir": 1.0, "house": 0.6}, int(rng.integers(2, 4)))
    for name, x in zip(names, s.places(len(names), 0.02), strict=True):
        s.later(name, x, s.horizon + h * rng.uniform(0.05, 0.12), rng.uniform(110, 150))
    s.flush()
    _pond(
        s,
        s.width * rng.uniform(0.35, 0.65),
        h * rng.uniform(0.66, 0.76),
        s.width * rng.uniform(0.3, 0.44),
        h * rng.uniform(0.12, 0.17),
    )
    names = s.some(
        {"person": 1.0, "dog": 1.0, "bird": 1.2, "flower": 0.8, "cat": 0.5, "parasol": 0.4}, int(rng.integers(1, 4))
    )
    for name, x in zip(names, s.places(len(names)), strict=True):
        size = {
            "cat": (70, 90),
            "dog": (66, 86),
            "person": (112, 140),
            "bird": (52, 68),
            "parasol": (106, 130),
            "flower": (72, 96),
        }[name]
        s.later(name, x, float(rng.uniform(h * 0.86, h - 5)), rng.uniform(*size))


def from_above(s: _Set) -> None:
    """A bird's-eye view without a horizon: fields, a road, water, small houses and trees."""
    rng, h, w = s.rng, s.height, s.width
    s.horizon = -h * 1.2
    base = str(rng.choice(["grass", "sand", "snow", "grass"]))
    paint = {
        "grass": lambda: grounds.grass_paint(-9.0, rng),
        "sand": lambda: grounds.sand_paint(s.horizon, rng),
        "snow": lambda: grounds.snow_paint(rng),
    }[base]()
    s.band(base, -1, h + 1, paint)
    tilt = rng.uniform(-0.25, 0.25) * h
    if rng.random() < 0.55:
        side = rng.uniform(0.6, 0.75) * h
        edge = smooth(
            np.array(
                [
                    (-60, side),
                    (w * 0.3, side + tilt * 0.5),
                    (w * 0.7, side - tilt),
                    (w + 60, side),
                    (w + 60, h + 80),
                    (-60, h + 80),
                ]
            )
        )
        s.area("sea", edge, grounds.sea_paint(s.horizon + h * 0.6, rng))
        s.later("boat", w * rng.uniform(0.2, 0.8), h - 8, rng.uniform(70, 90), False)
        bottom = 0.58 * h
    else:
        _pond(s, w * rng.uniform(0.2, 0.8), h * rng.uniform(0.75, 0.85), w * 0.22, h * 0.13)
        bottom = 0.9 * h
    middle, half = h * rng.uniform(0.36, 0.46), 26 * s.unit
    _road(s, middle - half, middle + half, pavement=rng.random() < 0.5)
    for name, x in zip(s.some({"car": 1.4, "bus": 1.0}, 2), s.places(2), strict=True):
        s.later(
            name,
            x,
            middle + half * rng.uniform(0.2, 0.7),
            rng.uniform(40, 48) if name == "car" else rng.uniform(54, 64),
        )
    names = s.some({"house": 2.0, "tree": 1.4, "fir": 1.0, "background": 0.3}, int(rng.integers(3, 5)))
    for name, x in zip(names, s.places(len(names), 0.02), strict=True):
        low = rng.random() < 0.35
        y = float(
            rng.uniform(middle + half * 1.6, bottom + 0.06 * h)
            if low
            else rng.uniform(middle - half * 1.6, middle - half - 2)
        )
        s.later(
            name,
            x,
            y + (40 * s.unit if low else 0),
            rng.uniform(78, 100) if name != "background" else rng.uniform(46, 60),
        )


def close_up(s: _Set) -> None:
    """A few large things in front of a wall or a fence."""
    rng, h = s.rng, s.height
    foot = h * rng.uniform(0.66, 0.78)
    s.horizon = foot
    kind = str(rng.choice(["brick wall", "wooden wall", "fence"]))
    if kind == "fence":
        s.sky(h * 0.5)
        s.band("grass", s.horizon, h, grounds.grass_paint(s.horizon, rng))
        _fence(s, -5, s.width + 5, foot, rng.uniform(130, 160))
        s.horizon = foot
    else:
        _wall(s, -6, foot + 2, kind)
    ground = str(rng.choice(["grass", "road", "snow", "sand"]))
    if ground == "road":
        _road(s, foot, h * 1.1)
    else:
        paint = {
            "grass": lambda: grounds.grass_paint(foot - 60, rng),
            "snow": lambda: grounds.snow_paint(rng),
            "sand": lambda: grounds.sand_paint(foot - 60, rng),
        }[ground]()
        s.band(ground, foot, h + 2, paint)
    names = s.some(
        {
            "cat": 1.3,
            "dog": 1.2,
            "flower": 1.2,
            "person": 1.0,
            "car": 0.9,
            "bus": 0.6,
            "bird": 0.9,
            "background": 1.0,
            "parasol": 0.5,
        },
        int(rng.integers(2, 4)),
    )
    for name, x in zip(names, s.places(len(names)), strict=True):
        size = {
            "cat": (96, 140),
            "dog": (90, 125),
            "flower": (110, 150),
            "person": (160, 205),
            "car": (72, 88),
            "bus": (110, 135),
            "bird": (70, 96),
            "background": (80, 120),
            "parasol": (150, 180),
        }[name]
        s.later(name, x, float(rng.uniform(foot + 0.3 * (h - foot), h - 6)), rng.uniform(*size))


SETTINGS: dict[str, tuple[Callable[[_Set], None], float]] = {
    "street": (street, 0.22),
    "seaside": (seaside, 0.18),
    "garden": (garden, 0.2),
    "highland": (highland, 0.14),
    "park": (park, 0.1),
    "from above": (from_above, 0.08),
    "close-up": (close_up, 0.08),
}


def random_shape(rng: Generator) -> tuple[int, int]:
    """Random height and width of an image, 256 to 384 pixels each, mostly landscape."""
    short, long = int(rng.integers(256, 297)), int(rng.integers(320, 385))
    return (short, long) if rng.random() < 0.75 else (long, short)


def draw_scene(shape: tuple[int, int], rng: Generator, unseen: bool = True, setting: str | None = None) -> Scene:
    """Draw a scene.

    Args:
        shape: height and width in pixels.
        rng: the only source of randomness.
        unseen: whether things may have the colours excluded from training (`Kind.unseen_color`).
        setting: a key of `SETTINGS`; None for a random one.
    """
    names = list(SETTINGS)
    chosen = setting or str(rng.choice(names, p=[SETTINGS[name][1] for name in names]))
    s = _Set(shape, rng, unseen)
    SETTINGS[chosen][0](s)
    s.flush()
    image, owner = s.canvas.finish()
    things = tuple(s.canvas.things)
    labels = np.array([class_id for class_id, _ in things], np.uint8)[owner]
    return Scene(image, labels, owner, things, s.time == "night")
