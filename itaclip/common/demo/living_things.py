"""Painters for plants, animals and people."""

from __future__ import annotations

import numpy as np

from itaclip.common.demo.canvas import Brush, Generator, Plane
from itaclip.common.demo.colors import darker, tint


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


def bird(b: Brush, word: str | None, rng: Generator) -> None:
    paint = tint(word, rng)
    wing = darker(paint, 0.78)
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
    stripe = darker(paint, 0.68)
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
    dark = darker(paint, 0.55) if word != "black" else np.array((120, 84, 60), np.float32)
    stride = rng.uniform(-0.06, 0.1)
    for x, k in ((-0.48, -1), (0.3, 1)):
        b.stroke((x, 0.45), (x + k * stride - 0.02, 0.0), 0.12, darker(paint, 0.8))
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
            [(s * 0.1, 0.76), (s * 0.16, 0.74), (s * (0.2 + arm), 0.48), (s * (0.14 + arm), 0.46)], darker(shirt, 0.86)
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
