"""Painters for the stuff classes of the town: sky, water, ground, walls and mountains."""

from __future__ import annotations

import numpy as np

from itaclip.common.demo.canvas import FINE, Canvas, Generator, Paint, Plane, noise


def _blend(a: Plane, b: Plane, weight: Plane) -> Plane:
    w = np.clip(weight, 0, 1)[..., None].astype(np.float32)
    return a * (1 - w) + b * w


def _rgb(*values: float) -> Plane:
    return np.array(values, np.float32)


def _depth(y: Plane, horizon: float) -> Plane:
    """Compute the logarithmic distance from the horizon; patterns that are uniform in it shrink towards the horizon."""
    return np.log1p(np.maximum(y - horizon, 0) / 14).astype(np.float32)


def sky_paint(time: str, horizon: float, rng: Generator) -> Paint:
    """Paint the sky down to the horizon; `time` is day, evening, grey or night."""
    top, low = {
        "day": (_rgb(70, 140, 225), _rgb(190, 222, 245)),
        "evening": (_rgb(110, 130, 195), _rgb(250, 190, 140)),
        "grey": (_rgb(140, 165, 195), _rgb(205, 215, 225)),
        "night": (_rgb(10, 14, 44), _rgb(38, 44, 96)),
    }[time]
    top, low = top + rng.uniform(-10, 10, 3).astype(np.float32), low + rng.uniform(-8, 5, 3).astype(np.float32)

    def paint(x: Plane, y: Plane) -> Plane:
        air = _blend(top, low, y / max(horizon, 1))
        if time != "night":
            return air + 5 * (noise(x.shape, 60 * FINE, rng)[..., None] - 0.5)
        for _ in range(int(x.size / FINE**2 / 170)):
            row, column = int(rng.integers(x.shape[0])), int(rng.integers(x.shape[1]))
            reach = int(rng.integers(1, 4))
            air[row : row + reach, column : column + reach] = rng.uniform(160, 255)
        return air

    return paint


def sea_paint(horizon: float, rng: Generator) -> Paint:
    def paint(x: Plane, y: Plane) -> Plane:
        d = _depth(y, horizon)
        bend = noise(x.shape, 26 * FINE, rng, 2, stretch=3)
        crest = 0.5 + 0.5 * np.sin(d * 34 + bend * 9 + 0.5 * np.sin(x / 17))
        water = _blend(_rgb(22, 78, 140), _rgb(44, 120, 180), bend)
        gaps = noise(x.shape, 9 * FINE, rng, stretch=3)
        return _blend(water, _rgb(215, 235, 245), (crest - 0.8) * 5 * (gaps > 0.5) * np.clip(d, 0.3, 1))

    return paint


def pond_paint(rng: Generator) -> Paint:
    def paint(x: Plane, y: Plane) -> Plane:
        glint = noise(x.shape, 5 * FINE, rng, stretch=8)
        return _blend(_rgb(40, 110, 100), _rgb(110, 175, 150), (glint - 0.45) * 2.2)

    return paint


def sand_paint(horizon: float, rng: Generator) -> Paint:
    def paint(x: Plane, y: Plane) -> Plane:
        ripple = 0.5 + 0.5 * np.sin(_depth(y, horizon) * 30 + 12 * noise(x.shape, 40 * FINE, rng))
        grain = rng.normal(0, 9, x.shape).astype(np.float32)
        return _blend(_rgb(214, 182, 122), _rgb(240, 216, 160), ripple) + grain[..., None]

    return paint


def grass_paint(horizon: float, rng: Generator) -> Paint:
    dark = _rgb(64, 128, 44) * rng.uniform(0.85, 1.1)

    def paint(x: Plane, y: Plane) -> Plane:
        fine, coarse = (noise(x.shape, c * FINE, rng, 2, stretch=0.5) for c in (1.5, 3.2))
        near = np.clip((y - horizon) / 120, 0, 1)
        blades = fine * (1 - near) + coarse * near
        patches = noise(x.shape, 30 * FINE, rng, stretch=2)
        return _blend(dark, _rgb(140, 195, 75), blades * 1.3 - 0.35 + 0.25 * patches)

    return paint


def snow_paint(rng: Generator) -> Paint:
    def paint(x: Plane, y: Plane) -> Plane:
        drift = noise(x.shape, 34 * FINE, rng, 2, stretch=3)
        sparkle = (rng.random(x.shape) > 0.996) * 25.0
        return _blend(_rgb(196, 212, 236), _rgb(250, 252, 255), drift * 1.6 - 0.2) + sparkle[..., None]

    return paint


def asphalt_paint(rng: Generator) -> Paint:
    base = rng.uniform(72, 96)

    def paint(x: Plane, y: Plane) -> Plane:
        grain = rng.normal(0, 6, x.shape) + 12 * (noise(x.shape, 30 * FINE, rng) - 0.5)
        return (_rgb(base, base, base + 5) + grain[..., None]).astype(np.float32)

    return paint


def brick_paint(rng: Generator) -> Paint:
    h = rng.uniform(10, 14)
    w, base = h * 2.3, _rgb(172, 78, 56) * rng.uniform(0.85, 1.1)
    tones = rng.uniform(0.75, 1.18, (64, 64)).astype(np.float32)

    def paint(x: Plane, y: Plane) -> Plane:
        row = np.floor(y / h)
        shifted = x + (row % 2) * w / 2
        column = np.floor(shifted / w)
        inside = np.minimum(y - row * h, shifted - column * w) - 1.8
        brick = base * tones[row.astype(int) % 64, column.astype(int) % 64][..., None]
        return _blend(_rgb(214, 204, 190), brick, inside * 1.5 + 0.5)

    return paint


def planks_paint(rng: Generator) -> Paint:
    h, base = rng.uniform(20, 28), _rgb(150, 100, 58) * rng.uniform(0.85, 1.15)
    tones = rng.uniform(0.82, 1.12, 64).astype(np.float32)

    def paint(x: Plane, y: Plane) -> Plane:
        row = np.floor(y / h).astype(int)
        grain = np.sin((y + 6 * noise(x.shape, 14 * FINE, rng, 2, stretch=5)) * 1.1 + row * 7)
        gap = np.clip((y - row * h) / 2.2 - 0.3, 0, 1)
        return base * ((0.9 + 0.12 * grain) * tones[row % 64] * (0.35 + 0.65 * gap))[..., None]

    return paint


def mountains(canvas: Canvas, foot: float, height: float, rng: Generator) -> None:
    """Draw a range of faceted peaks across the image, with snow on the highest."""
    width = canvas.shape[1]
    thing = canvas.begin("mountain")
    centres = np.arange(-0.1, 1.2, rng.uniform(0.28, 0.4)) * width
    order = rng.permutation(len(centres))
    for k in order:
        x, tall = centres[k] + rng.uniform(-15, 15), height * rng.uniform(0.6, 1.0)
        half = tall * rng.uniform(0.9, 1.25)
        base = _rgb(122, 114, 112) * rng.uniform(0.85, 1.1)
        top = (x, foot - tall)
        zig = [
            (x + half * 0.06, foot - tall * 0.7),
            (x - half * 0.08, foot - tall * 0.45),
            (x + half * 0.1, foot - tall * 0.2),
            (x, foot + 2),
        ]
        lit, dark = (base * 1.12, base * 0.74) if canvas.side < 0 else (base * 0.74, base * 1.12)
        rough = noise((canvas.shape[0] * FINE, width * FINE), 7 * FINE, rng, 2)

        def stone(color: Plane, rough: Plane = rough) -> Paint:
            def paint(px: Plane, py: Plane) -> Plane:
                return color * (0.85 + 0.3 * rough[: px.shape[0], : px.shape[1]])[..., None]

            return paint

        canvas.fill(np.array([(x - half, foot + 2), top, *zig]), stone(lit), thing)
        canvas.fill(np.array([(x + half, foot + 2), top, *zig]), stone(dark), thing)
        if tall > 0.75 * height:
            cap = 0.26
            w = half * cap
            canvas.fill(
                np.array(
                    [
                        top,
                        (x + w, foot - tall * (1 - cap)),
                        (x + w * 0.5, foot - tall * (1 - cap * 1.25)),
                        (x, foot - tall * (1 - cap)),
                        (x - w * 0.5, foot - tall * (1 - cap * 1.3)),
                        (x - w, foot - tall * (1 - cap)),
                    ]
                ),
                (240, 244, 250),
                thing,
            )
