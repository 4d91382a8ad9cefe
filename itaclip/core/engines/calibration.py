"""The windows on which the ranges of int8 are measured, and the images on which precisions are compared."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itaclip.common.images import read_image
from itaclip.core.images import normalise
from itaclip.core.resizing import resize
from itaclip.core.settings import Settings
from itaclip.core.views import VIEWS, make_view
from itaclip.errors import ItaclipError
from itaclip.files import IMAGE_SUFFIXES, is_hidden

CALIBRATION_IMAGES = 20
"""Number of windows on which int8's ranges are measured: one per image, cycling through the views."""

COMPARISON_IMAGES = 6
"""Number of images on which the labels of two precisions are compared."""

_SEED = 9_000_000  # not used for any other drawn scene


def calibration_windows(source: str, size: tuple[int, int], settings: Settings) -> Tensor:
    """Cut windows to calibrate on: the middle of each image, cycling through the five views.

    Args:
        source: a folder of images, of which the first by name are read; or "demo".
        size: height and width of a window in pixels.
        settings: settings of the views.

    Returns:
        B x 3 x h x w, normalised; B is at most `CALIBRATION_IMAGES`.

    Raises:
        ItaclipError: no such folder, no image in it, or an unreadable image.
    """
    windows = []
    for number, image in enumerate(_images(source)):
        factor = 1.5 * max(size) / min(image.shape[:2])
        high, wide = (max(round(side * factor), want) for side, want in zip(image.shape[:2], size, strict=True))
        pixels = normalise(resize(image, (high, wide)))
        top, left = (high - size[0]) // 2, (wide - size[1]) // 2
        window = pixels[None, :, top : top + size[0], left : left + size[1]]
        windows.append(make_view(window, number % VIEWS, settings))
    return torch.cat(windows)


def comparison_images(settings: Settings, side: int) -> list[NDArray[np.uint8]]:
    """Make square images on which the labels of two precisions are compared: those that follow the calibration's.

    Args:
        settings: images have the side of two windows by two; `calibration` says where they come from, and a folder
            with no more images than int8 is calibrated on gives its first ones.
        side: pixels of a side that stands for the window where images are not cut.

    Returns:
        `COMPARISON_IMAGES` or fewer, each S x S x 3 uint8 RGB.

    Raises:
        ItaclipError: see `calibration_windows`.
    """
    side = settings.slide_crop + settings.slide_stride if settings.slide_crop else side
    found = []
    for image in _images(settings.calibration, CALIBRATION_IMAGES, CALIBRATION_IMAGES + COMPARISON_IMAGES):
        factor = side / min(image.shape[:2])
        high, wide = (max(round(n * factor), side) for n in image.shape[:2])
        top, left = (high - side) // 2, (wide - side) // 2
        found.append(resize(image, (high, wide))[top : top + side, left : left + side])
    return found


def _images(source: str, first: int = 0, last: int = CALIBRATION_IMAGES) -> list[NDArray[np.uint8]]:
    if source == "demo":
        from itaclip.common.demo.scenes import draw_scene, random_shape  # here, because it is rarely needed

        generators = [np.random.default_rng([_SEED, number]) for number in range(first, last)]
        return [draw_scene(random_shape(rng), rng).image for rng in generators]
    paths = images_of(source)
    return [read_image(path) for path in paths[first:last] or paths[: last - first]]


def images_of(folder: str | Path) -> list[Path]:
    """List the images of a folder by name; int8 is calibrated on the first `CALIBRATION_IMAGES`.

    Raises:
        ItaclipError: no such folder, or no image in it.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise ItaclipError(f"calibration = {str(folder)!r}: expected a folder of images, or 'demo'.")
    shown = (path for path in root.iterdir() if not is_hidden(path.name))
    files = sorted(path for path in shown if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise ItaclipError(f"{root}: no image to calibrate int8 on; expected files such as .jpg or .png.")
    return files


def calibration_key(source: str) -> str:
    """Identify the images of a calibration by their content."""
    if source == "demo":
        return f"demo {_SEED} {CALIBRATION_IMAGES}"
    digest = hashlib.sha256()
    for path in images_of(source)[:CALIBRATION_IMAGES]:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
