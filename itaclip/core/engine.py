"""Choose the engine that runs the image tower, and calibrate int8."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import platform
import timeit
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itaclip.clip.towers import Grid
from itaclip.core.encoder import DenseEncoder
from itaclip.core.images import normalise, read_image
from itaclip.core.resizing import resize
from itaclip.core.settings import Settings
from itaclip.core.views import VIEWS, make_view
from itaclip.devices import choose_device
from itaclip.engines import OPENVINO_DTYPES, OpenVINOBlocks, engine_folder, has_openvino
from itaclip.errors import ItaclipError
from itaclip.files import IMAGE_SUFFIXES, write_json

_LOG = logging.getLogger(__name__)

CALIBRATION_IMAGES = 20
"""Number of windows on which int8's ranges are measured: one per image, cycling through the views."""

_PASS = 10  # views per pass on a CPU
_SEED = 9_000_000  # not used for any other drawn scene


def on_engine(encoder: DenseEncoder, settings: Settings) -> str:
    """Set up an encoder for the engine and precision of the settings.

    Returns:
        The engine: "torch" or "openvino".

    Raises:
        ItaclipError: OpenVINO is requested but not installed, or there is no image to calibrate int8 on.
    """
    engine = settings.engine
    if engine == "auto":
        engine = _faster(encoder, settings) if _may_choose(settings) else "torch"
    if engine == "openvino" or settings.dtype == "int8":
        engine = "openvino"
        encoder.engine = _openvino(encoder, settings)
    else:
        encoder.lower(settings.dtype)
    return engine


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


def _openvino(encoder: DenseEncoder, settings: Settings) -> OpenVINOBlocks:
    if settings.dtype != "int8":
        return OpenVINOBlocks(encoder.tower, settings.dtype)

    @torch.no_grad()
    def embedded(grid: Grid) -> list[Tensor]:
        size = grid[0] * encoder.patch_size, grid[1] * encoder.patch_size
        windows = calibration_windows(settings.calibration, size, settings)
        return [encoder.embed(part, encoder.method.positions)[0] for part in windows.split(4)]

    return OpenVINOBlocks(encoder.tower, "int8", (_content(settings.calibration), embedded))


def _images(source: str) -> list[NDArray[np.uint8]]:
    if source == "demo":
        from itaclip.demo.scenes import draw_scene, random_shape

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
    files = sorted(path for path in root.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise ItaclipError(f"{root}: no image to calibrate int8 on; expected files such as .jpg or .png.")
    return files


def _content(source: str) -> str:
    """Identify the images of a calibration by their content."""
    if source == "demo":
        return f"demo {_SEED} {CALIBRATION_IMAGES}"
    digest = hashlib.sha256()
    for path in images_of(source)[:CALIBRATION_IMAGES]:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


# --- auto --------------------------------------------------------------------


def _may_choose(settings: Settings) -> bool:
    """Whether OpenVINO can run on this device, in this precision, with the installed packages."""
    device = choose_device(settings.device, settings.dtype)
    return device.type == "cpu" and settings.dtype in OPENVINO_DTYPES and has_openvino(settings.dtype)


def _faster(encoder: DenseEncoder, settings: Settings) -> str:
    """Find the engine that is faster on a pass of ten views, measured once per machine."""
    if settings.dtype == "int8":
        return "openvino"  # the only engine that supports it
    path = engine_folder() / "choices.json"
    structure = hashlib.sha256(repr(encoder.visual).encode()).hexdigest()[:16]
    key = json.dumps([platform.node(), torch.get_num_threads(), settings.dtype, settings.method, structure])
    try:
        known: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
        if key in known:
            return str(known[key]["engine"])
    except (OSError, ValueError, KeyError, TypeError):
        known = {}
    plain = DenseEncoder(copy.deepcopy(encoder.visual), encoder.method).lower(settings.dtype)
    converted = DenseEncoder(encoder.visual, encoder.method)
    converted.engine = _openvino(encoder, settings)
    pixels = torch.randn(_PASS, 3, encoder.image_size, encoder.image_size)
    engines = {"torch": plain, "openvino": converted}
    seconds = {name: _seconds(partial(_pass, one, pixels)) for name, one in engines.items()}
    best = min(seconds, key=lambda name: seconds[name])
    _LOG.info("engine = 'auto': a pass takes %.3f s in PyTorch and %.3f s in OpenVINO; %s will be used.",
              seconds["torch"], seconds["openvino"], best)  # fmt: skip
    try:
        write_json(path, known | {key: {"engine": best, "seconds": seconds}})
    except ItaclipError as error:
        _LOG.warning("The choice of engine could not be saved: %s", error)
    return best


@torch.no_grad()
def _pass(encoder: DenseEncoder, pixels: Tensor) -> None:
    """Run what an engine computes: the whole method, or only the blocks if the method reads more than these."""
    if encoder.method.reads_trunk_alone:
        encoder(pixels)
    else:
        encoder.trunk(pixels, encoder.method.needs(encoder.depth), encoder.method.positions)


def _seconds(function: Callable[[], Any]) -> float:
    """Time the fastest of three runs, after a warm-up run."""
    function()
    return min(timeit.repeat(function, number=1, repeat=3))
