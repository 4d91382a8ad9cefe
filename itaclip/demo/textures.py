"""Procedural textures: the vocabulary of the bundled demo's miniature world.

Every texture is a function ``(x, y, rng) -> H x W x 3`` float RGB in [0, 1] of
pixel coordinates, so it can be drawn at any size, turned and scaled. `TEXTURES`
lists them with the words that captions use for them.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Plane: TypeAlias = NDArray[np.floating[Any]]
Generator: TypeAlias = np.random.Generator
Painter: TypeAlias = Callable[[Plane, Plane, Generator], Plane]


# --- building blocks ---------------------------------------------------------


def _color(rng: Generator, hue: float | None = None, spread: float = 0.04, saturation: float = 0.6,
           value: float = 0.7, jitter: float = 0.2) -> Plane:  # fmt: skip
    """A random RGB colour in [0, 1] near the given hue (any hue when None)."""
    h = rng.random() if hue is None else hue + rng.normal() * spread
    s = np.clip(saturation + rng.uniform(-jitter, jitter), 0, 1)
    v = np.clip(value + rng.uniform(-jitter, jitter), 0.05, 1)
    return np.array(colorsys.hsv_to_rgb(h % 1.0, s, v), np.float32)


def _contrasting(rng: Generator) -> tuple[Plane, Plane]:
    """Two random colours whose brightness differs enough to see a pattern."""
    while True:
        a, b = (_color(rng, saturation=0.5, jitter=0.5) for _ in range(2))
        if abs(float(a.mean() - b.mean())) > 0.25 or float(np.abs(a - b).sum()) > 0.9:
            return a, b


def _mix(a: Plane, b: Plane, weight: Plane) -> Plane:
    """Blend two colours by an H x W weight in [0, 1]."""
    w = np.clip(weight, 0, 1)[..., None].astype(np.float32)
    return a * (1 - w) + b * w


def _edge(distance: Plane, softness: float = 0.8) -> Plane:
    """Antialiased step: 0 where `distance` (pixels) is negative, 1 where positive."""
    return np.clip(distance / softness + 0.5, 0, 1).astype(np.float32)


def noise(shape: tuple[int, int], cell: float, rng: Generator, octaves: int = 1,
          stretch: float = 1.0) -> Plane:  # fmt: skip
    """Smooth noise in about [0, 1] with features of `cell` pixels, wider by `stretch`."""
    height, width = shape
    total, weight_sum, weight = np.zeros(shape, np.float32), 0.0, 1.0
    for _ in range(octaves):
        grid = rng.random((int(height / cell) + 3, int(width / (cell * stretch)) + 3), dtype=np.float32)
        total += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        weight_sum, weight, cell = weight_sum + weight, weight * 0.5, max(cell / 2, 1.0)
    return np.clip((total / weight_sum - 0.5) * 1.3 + 0.5, 0, 1)


@dataclass
class _Cells:
    """For every pixel its nearest cell centre: offset, distances, one random number."""

    dx: Plane
    dy: Plane
    nearest: Plane
    second: Plane
    random: Plane


def _cells(x: Plane, y: Plane, period: float, jitter: float, rng: Generator) -> _Cells:
    """Jittered-grid cells (Worley's cellular basis) with the given period in pixels."""
    gx, gy = x / period, y / period
    ix, iy = np.floor(gx).astype(int), np.floor(gy).astype(int)
    table = rng.random((3, 64, 64), dtype=np.float32)
    best = np.full(x.shape, 1e9, np.float32)
    second = best.copy()
    dx, dy, value = np.zeros_like(best), np.zeros_like(best), np.zeros_like(best)
    for oy in (-1, 0, 1):
        for ox in (-1, 0, 1):
            cx, cy = ix + ox, iy + oy
            jx, jy, jr = (plane[cy % 64, cx % 64] for plane in table)
            px = gx - (cx + 0.5 + jitter * (jx - 0.5))
            py = gy - (cy + 0.5 + jitter * (jy - 0.5))
            distance = np.hypot(px, py).astype(np.float32)
            closer = distance < best
            second = np.where(closer, best, np.minimum(second, distance))
            best = np.where(closer, distance, best)
            dx, dy = np.where(closer, px, dx), np.where(closer, py, dy)
            value = np.where(closer, jr, value)
    return _Cells(dx * period, dy * period, best * period, second * period, value)


# --- the textures ------------------------------------------------------------


def plain(x: Plane, y: Plane, rng: Generator) -> Plane:
    shade = noise(x.shape, 60, rng) - 0.5
    return _color(rng, saturation=0.3, value=0.65, jitter=0.3) + 0.06 * shade[..., None]


def bricks(x: Plane, y: Plane, rng: Generator) -> Plane:
    h = rng.uniform(7, 11)
    w, mortar = h * rng.uniform(1.9, 2.6), rng.uniform(1.2, 2.0)
    row = np.floor(y / h)
    shifted = x + (row % 2) * w / 2
    column = np.floor(shifted / w)
    inside = np.minimum.reduce([y - row * h, shifted - column * w]) - mortar
    tone = rng.random((64, 64), dtype=np.float32)[row.astype(int) % 64, column.astype(int) % 64]
    brick = _color(rng, 0.03, 0.03, 0.6, 0.55, 0.15) * (0.75 + 0.5 * tone[..., None])
    joint = _color(rng, 0.1, 0.02, 0.08, 0.8, 0.1)
    weight = _edge(inside)[..., None]
    return joint * (1 - weight) + brick * weight


def checkerboard(x: Plane, y: Plane, rng: Generator) -> Plane:
    a, b = _contrasting(rng)
    s = rng.uniform(6, 11)
    return _mix(a, b, ((np.floor(x / s) + np.floor(y / s)) % 2).astype(np.float32))


def polka_dots(x: Plane, y: Plane, rng: Generator) -> Plane:
    a, b = _contrasting(rng)
    period = rng.uniform(9, 14)
    cells = _cells(x, y, period, 0.05, rng)
    return _mix(a, b, _edge(period * rng.uniform(0.24, 0.34) - cells.nearest))


def stripes(x: Plane, y: Plane, rng: Generator) -> Plane:
    a, b = _contrasting(rng)
    period, duty = rng.uniform(6, 13), rng.uniform(0.4, 0.6)
    return _mix(a, b, _edge(duty * period - np.mod(x, period)))


def water(x: Plane, y: Plane, rng: Generator) -> Plane:
    period = rng.uniform(8, 13)
    bend = 3.0 * np.sin(x / rng.uniform(9, 14) + 6 * noise(x.shape, 30, rng))
    crest = 0.5 + 0.5 * np.sin((y + bend) * 2 * np.pi / period)
    return _mix(_color(rng, 0.57, 0.03, 0.75, 0.5), _color(rng, 0.53, 0.03, 0.3, 0.85, 0.1), crest**2)


def grass(x: Plane, y: Plane, rng: Generator) -> Plane:
    blades = noise(x.shape, 2.2, rng, 2, stretch=0.5)
    blades = 0.6 * blades + 0.4 * np.roll(blades, 2, axis=0)
    clumps = noise(x.shape, 20, rng)
    color = _mix(_color(rng, 0.30, 0.03, 0.75, 0.3, 0.1), _color(rng, 0.25, 0.03, 0.65, 0.75, 0.12), blades * 1.6 - 0.3)
    return color * (0.8 + 0.4 * clumps[..., None])


def wood(x: Plane, y: Plane, rng: Generator) -> Plane:
    plank = rng.uniform(18, 30)
    index = np.floor(y / plank).astype(int)
    offset = rng.uniform(0, 100, 64)[index % 64]
    grain = np.sin((y + 5 * noise(x.shape, 14, rng, 2, stretch=4.0)) * rng.uniform(1.3, 2.0) + offset)
    color = _mix(_color(rng, 0.07, 0.015, 0.65, 0.35, 0.1), _color(rng, 0.09, 0.015, 0.5, 0.7, 0.1), 0.5 + 0.5 * grain)
    return color * (0.55 + 0.45 * _edge(np.mod(y, plank) - 1.5))[..., None]


def bubbles(x: Plane, y: Plane, rng: Generator) -> Plane:
    period = rng.uniform(12, 18)
    cells = _cells(x, y, period, 0.5, rng)
    radius = period * (0.26 + 0.2 * cells.random)
    base, film = _color(rng, 0.55, 0.12, 0.3, 0.7), _color(rng, 0.5, 0.2, 0.08, 0.97, 0.03)
    ring = _edge(1.3 - np.abs(cells.nearest - radius))
    shine = _edge(radius * 0.25 - np.hypot(cells.dx + radius * 0.35, cells.dy + radius * 0.35))
    return _mix(base, film, np.maximum(np.maximum(ring, shine), 0.25 * _edge(radius - cells.nearest)))


def honeycomb(x: Plane, y: Plane, rng: Generator) -> Plane:
    size = rng.uniform(9, 14)
    pitch = (size, size * 3**0.5)
    # distance to the nearest centre of each of the two rectangular lattices that
    # together make the hexagonal one
    first, other = (
        np.hypot(*(np.mod(c - s + p / 2, p) - p / 2 for c, s, p in zip((x, y), shift, pitch, strict=True)))
        for shift in ((0.0, 0.0), (size / 2, size * 3**0.5 / 2))
    )
    slanted = 0.8 * np.abs(first - other)
    upright = np.abs(np.mod(np.where(first < other, x, x - size / 2), size) - size / 2)
    edge = np.minimum(slanted, upright)
    return _mix(_color(rng, 0.09, 0.015, 0.8, 0.45, 0.1), _color(rng, 0.125, 0.015, 0.8, 0.92, 0.08), _edge(edge - 1.3))


def starry_sky(x: Plane, y: Plane, rng: Generator) -> Plane:
    cells = _cells(x, y, rng.uniform(7, 11), 0.9, rng)
    haze = noise(x.shape, 40, rng)
    sky = _mix(_color(rng, 0.66, 0.04, 0.8, 0.12, 0.07), _color(rng, 0.72, 0.05, 0.6, 0.3, 0.08), haze)
    star = _edge(0.5 + 1.3 * cells.random - cells.nearest) * (0.5 + 0.5 * cells.random)
    return np.maximum(sky, star[..., None])


def clouds(x: Plane, y: Plane, rng: Generator) -> Plane:
    puffs = noise(x.shape, 26, rng, 4, stretch=1.5)
    sky, white = _color(rng, 0.57, 0.02, 0.5, 0.85, 0.1), np.full(3, rng.uniform(0.9, 1.0), np.float32)
    return _mix(sky, white, puffs * 3.2 - 1.1)


def fire(x: Plane, y: Plane, rng: Generator) -> Plane:
    heat = noise(x.shape, 9, rng, 3, stretch=0.45)
    heat = np.clip((heat - 0.3) * 2.0, 0, 1)
    dark, flame = _color(rng, 0.0, 0.01, 0.9, 0.3, 0.08), _color(rng, 0.05, 0.01, 0.95, 0.95, 0.04)
    hot = _color(rng, 0.14, 0.01, 0.6, 1.0, 0.02)
    return np.where(heat[..., None] < 0.5, _mix(dark, flame, heat * 2), _mix(flame, hot, heat * 2 - 1))


def tartan(x: Plane, y: Plane, rng: Generator) -> Plane:
    a, b = _contrasting(rng)
    c = _color(rng, saturation=0.4, value=0.9, jitter=0.1)
    period = rng.uniform(16, 24)

    def band(t: Plane) -> Plane:
        return 0.5 * _edge(period * 0.45 - np.mod(t, period))

    def thin(t: Plane) -> Plane:
        return 0.6 * _edge(1.2 - np.abs(np.mod(t, period) - period * 0.72))

    return _mix(_mix(a, b, band(x) + band(y)), c, thin(x) + thin(y))


def zigzag(x: Plane, y: Plane, rng: Generator) -> Plane:
    a, b = _contrasting(rng)
    period, width = rng.uniform(8, 12), rng.uniform(12, 18)
    bend = np.abs(np.mod(x, width) - width / 2) * rng.uniform(0.9, 1.2)
    return _mix(a, b, _edge(period * 0.5 - np.mod(y + bend, period)))


def cobblestones(x: Plane, y: Plane, rng: Generator) -> Plane:
    cells = _cells(x, y, rng.uniform(11, 16), 0.7, rng)
    gap = cells.second - cells.nearest
    tone = 0.35 + 0.4 * cells.random + 0.02 * np.minimum(gap, 6)
    stone = _color(rng, 0.1, 0.1, 0.08, 1.0, 0.06) * tone[..., None]
    return stone * (0.35 + 0.65 * _edge(gap - 2.2, 2.0))[..., None]


def leaves(x: Plane, y: Plane, rng: Generator) -> Plane:
    period = rng.uniform(10, 14)
    cells = _cells(x, y, period, 0.6, rng)
    angle = cells.random * 2 * np.pi
    along = cells.dx * np.cos(angle) + cells.dy * np.sin(angle)
    across = -cells.dx * np.sin(angle) + cells.dy * np.cos(angle)
    inside = period * 0.28 * (1 - (along / (period * 0.62)) ** 2) - np.abs(across)
    vein = _edge(0.7 - np.abs(across))
    leaf = _mix(_color(rng, 0.3, 0.05, 0.7, 0.55, 0.12), _color(rng, 0.22, 0.04, 0.5, 0.85, 0.1), vein)
    leaf = leaf * (0.7 + 0.5 * cells.random[..., None])
    weight = _edge(inside)[..., None]
    return _color(rng, 0.33, 0.03, 0.7, 0.17, 0.06) * (1 - weight) + leaf * weight


def fish_scales(x: Plane, y: Plane, rng: Generator) -> Plane:
    a, b = _contrasting(rng)
    r = rng.uniform(7, 10)
    step = r * 0.6
    row = np.floor(y / step)
    # a row hangs over the one below it: look at the upper row first
    upper, own = (np.hypot(np.mod(x + (k % 2) * r, 2 * r) - r, y - k * step) for k in (row - 1, row))
    distance = np.where(upper < r, upper, own)
    return _mix(a, b, np.clip(distance / r, 0, 1) ** 4)


def confetti(x: Plane, y: Plane, rng: Generator) -> Plane:
    period = rng.uniform(8, 12)
    cells = _cells(x, y, period, 0.8, rng)
    angle = cells.random * 20
    along = np.abs(cells.dx * np.cos(angle) + cells.dy * np.sin(angle))
    across = np.abs(-cells.dx * np.sin(angle) + cells.dy * np.cos(angle))
    inside = np.minimum(period * 0.32 - along, period * 0.17 - across)
    palette = np.stack([_color(rng, k / 6, 0.01, 0.85, 0.9, 0.1) for k in range(6)])
    paper = _color(rng, saturation=0.08, value=0.93, jitter=0.06)
    weight = _edge(inside)[..., None]
    return paper * (1 - weight) + palette[(cells.random * 5.999).astype(int)] * weight


def sand(x: Plane, y: Plane, rng: Generator) -> Plane:
    ripple = 0.5 + 0.5 * np.sin((y + 14 * noise(x.shape, 36, rng)) * 2 * np.pi / rng.uniform(10, 16))
    grain = rng.random(x.shape, dtype=np.float32) - 0.5
    return (
        _mix(_color(rng, 0.1, 0.01, 0.45, 0.7, 0.08), _color(rng, 0.115, 0.01, 0.35, 0.93, 0.06), ripple)
        + 0.09 * grain[..., None]
    )


@dataclass(frozen=True)
class Texture:
    """One class of the demo world: how it is drawn and what captions call it."""

    paint: Painter
    names: tuple[str, ...]
    sayings: tuple[str, ...]
    turns: bool  # whether it may be drawn at any angle


# Class 0 is the background. Captions draw on the names and on the sayings.
TEXTURES: tuple[Texture, ...] = (
    Texture(plain, ("background", "plain colour", "blank surface"),
            ("a smooth empty area of one colour", "nothing but an even plain tone"), True),
    Texture(bricks, ("brick wall", "bricks"),
            ("a wall of red rectangular blocks joined by mortar", "rows of reddish blocks with pale joints"), False),
    Texture(checkerboard, ("checkerboard", "chessboard"),
            ("squares of two colours that alternate", "a board of light and dark squares"), True),
    Texture(polka_dots, ("polka dots", "dotted cloth"),
            ("round spots of one colour in a regular grid", "a cloth with evenly spaced round dots"), True),
    Texture(stripes, ("stripes", "striped cloth"),
            ("straight parallel bands of two colours", "long lines that lie side by side"), True),
    Texture(water, ("water", "waves"),
            ("blue rippling liquid with pale crests", "a blue sea surface with wavy lines"), False),
    Texture(grass, ("grass", "lawn"),
            ("thin green blades that cover the ground", "a green meadow of fine blades"), False),
    Texture(wood, ("wood", "wooden planks"),
            ("brown boards with a streaky grain", "brown timber cut into long boards"), True),
    Texture(bubbles, ("bubbles", "soap foam"),
            ("shiny round films filled with air", "pale rings of different sizes with a bright spot"), True),
    Texture(honeycomb, ("honeycomb", "beehive cells"),
            ("yellow six-sided wax cells built by bees", "golden hexagons with brown edges"), True),
    Texture(starry_sky, ("starry sky", "night sky"),
            ("small white points of light in the dark", "a dark blue darkness with many bright points"), True),
    Texture(clouds, ("clouds", "cloudy sky"),
            ("soft white puffs in a light blue sky", "white fluffy shapes high in the air"), False),
    Texture(fire, ("fire", "flames"),
            ("hot orange and yellow tongues that burn", "something burning in red and orange"), False),
    Texture(tartan, ("tartan", "plaid"),
            ("a woven cloth of crossing bands", "checked cloth with thin crossing lines"), True),
    Texture(zigzag, ("zigzag", "chevrons"),
            ("lines that turn sharply left and right", "a pattern of sharp bends in repeated rows"), True),
    Texture(cobblestones, ("cobblestones", "pebbles"),
            ("rounded grey stones packed closely together", "a pavement of grey rounded stones"), True),
    Texture(leaves, ("leaves", "foliage"),
            ("green pointed leaves of a bush", "many green leaves with veins"), True),
    Texture(fish_scales, ("fish scales", "roof tiles"),
            ("overlapping rounded plates in rows", "half circles that overlap row by row"), True),
    Texture(confetti, ("confetti", "paper scraps"),
            ("small bright pieces of coloured paper", "colourful scraps thrown at a party"), True),
    Texture(sand, ("sand", "desert dunes"),
            ("pale yellow grains with soft ripples", "a dry yellow beach with gentle ripples"), True),
)  # fmt: skip


def draw(class_id: int, shape: tuple[int, int], rng: Generator) -> NDArray[np.uint8]:
    """One texture as H x W x 3 uint8 RGB, with random turn, scale, colours and light."""
    texture = TEXTURES[class_id]
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    x, y = x + rng.uniform(0, 200), y + rng.uniform(0, 200)
    angle = rng.uniform(0, 2 * np.pi) if texture.turns else rng.normal() * 0.1
    scale = rng.uniform(0.85, 1.2)
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    image = texture.paint(cos * x + sin * y + 500, -sin * x + cos * y + 500, rng)
    image = image + rng.normal(0, 0.012, shape).astype(np.float32)[..., None]
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)
