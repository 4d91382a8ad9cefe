"""Scenes of the drawn town: streets, beaches, gardens, mountains, parks and bird's-eye views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from itaclip.common.demo import grounds
from itaclip.common.demo.canvas import Generator, smooth
from itaclip.common.demo.stage import Stage
from itaclip.common.demo.world import CLASSES

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
        """List the ids of the classes with a share of at least `SMALLEST_SHARE`, sorted."""
        counts = np.bincount(self.labels.ravel(), minlength=CLASSES)
        return [int(c) for c in np.flatnonzero(counts >= SMALLEST_SHARE * self.labels.size)]


def street(s: Stage) -> None:
    """Draw houses or a wall behind a road with traffic and people."""
    rng, h = s.rng, s.height
    s.sky(h * rng.uniform(0.44, 0.54))
    s.in_the_air(2, 0.7)
    s.band("grass", s.horizon, h, grounds.grass_paint(s.horizon, rng))
    top = h * rng.uniform(0.62, 0.7)
    if rng.random() < 0.3:
        s.wall(s.horizon - h * rng.uniform(0.0, 0.1), top - 4, str(rng.choice(["brick wall", "wooden wall"])))
        behind = {"tree": 1.0, "person": 1.0, "background": 0.8, "flower": 0.5}
    else:
        behind = {"house": 2.2, "tree": 1.0, "fir": 0.5, "background": 0.4, "fence": 0.6}
    names = s.some(behind, int(rng.integers(2, 4)))
    for name, x in zip(names, s.places(len(names), 0.04), strict=True):
        if name == "fence":
            s.fence(x - 70 * s.unit, x + 70 * s.unit, top - 3, rng.uniform(46, 62))
        else:
            size = {"house": (118, 150), "tree": (120, 160), "fir": (120, 160), "person": (84, 100),
                    "background": (56, 76), "flower": (62, 76)}[name]  # fmt: skip
            s.later(name, x, top - rng.uniform(2, 12), rng.uniform(*size))
    s.flush()
    s.road(top, h * rng.uniform(0.93, 1.02))
    s.scatter(
        {
            "car": (1.5, 54, 68), "bus": (1.1, 82, 104), "person": (0.9, 112, 142), "dog": (0.7, 58, 74),
            "cat": (0.5, 64, 82), "background": (0.8, 58, 76),
        },
        int(rng.integers(2, 4)), top + 0.25 * (h - top), h - 8,
    )  # fmt: skip


def seaside(s: Stage) -> None:
    """Draw sand in front of the sea."""
    rng, h = s.rng, s.height
    s.sky(h * rng.uniform(0.34, 0.46))
    if rng.random() < 0.25:
        grounds.mountains(s.canvas, s.horizon + 1, h * rng.uniform(0.16, 0.26), rng)
    s.in_the_air(3)
    shore = h * rng.uniform(0.6, 0.74)
    s.band("sea", s.horizon, shore + 20, grounds.sea_paint(s.horizon, rng))
    for x in s.places(int(rng.integers(1, 3)), 0.1):
        y = float(rng.uniform(s.horizon + 0.35 * (shore - s.horizon), shore - 6))
        s.later("boat", x, y, rng.uniform(84, 125), False)
    s.flush()
    s.band("sand", shore, h + 2, grounds.sand_paint(s.horizon, rng), wavy=22)
    s.scatter(
        {
            "parasol": (1.6, 96, 130), "person": (1.0, 106, 138), "dog": (0.7, 60, 78), "bird": (0.7, 50, 64),
            "cat": (0.3, 62, 80), "background": (0.8, 52, 68),
        },
        int(rng.integers(1, 4)), shore + 0.35 * (h - shore), h - 8,
    )  # fmt: skip


def garden(s: Stage) -> None:
    """Draw a lawn with flowers and pets in front of a fence, a wall or a house."""
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
        s.fence(-5, s.width + 5, foot + 8, rng.uniform(56, 80))
    elif back < 0.75:
        s.wall(foot - h * rng.uniform(0.22, 0.34), foot + 8, str(rng.choice(["brick wall", "wooden wall"])))
    if rng.random() < 0.3:
        s.pond(
            s.width * rng.uniform(0.25, 0.75), h * rng.uniform(0.72, 0.82), s.width * rng.uniform(0.2, 0.3), h * 0.11
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


def highland(s: Stage) -> None:
    """Draw mountains above snow or meadows with firs and a cottage."""
    rng, h = s.rng, s.height
    s.sky(h * rng.uniform(0.46, 0.58))
    s.in_the_air(2, 0.6)
    grounds.mountains(s.canvas, s.horizon + 2, h * rng.uniform(0.26, 0.4), rng)
    if rng.random() < 0.65:
        s.band("snow", s.horizon, h, grounds.snow_paint(rng), wavy=12)
    else:
        s.band("grass", s.horizon, h, grounds.grass_paint(s.horizon, rng), wavy=12)
    if rng.random() < 0.25:
        s.pond(s.width * rng.uniform(0.25, 0.75), h * 0.8, s.width * 0.26, h * 0.11)
    s.scatter(
        {
            "fir": (2.6, 110, 165), "house": (1.0, 104, 130), "person": (0.7, 96, 130), "dog": (0.5, 58, 76),
            "car": (0.4, 50, 62), "cat": (0.3, 62, 80), "bus": (0.2, 76, 90), "background": (0.6, 54, 70),
        },
        int(rng.integers(3, 6)), s.horizon + 0.25 * (h - s.horizon), h - 6,
    )  # fmt: skip


def park(s: Stage) -> None:
    """Draw a pond in the grass with trees around it."""
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
    s.pond(
        s.width * rng.uniform(0.35, 0.65),
        h * rng.uniform(0.66, 0.76),
        s.width * rng.uniform(0.3, 0.44),
        h * rng.uniform(0.12, 0.17),
    )
    s.scatter(
        {
            "person": (1.0, 112, 140), "dog": (1.0, 66, 86), "bird": (1.2, 52, 68), "flower": (0.8, 72, 96),
            "cat": (0.5, 70, 90), "parasol": (0.4, 106, 130),
        },
        int(rng.integers(1, 4)), h * 0.86, h - 5,
    )  # fmt: skip


def from_above(s: Stage) -> None:
    """Draw a bird's-eye view without a horizon: fields, a road, water, small houses and trees."""
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
            np.array([(-60, side), (w * 0.3, side + tilt * 0.5), (w * 0.7, side - tilt), (w + 60, side),
                      (w + 60, h + 80), (-60, h + 80)])
        )  # fmt: skip
        s.area("sea", edge, grounds.sea_paint(s.horizon + h * 0.6, rng))
        s.later("boat", w * rng.uniform(0.2, 0.8), h - 8, rng.uniform(70, 90), False)
        bottom = 0.58 * h
    else:
        s.pond(w * rng.uniform(0.2, 0.8), h * rng.uniform(0.75, 0.85), w * 0.22, h * 0.13)
        bottom = 0.9 * h
    middle, half = h * rng.uniform(0.36, 0.46), 26 * s.unit
    s.road(middle - half, middle + half, pavement=rng.random() < 0.5)
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


def close_up(s: Stage) -> None:
    """Draw a few large things in front of a wall or a fence."""
    rng, h = s.rng, s.height
    foot = h * rng.uniform(0.66, 0.78)
    s.horizon = foot
    kind = str(rng.choice(["brick wall", "wooden wall", "fence"]))
    if kind == "fence":
        s.sky(h * 0.5)
        s.band("grass", s.horizon, h, grounds.grass_paint(s.horizon, rng))
        s.fence(-5, s.width + 5, foot, rng.uniform(130, 160))
        s.horizon = foot
    else:
        s.wall(-6, foot + 2, kind)
    ground = str(rng.choice(["grass", "road", "snow", "sand"]))
    if ground == "road":
        s.road(foot, h * 1.1)
    else:
        paint = {
            "grass": lambda: grounds.grass_paint(foot - 60, rng),
            "snow": lambda: grounds.snow_paint(rng),
            "sand": lambda: grounds.sand_paint(foot - 60, rng),
        }[ground]()
        s.band(ground, foot, h + 2, paint)
    s.scatter(
        {
            "cat": (1.3, 96, 140), "dog": (1.2, 90, 125), "flower": (1.2, 110, 150), "person": (1.0, 160, 205),
            "car": (0.9, 72, 88), "bus": (0.6, 110, 135), "bird": (0.9, 70, 96), "background": (1.0, 80, 120),
            "parasol": (0.5, 150, 180),
        },
        int(rng.integers(2, 4)), foot + 0.3 * (h - foot), h - 6,
    )  # fmt: skip


SETTINGS: dict[str, tuple[Callable[[Stage], None], float]] = {
    "street": (street, 0.22),
    "seaside": (seaside, 0.18),
    "garden": (garden, 0.2),
    "highland": (highland, 0.14),
    "park": (park, 0.1),
    "from above": (from_above, 0.08),
    "close-up": (close_up, 0.08),
}


def random_shape(rng: Generator) -> tuple[int, int]:
    """Draw a random height and width of an image, 256 to 384 pixels each, mostly landscape."""
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
    s = Stage(shape, rng, unseen)
    SETTINGS[chosen][0](s)
    return scene_of(s)


def scene_of(s: Stage) -> Scene:
    """Finish what is drawn on a stage."""
    s.flush()
    image, owner = s.canvas.finish()
    things = tuple(s.canvas.things)
    labels = np.array([class_id for class_id, _ in things], np.uint8)[owner]
    return Scene(image, labels, owner, things, s.time == "night")
