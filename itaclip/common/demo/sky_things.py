"""Painters for sun, moon and clouds."""

from __future__ import annotations

import numpy as np

from itaclip.common.demo.canvas import Brush, Generator


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
