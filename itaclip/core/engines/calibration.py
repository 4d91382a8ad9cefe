"""The windows on which the ranges of int8 are measured."""

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


def _images(source: str) -> list[NDArray[np.uint8]]:
    if source == "demo":
        from itaclip.common.demo.scenes import draw_scene, random_shape  # here, because only int8 draws scenes

        generators = [np.random.default_rng([_SEED, number]) for number in range(CALIBRATION_IMAGES)]
        return [draw_scene(random_shape(rng), rng).image for rng in generators]
    return [read_image(path) for path in images_of(source)[:CALIBRATION_IMAGES]]


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
