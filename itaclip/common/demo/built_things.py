"""Painters for houses, vehicles and other things that people made."""

from __future__ import annotations

import numpy as np

from itaclip.common.demo.canvas import Brush, Canvas, Generator
from itaclip.common.demo.colors import darker, tint


def _window(b: Brush, left: float, low: float, right: float, high: float, lit: bool) -> None:
    b.box(left - 0.012, low - 0.012, right + 0.012, high + 0.012, (250, 248, 240))
    b.box(left, low, right, high, (255, 226, 140) if lit else (92, 140, 178), glow=lit)
    middle = (left + right) / 2
    b.box(middle - 0.006, low, middle + 0.006, high, (250, 248, 240))


def house(b: Brush, word: str | None, rng: Generator) -> None:
    wall, roof = tint(word, rng, 0.05), tint(str(rng.choice(["brown", "grey", "red", "black"])), rng, 0.2)
    lit = bool(b.canvas.light[0] < 0.8)
    w, low = rng.uniform(0.42, 0.62), rng.uniform(0.5, 0.62)
    if rng.random() < 0.6:
        x = rng.choice([-0.6, 0.45]) * w
        b.box(x, low, x + 0.1, 1.0, darker((170, 90, 70), 0.9))
    b.box(-w, 0, w, low, wall)
    if rng.random() < 0.6:  # gable to the front
        b.shape([(-w - 0.07, low - 0.02), (w + 0.07, low - 0.02), (0, 0.98)], roof)
        b.shape([(-w + 0.08, low), (w - 0.08, low), (0, 0.88)], wall)
        b.disc(0, low + 0.1, 0.06, 0.06, (255, 226, 140) if lit else (92, 140, 178), glow=lit)
    else:
        b.shape([(-w - 0.08, low - 0.02), (w + 0.08, low - 0.02), (w - 0.12, 0.92), (-w + 0.12, 0.92)], roof)
        for k in range(1, 5):
            y = low + k * (0.92 - low) / 5
            b.box(-w + 0.04 * k, y, w - 0.04 * k, y + 0.008, darker(roof, 0.75))
    door = rng.uniform(-0.12, 0.12)
    b.box(door - 0.07, 0, door + 0.07, 0.3, tint(str(rng.choice(["brown", "green", "blue", "red"])), rng))
    b.disc(door + 0.045, 0.14, 0.012, 0.012, (240, 210, 90))
    for x in (-w + 0.13, w - 0.13):
        _window(b, x - 0.065, 0.2, x + 0.065, 0.37, lit)


def _wheel(b: Brush, x: float, r: float) -> None:
    b.disc(x, r, r, r, (32, 32, 36))
    b.disc(x, r, r * 0.5, r * 0.5, (175, 178, 184))


def car(b: Brush, word: str | None, rng: Generator) -> None:
    paint, glass = tint(word, rng), (150, 195, 215)
    kind = rng.integers(3)
    b.shape([(-1.05, 0.16), (1.05, 0.16), (1.1, 0.5), (0.98, 0.6), (-0.98, 0.62), (-1.1, 0.48)], paint, 1)
    if kind == 0:  # saloon
        roof = [(-0.72, 0.56), (-0.46, 0.98), (0.34, 0.98), (0.68, 0.56)]
    elif kind == 1:  # estate
        roof = [(-1.0, 0.56), (-0.92, 0.98), (0.3, 0.98), (0.66, 0.56)]
    else:  # beetle
        roof = [(-0.85, 0.5), (-0.62, 0.92), (-0.2, 1.05), (0.2, 1.02), (0.5, 0.85), (0.72, 0.5)]
    b.shape(roof, paint, 1)
    shrunk = [(x * 0.84 - 0.02, 0.585 + (y - 0.56) * 0.8) for x, y in roof]
    b.shape(shrunk, glass, 1)
    b.box(-0.1, 0.56, -0.02, 0.95, paint)
    b.box(-1.08, 0.34, 1.08, 0.39, darker(paint, 0.75))
    b.disc(1.0, 0.46, 0.07, 0.07, (255, 244, 190), glow=True)
    b.disc(-1.03, 0.46, 0.05, 0.07, (225, 50, 40), glow=True)
    for x in (-0.62, 0.62):
        _wheel(b, x, 0.2)


def bus(b: Brush, word: str | None, rng: Generator) -> None:
    paint = tint(word, rng)
    lit = bool(b.canvas.light[0] < 0.8)
    b.shape([(-1.25, 0.1), (1.25, 0.1), (1.25, 0.95), (1.17, 1.0), (-1.17, 1.0), (-1.25, 0.95)], paint)
    b.box(-1.25, 0.34, 1.25, 0.42, (245, 243, 238))
    panes = int(rng.integers(5, 7))
    step = 2.0 / panes
    for k in range(panes):
        left = -1.18 + k * step
        b.box(left, 0.5, left + step * 0.82, 0.84, (255, 230, 150) if lit else (70, 105, 135), glow=lit)
    b.box(0.92, 0.14, 1.14, 0.84, (95, 135, 160))
    b.box(1.02, 0.14, 1.04, 0.84, (245, 243, 238))
    b.box(-0.6, 0.88, 0.6, 0.96, (38, 38, 42))
    for x in (-0.8, 0.72):
        _wheel(b, x, 0.15)


def boat(b: Brush, word: str | None, rng: Generator) -> None:
    paint = tint(word, rng)
    b.box(-0.015, 0.2, 0.015, 1.0, (120, 84, 52))
    cloth = (247, 245, 236)
    b.shape([(0.04, 0.26), (0.46, 0.28), (0.04, 0.96)], cloth)
    b.shape([(-0.04, 0.28), (-0.36, 0.3), (-0.04, 0.84)], np.array(cloth) * 0.92)
    if rng.random() < 0.5:
        b.shape([(0.04, 0.5), (0.305, 0.51), (0.23, 0.63), (0.04, 0.63)], paint)
    b.shape([(-0.52, 0.24), (0.56, 0.24), (0.4, 0.02), (-0.4, 0.02)], paint)
    b.box(-0.5, 0.19, 0.53, 0.235, (245, 243, 238))


def fence_row(
    canvas: Canvas, thing: int, left: float, right: float, y: float, height: float, word: str | None, rng: Generator
) -> None:
    """Draw pointed pales with two rails between two positions on the ground."""
    paint = tint(word, rng)
    step = height * rng.uniform(0.24, 0.3)
    for share in (0.25, 0.68):
        rail = y - share * height
        canvas.fill(
            np.array([(left, rail), (right, rail), (right, rail - 0.1 * height), (left, rail - 0.1 * height)]),
            darker(paint, 0.75),
            thing,
        )
    x = left
    while x < right:
        w, top = 0.8 * step, y - height * rng.uniform(0.97, 1.0)
        canvas.fill(
            np.array([(x, y), (x + w, y), (x + w, top + 0.14 * height), (x + w / 2, top), (x, top + 0.14 * height)]),
            paint * rng.uniform(0.93, 1.05),
            thing,
            shade=0.1,
        )
        x += step


def parasol(b: Brush, word: str | None, rng: Generator) -> None:
    paint, other = tint(word, rng), np.array((248, 245, 238), np.float32)
    b.box(-0.022, 0, 0.022, 0.95, (225, 215, 200))
    lift = np.linspace(0, np.pi / 2, 9)
    seams = [
        np.stack([0.72 * u * np.cos(lift), 0.58 + 0.42 * np.sin(lift)], 1) for u in np.cos(np.linspace(np.pi, 0, 8))
    ]
    for k in range(7):
        b.shape(np.concatenate([seams[k], seams[k + 1][::-1]]), other if k % 2 else paint, shade=0.08)
    b.disc(0, 1.0, 0.03, 0.03, paint)


def balloon(b: Brush, word: str | None, rng: Generator) -> None:
    paint, other = tint(word, rng), tint(str(rng.choice(["white", "yellow", "white"])), rng, 0.04)
    for s in (-1, 1):
        b.stroke((s * 0.15, 0.34), (s * 0.07, 0.14), 0.012, (90, 70, 50))
    b.box(-0.085, 0.0, 0.085, 0.14, (140, 96, 56))
    b.box(-0.09, 0.12, 0.09, 0.15, (100, 66, 40))
    t = np.linspace(-0.5 * np.pi, 1.5 * np.pi, 40)
    x = 0.37 * np.cos(t)
    y = 0.64 + 0.36 * np.sin(t)
    low = y < 0.55
    x = np.where(low, x * (0.4 + 0.6 * np.clip((y - 0.28) / 0.27, 0, 1) ** 0.7), x)
    b.shape(np.stack([x, y], 1), paint)
    kind = rng.integers(3)
    if kind == 0:
        for k in (-0.62, 0.0, 0.62):
            b.shape(
                np.stack(
                    [
                        x * 0.2
                        + k
                        * 0.8
                        * np.abs(np.sqrt(np.clip(1 - ((y - 0.64) / 0.36) ** 2, 0, 1)))
                        * 0.37
                        * 1.1
                        * np.where(low, np.clip((y - 0.2) / 0.35, 0.4, 1), 1),
                        y,
                    ],
                    1,
                ),
                other,
            )
    elif kind == 1:
        b.shape([(-0.36, 0.58), (0.36, 0.58), (0.37, 0.7), (-0.37, 0.7)], other)


def clutter(b: Brush, word: str | None, rng: Generator) -> None:
    """Add objects of the background class: a cardboard box, or an empty board on two posts."""
    if rng.random() < 0.6:
        paint = np.array((196, 156, 108)) * rng.uniform(0.85, 1.08)
        b.box(-0.5, 0, 0.3, 0.8, paint, shade=0.08)
        b.shape([(0.3, 0), (0.58, 0.14), (0.58, 0.9), (0.3, 0.8)], paint * 0.72)
        b.shape([(-0.5, 0.8), (0.3, 0.8), (0.58, 0.9), (-0.2, 0.92)], paint * 1.12)
        b.box(-0.15, 0, -0.05, 0.8, paint * 1.14)
    else:
        board = np.array((222, 218, 222)) * rng.uniform(0.88, 1.05)
        for x in (-0.4, 0.34):
            b.box(x, 0, x + 0.07, 0.4, (88, 86, 90))
        b.box(-0.66, 0.32, 0.66, 1.0, (80, 78, 84))
        b.box(-0.61, 0.365, 0.61, 0.955, board, shade=0.06)
