"""Scenes of the miniature world: textured regions side by side, or shapes on a ground."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from itaclip.demo.textures import TEXTURES, Generator, Plane, draw, noise

# A class that covers less of a scene than this is not counted as being in it.
SMALLEST_SHARE = 0.03

Brush = Callable[[int, tuple[int, int], Generator], NDArray[np.uint8]]


@dataclass(frozen=True)
class Scene:
    """A picture and its truth: H x W x 3 uint8 RGB, and H x W uint8 class ids."""

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def classes(self) -> list[int]:
        """The class ids that cover a visible share of the picture, in order."""
        counts = np.bincount(self.labels.ravel(), minlength=len(TEXTURES))
        return [int(c) for c in np.flatnonzero(counts >= SMALLEST_SHARE * self.labels.size)]


def _mosaic(shape: tuple[int, int], parts: int, rng: Generator) -> NDArray[np.int64]:
    """Cut the frame into `parts` curved regions around random centres."""
    height, width = shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    warp = 0.35 * min(shape)
    x = x + warp * (noise(shape, 40, rng) - 0.5)
    y = y + warp * (noise(shape, 40, rng) - 0.5)
    centres = rng.random((parts, 2)) * shape
    return np.argmin([np.hypot(y - cy, x - cx) for cy, cx in centres], axis=0)


def _blob(shape: tuple[int, int], rng: Generator) -> NDArray[np.bool_]:
    """A closed shape: an ellipse, a polygon or a wavy outline, of a random size and place."""
    radius = rng.uniform(0.14, 0.34) * min(shape)
    cy, cx = rng.uniform(0.15, 0.85, 2) * shape
    points = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    kind = rng.integers(3)
    if kind == 0:
        r: Plane | float = radius
        squash = rng.uniform(0.6, 1.6)
    elif kind == 1:
        corners = int(rng.integers(3, 7))
        points = np.linspace(0, 2 * np.pi, corners, endpoint=False) + rng.uniform(0, 6)
        r, squash = radius * 1.2, rng.uniform(0.8, 1.25)
    else:
        k, phase = rng.integers(2, 6), rng.uniform(0, 6)
        r, squash = (radius * (1 + 0.28 * np.sin(k * points + phase))).astype(np.float32), 1.0
    outline = np.stack([cx + r * np.cos(points) * squash, cy + r * np.sin(points) / squash], axis=1)
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [outline.round().astype(np.int32)], 1)
    return mask.astype(bool)


def draw_scene(
    shape: tuple[int, int],
    rng: Generator,
    brush: Brush = draw,
    candidates: Sequence[int] = tuple(range(len(TEXTURES))),
    most: int = 6,
) -> Scene:
    """Draw one scene of the given (height, width).

    Args:
        shape: height and width in pixels.
        rng: the only source of randomness.
        brush: ``(class_id, shape, rng) -> H x W x 3 uint8``, paints a texture.
        candidates: class ids that may be used; class 0 is the plain background.
        most: regions that a scene has at the most.
    """
    if rng.random() < 0.5:  # regions side by side
        parts = int(rng.integers(1, most + 1))
        region = _mosaic(shape, parts, rng)
        classes = rng.choice(candidates, parts, replace=parts > len(candidates))
    else:  # shapes on a ground that is plain more often than not
        parts = int(rng.integers(1, max(2, most - 1)))
        region = np.zeros(shape, np.int64)
        for part in range(1, parts + 1):
            region[_blob(shape, rng)] = part
        classes = rng.choice(candidates, parts + 1, replace=parts >= len(candidates))
        if rng.random() < 0.6 and 0 in candidates:
            classes[classes == 0] = classes[0]
            classes[0] = 0
    image = np.empty((*shape, 3), np.uint8)
    labels = np.empty(shape, np.uint8)
    for part in np.unique(region):
        inside = region == part
        class_id = int(classes[part])
        image[inside] = brush(class_id, shape, rng)[inside]
        labels[inside] = class_id
    return Scene(_light(image, rng), labels)


def _light(image: NDArray[np.uint8], rng: Generator) -> NDArray[np.uint8]:
    """A slow brightness gradient and a change of exposure over the whole picture."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    slope = rng.uniform(-0.15, 0.15, 2)
    gain = 1 + slope[0] * (y / height - 0.5) + slope[1] * (x / width - 0.5) + rng.uniform(-0.12, 0.12)
    return np.clip(image * gain[..., None], 0, 255).astype(np.uint8)
