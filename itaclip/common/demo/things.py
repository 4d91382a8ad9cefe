"""Painters for the thing classes of the town: houses, trees, vehicles, animals, people."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from itaclip.common.demo.canvas import Brush, Canvas, Color, Generator, Plane, ellipse
from itaclip.common.demo.world import COLORS

Painter: TypeAlias = Callable[[Brush, str | None, Generator], None]


def tint(word: str | None, rng: Generator, jitter: float = 0.1) -> Plane:
    """A random colour close to the named one, RGB in 0..255."""
    base = np.array(COLORS[word or "grey"], np.float32)
    return np.clip(base * rng.uniform(1 - jitter, 1 + jitter) + rng.uniform(-10, 10, 3), 8, 252).astype(np.float32)


def _dark(color: Color, factor: float = 0.6) -> Plane:
    return np.asarray(color, np.float32) * factor


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
        b.box(x, low, x + 0.1, 1.0, _dark((170, 90, 70), 0.9))
    b.box(-w, 0, w, low, wall)
    if rng.random() < 0.6:  # gable to the front
        b.shape([(-w - 0.07, low - 0.02), (w + 0.07, low - 0.02), (0, 0.98)], roof)
        b.shape([(-w + 0.08, low), (w - 0.08, low), (0, 0.88)], wall)
        b.disc(0, low + 0.1, 0.06, 0.06, (255, 226, 140) if lit else (92, 140, 178), glow=lit)
    else:
        b.shape([(-w - 0.08, low - 0.02), (w + 0.08, low - 0.02), (w - 0.12, 0.92), (-w + 0.12, 0.92)], roof)
        for k in range(1, 5):
            y = low + k * (0.92 - low) / 5
            b.box(-w + 0.04 * k, y, w - 0.04 * k, y + 0.008, _dark(roof, 0.75))
    door = rng.uniform(-0.12, 0.12)
    b.box(door - 0.07, 0, door + 0.07, 0.3, tint(str(rng.choice(["brown", "green", "blue", "red"])), rng))
    b.disc(door + 0.045, 0.14, 0.012, 0.012, (240, 210, 90))
    for x in (-w + 0.13, w - 0.13):
        _window(b, x - 0.065, 0.2, x + 0.065, 0.37, lit)


def tree(b: Brush, word: str | None, rng: Generator) -> None:
    bark = np.array((104, 72, 48)) * rng.uniform(0.8, 1.2)
    leaf = np.array((70, 140, 52)) * rng.uniform(0.8, 1.15) + rng.uniform(-12, 12, 3)
    b.shape([(-0.06, 0), (0.06, 0), (0.04, 0.5), (-0.04, 0.5)], bark)
    b.shape([(0.0, 0.3), (0.16, 0.5), (0.12, 0.52), (-0.02, 0.36)], bark)
    spread = rng.uniform(0.24, 0.32)
    for k in range(9):
        t = k / 9 * 2 * np.pi + rng.uniform(-0.2, 0.2)
        r = rng.uniform(0.15, 0.2)
        b.disc(spread * np.cos(t), 0.66 + 0.2 * np.sin(t), r, r * 0.9, leaf * rng.uniform(0.7, 0.9))
    for _ in range(16):
        t, q = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.9)
        r = rng.uniform(0.06, 0.12)
        x, y = spread * q * np.cos(t), 0.68 + 0.22 * q * np.sin(t)
        b.disc(x, y, r, r * 0.8, leaf * (0.9 + 0.5 * (y - 0.55)) * rng.uniform(0.88, 1.12))
    if rng.random() < 0.35:
        for _ in range(9):
            t, q = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 1)
            b.disc(spread * q * np.cos(t), 0.68 + 0.22 * q * np.sin(t), 0.024, 0.024, (215, 60, 45))


def fir(b: Brush, word: str | None, rng: Generator) -> None:
    needle = np.array((24, 84, 74)) * rng.uniform(0.85, 1.15)
    b.box(-0.035, 0, 0.035, 0.16, (88, 60, 42))
    tiers, width = int(rng.integers(4, 6)), rng.uniform(0.26, 0.36)
    snowy = rng.random() < 0.3
    for k in range(tiers):
        low = 0.1 + k * 0.86 / tiers
        half, high = width * (1 - k / (tiers + 0.4)), low + 1.45 * 0.86 / tiers
        high = 1.0 if k == tiers - 1 else high
        steps = np.linspace(-half, half, 9)
        teeth = [(x, low + (0.03 if j % 2 else 0) + 0.05 * abs(x) / half) for j, x in enumerate(steps)]
        b.shape([*teeth, (0, high)], needle * (0.8 + 0.1 * k))
        if snowy:
            b.shape(
                [(-0.55 * half, low + 0.45 * (high - low)), (0.55 * half, low + 0.45 * (high - low)), (0, high)],
                (238, 243, 250),
            )


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
    b.box(-1.08, 0.34, 1.08, 0.39, _dark(paint, 0.75))
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


def bird(b: Brush, word: str | None, rng: Generator) -> None:
    paint = tint(word, rng)
    wing = _dark(paint, 0.78)
    if rng.random() < 0.6:  # in the air
        up = rng.uniform(0.5, 0.7)
        b.shape([(-0.1, 0.4), (-0.42, 0.45 + up * 0.9), (-0.12, 0.4 + up), (0.2, 0.42)], wing, 1)
        b.shape([(-0.78, 0.3), (-0.85, 0.48), (-0.4, 0.42)], wing)
        b.shape([(-0.55, 0.36), (-0.1, 0.16), (0.35, 0.26), (0.55, 0.42), (0.2, 0.54), (-0.3, 0.5)], paint, 3)
        b.shape(
            [(-0.05, 0.46), (-0.62, 0.52 + up * 0.75), (-0.35, 0.45 + up * 0.95), (0.22, 0.44)],
            np.minimum(paint * 1.06, 250),
            1,
        )
        head = (0.55, 0.48)
    else:  # on the ground
        for x in (-0.05, 0.1):
            b.stroke((x, 0.0), (x, 0.25), 0.045, (230, 140, 40))
        b.shape([(-0.85, 0.3), (-0.8, 0.48), (-0.3, 0.5), (-0.3, 0.34)], wing)
        b.shape([(-0.5, 0.32), (-0.1, 0.14), (0.35, 0.26), (0.45, 0.6), (0.1, 0.62), (-0.35, 0.52)], paint, 3)
        b.shape([(-0.55, 0.38), (0.05, 0.26), (0.15, 0.5), (-0.2, 0.52)], wing, 2)
        head = (0.38, 0.68)
    b.disc(*head, 0.2, 0.19, paint)
    b.shape(
        [(head[0] + 0.15, head[1] + 0.08), (head[0] + 0.42, head[1]), (head[0] + 0.15, head[1] - 0.07)], (240, 150, 35)
    )
    b.disc(head[0] + 0.06, head[1] + 0.05, 0.045, 0.045, (245, 245, 240))
    b.disc(head[0] + 0.07, head[1] + 0.05, 0.026, 0.026, (20, 20, 24))


def _cat_head(b: Brush, x: float, y: float, r: float, paint: Plane, rng: Generator) -> None:
    for s in (-1, 1):
        b.shape(
            [(x + s * r * 0.95, y + r * 0.3), (x + s * r * 0.82, y + r * 1.5), (x + s * r * 0.15, y + r * 0.8)], paint
        )
        b.shape(
            [(x + s * r * 0.8, y + r * 0.6), (x + s * r * 0.76, y + r * 1.22), (x + s * r * 0.38, y + r * 0.82)],
            (235, 160, 160),
        )
    b.disc(x, y, r * 1.1, r * 0.92, paint)
    b.disc(x, y - 0.3 * r, r * 0.5, r * 0.38, (246, 240, 232))
    for s in (-1, 1):
        b.disc(x + s * r * 0.45, y + r * 0.16, r * 0.23, r * 0.26, (180, 215, 80))
        b.disc(x + s * r * 0.45, y + r * 0.16, r * 0.09, r * 0.24, (16, 16, 18))
        for k in (-0.08, 0.1):
            b.stroke(
                (x + s * r * 0.4, y - r * 0.3), (x + s * r * 1.35, y - r * (0.3 + k * 2)), r * 0.05, (245, 245, 245)
            )
    b.shape([(x - r * 0.13, y - r * 0.08), (x + r * 0.13, y - r * 0.08), (x, y - r * 0.26)], (225, 110, 120))


def cat(b: Brush, word: str | None, rng: Generator) -> None:
    paint = tint(word, rng)
    stripe = _dark(paint, 0.68)
    striped = word != "black" and rng.random() < 0.7
    if rng.random() < 0.6:  # sits and looks at you
        tail = [
            (0.22, 0.0),
            (0.55, 0.05),
            (0.62, 0.35),
            (0.48, 0.52),
            (0.44, 0.46),
            (0.52, 0.32),
            (0.44, 0.14),
            (0.2, 0.12),
        ]
        b.shape(tail, paint, 2)
        b.shape([(-0.34, 0.0), (0.34, 0.0), (0.36, 0.2), (0.2, 0.6), (-0.2, 0.6), (-0.36, 0.2)], paint, 2)
        if striped:
            for y in (0.2, 0.31, 0.42):
                for s in (-1, 1):
                    b.stroke((s * 0.3, y), (s * 0.14, y - 0.02), 0.035, stripe)
        b.disc(0, 0.28, 0.12, 0.2, (246, 240, 232))
        for s in (-1, 1):
            b.disc(s * 0.1, 0.04, 0.09, 0.05, (246, 240, 232))
        _cat_head(b, 0, 0.7, 0.215, paint, rng)
    else:  # lies
        b.shape([(-0.7, 0.12), (-1.0, 0.25), (-0.95, 0.6), (-0.86, 0.58), (-0.86, 0.3), (-0.55, 0.28)], paint, 2)
        b.shape([(-0.75, 0.0), (0.55, 0.0), (0.6, 0.3), (0.1, 0.55), (-0.5, 0.52), (-0.8, 0.25)], paint, 2)
        if striped:
            for x in (-0.5, -0.32, -0.14, 0.04):
                b.stroke((x, 0.46), (x - 0.04, 0.24), 0.05, stripe)
        b.disc(0.45, 0.06, 0.2, 0.07, (246, 240, 232))
        _cat_head(b, 0.5, 0.5, 0.26, paint, rng)


def dog(b: Brush, word: str | None, rng: Generator) -> None:
    paint = tint(word, rng)
    dark = _dark(paint, 0.55) if word != "black" else np.array((120, 84, 60), np.float32)
    stride = rng.uniform(-0.06, 0.1)
    for x, k in ((-0.48, -1), (0.3, 1)):
        b.stroke((x, 0.45), (x + k * stride - 0.02, 0.0), 0.12, _dark(paint, 0.8))
    b.shape([(-0.6, 0.55), (-0.85, 0.95), (-0.76, 1.0), (-0.5, 0.66)], paint, 1)
    b.shape([(-0.68, 0.36), (-0.2, 0.3), (0.42, 0.32), (0.52, 0.62), (0.3, 0.74), (-0.55, 0.7)], paint, 2)
    if rng.random() < 0.6:
        b.shape([(-0.35, 0.68), (-0.05, 0.69), (0.0, 0.48), (-0.28, 0.42)], dark, 2)
    for x, k in ((-0.58, 1), (0.4, -1)):
        b.stroke((x, 0.45), (x - k * stride, 0.02), 0.13, paint)
        b.disc(x - k * stride + 0.03, 0.03, 0.1, 0.045, paint)
    b.shape([(0.3, 0.6), (0.52, 0.5), (0.6, 0.8), (0.4, 0.88)], paint, 1)
    b.disc(0.56, 0.86, 0.23, 0.21, paint)
    b.shape([(0.62, 0.7), (1.0, 0.7), (1.02, 0.86), (0.7, 0.94)], np.minimum(paint * 1.1 + 12, 250), 2)
    b.disc(0.99, 0.84, 0.06, 0.055, (25, 24, 28))
    b.shape([(0.8, 0.7), (0.88, 0.7), (0.88, 0.58), (0.8, 0.58)], (225, 90, 100), 2)
    b.disc(0.65, 0.93, 0.04, 0.045, (22, 20, 22))
    b.shape([(0.36, 1.02), (0.52, 1.04), (0.5, 0.72), (0.4, 0.56), (0.3, 0.66)], dark, 2)
    b.stroke((0.36, 0.68), (0.5, 0.58), 0.05, (200, 40, 45))


def flower(b: Brush, word: str | None, rng: Generator) -> None:
    stem = np.array((62, 130, 48)) * rng.uniform(0.85, 1.1)
    b.stroke((0, 0), (0, 0.7), 0.05, stem)
    for s in (-1, 1):
        b.shape([(0, 0.08), (s * 0.24, 0.26), (s * 0.3, 0.4), (s * 0.08, 0.3)], stem * 1.1, 2)
    paint, n, turn = tint(word, rng), int(rng.integers(5, 9)), rng.uniform(0, 6)
    radius = rng.uniform(0.27, 0.33)
    for k in range(n):
        t = turn + k * 2 * np.pi / n
        b.disc(
            0.62 * radius * np.cos(t),
            0.7 + 0.62 * radius * np.sin(t),
            radius * 0.55,
            radius * (0.36 if n > 6 else 0.46),
            paint * rng.uniform(0.9, 1.06),
            turn=t,
        )
    b.disc(0, 0.7, radius * 0.32, radius * 0.32, (250, 200, 60) if word != "yellow" else (150, 90, 40))


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
            _dark(paint, 0.75),
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


def person(b: Brush, word: str | None, rng: Generator) -> None:
    skin = np.array([(240, 205, 175), (200, 150, 110), (120, 82, 58)][rng.integers(3)], np.float32)
    hair = np.array([(50, 38, 30), (130, 80, 40), (225, 190, 110), (90, 90, 95)][rng.integers(4)], np.float32)
    shirt = tint(word, rng)
    legs = np.array([(50, 60, 95), (70, 66, 62), (110, 90, 70)][rng.integers(3)], np.float32)
    skirt = rng.random() < 0.4
    spread = rng.uniform(0.03, 0.08)
    for s in (-1, 1):
        b.shape(
            [(s * 0.02, 0.44), (s * 0.12, 0.44), (s * (0.06 + spread), 0.03), (s * (spread - 0.02), 0.03)],
            skin if skirt else legs,
        )
        b.disc(s * (0.03 + spread) + 0.02, 0.02, 0.065, 0.025, (40, 36, 38))
    arm = rng.uniform(0.0, 0.16)
    for s in (-1, 1):
        b.shape(
            [(s * 0.1, 0.76), (s * 0.16, 0.74), (s * (0.2 + arm), 0.48), (s * (0.14 + arm), 0.46)], _dark(shirt, 0.86)
        )
        b.disc(s * (0.17 + arm), 0.46, 0.035, 0.04, skin)
    hem = [(-0.19, 0.3), (0.19, 0.3)] if skirt else [(-0.125, 0.4), (0.125, 0.4)]
    b.shape([*hem, (0.14, 0.76), (0.05, 0.8), (-0.05, 0.8), (-0.14, 0.76)], shirt)
    b.box(-0.035, 0.77, 0.035, 0.84, skin)
    if skirt:
        b.shape([(-0.12, 0.74), (0.12, 0.74), (0.13, 0.95), (0, 1.02), (-0.13, 0.95)], hair, 2)
    b.disc(0, 0.9, 0.085, 0.1, skin)
    b.shape([(-0.1, 0.9), (-0.1, 1.0), (0.1, 1.0), (0.1, 0.92), (0.04, 0.96)], hair, 1)
    for s in (-1, 1):
        b.disc(s * 0.033 + 0.01, 0.9, 0.012, 0.014, (30, 26, 26))


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


def sun(b: Brush, word: str | None, rng: Generator) -> None:
    color = np.array((255, 222, 70)) + rng.uniform(-8, 0, 3)
    if rng.random() < 0.6:
        n, turn = int(rng.integers(10, 15)), rng.uniform(0, 1)
        for k in range(n):
            t = turn + k * 2 * np.pi / n
            d, e = np.array((np.cos(t), np.sin(t))), np.array((-np.sin(t), np.cos(t)))
            b.shape(np.stack([d * 0.3 + e * 0.09, d * 0.3 - e * 0.09, d * 0.5]), (255, 190, 45), glow=True, shade=0)
    b.disc(0, 0, 0.36, 0.36, color, glow=True, shade=0.04)
    b.disc(0, 0, 0.28, 0.28, np.minimum(color + 18, 255), glow=True, shade=0.04)


def moon(b: Brush, word: str | None, rng: Generator) -> None:
    pale = np.array((236, 234, 214), np.float32)
    t = np.linspace(-np.pi / 2, np.pi / 2, 24)
    if rng.random() < 0.5:
        b.disc(0, 0, 0.5, 0.5, pale, glow=True)
        for _ in range(6):
            q, r = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.33)
            size = rng.uniform(0.05, 0.11)
            b.disc(r * np.cos(q), r * np.sin(q), size, size, pale * 0.84, glow=True)
    else:
        bend = rng.uniform(-0.1, 0.22)
        outer = np.stack([0.5 * np.cos(t), 0.5 * np.sin(t)], 1)
        inner = np.stack([bend * np.cos(t), 0.5 * np.sin(t)], 1)[::-1]
        b.shape(np.concatenate([outer, inner]), pale, glow=True)


def cloud(b: Brush, word: str | None, rng: Generator) -> None:
    white = np.array((250, 250, 252), np.float32) * rng.uniform(0.93, 1.0)
    lumps = int(rng.integers(4, 7))
    middle = (lumps - 1) / 2
    for low, factor in ((0.0, 0.86), (0.07, 1.0)):
        for k in range(lumps):
            tall = 0.45 - 0.2 * abs(k - middle) / middle + rng.uniform(-0.05, 0.05)
            b.disc((k - middle) * 0.38, 0.3 + low, 0.36, tall * 0.8, white * factor, shade=0.06)


def clutter(b: Brush, word: str | None, rng: Generator) -> None:
    """Objects of the background class: a cardboard box, or an empty board on two posts."""
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


PAINTERS: dict[str, Painter] = {
    "background": clutter,
    "house": house,
    "tree": tree,
    "fir": fir,
    "car": car,
    "bus": bus,
    "boat": boat,
    "bird": bird,
    "cat": cat,
    "dog": dog,
    "flower": flower,
    "person": person,
    "parasol": parasol,
    "balloon": balloon,
    "sun": sun,
    "moon": moon,
    "cloud": cloud,
}
HALF_WIDTH: dict[str, float] = {
    "car": 1.1,
    "bus": 1.25,
    "boat": 0.55,
    "house": 0.6,
    "tree": 0.48,
    "fir": 0.34,
    "bird": 0.8,
    "cat": 0.5,
    "dog": 0.9,
    "flower": 0.3,
    "person": 0.22,
    "parasol": 0.72,
    "balloon": 0.38,
    "cloud": 1.0,
    "background": 0.6,
}
"""Approximate half width of a thing in units of its height."""

__all__ = ["HALF_WIDTH", "PAINTERS", "ellipse", "fence_row", "tint"]
