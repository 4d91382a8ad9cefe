"""Choose the engine that runs the image tower."""

from __future__ import annotations

import copy
import hashlib
from functools import cache

import torch
from torch import Tensor

from itaclip.core.choices import fastest
from itaclip.core.clip.towers import Grid
from itaclip.core.encoder import DenseEncoder
from itaclip.core.engines import OPENVINO_DTYPES, OpenVINOBlocks, has_openvino
from itaclip.core.engines.calibration import calibration_key, calibration_windows
from itaclip.core.settings import Settings
from itaclip.devices import choose_device

_PASS = 10  # views per pass on a CPU


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


def _openvino(encoder: DenseEncoder, settings: Settings) -> OpenVINOBlocks:
    if settings.dtype != "int8":
        return OpenVINOBlocks(encoder.tower, settings.dtype)

    @torch.no_grad()
    def embedded(grid: Grid) -> list[Tensor]:
        size = grid[0] * encoder.patch_size, grid[1] * encoder.patch_size
        windows = calibration_windows(settings.calibration, size, settings)
        return [encoder.embed(part, encoder.method.positions)[0] for part in windows.split(4)]

    return OpenVINOBlocks(encoder.tower, "int8", (calibration_key(settings.calibration), embedded))


# --- auto --------------------------------------------------------------------


def _may_choose(settings: Settings) -> bool:
    """Tell whether OpenVINO can run on this device, in this precision, with the installed packages."""
    device = choose_device(settings.device, settings.dtype)
    return device.type == "cpu" and settings.dtype in OPENVINO_DTYPES and has_openvino(settings.dtype)


def _faster(encoder: DenseEncoder, settings: Settings) -> str:
    """Find the engine that is faster on a pass of ten views, measured once per machine."""
    if settings.dtype == "int8":
        return "openvino"  # the only engine that supports it
    structure = hashlib.sha256(repr(encoder.visual).encode()).hexdigest()[:16]
    pixels = torch.randn(_PASS, 3, encoder.image_size, encoder.image_size)

    @cache  # neither is made where the answer is known
    def plain() -> DenseEncoder:
        return DenseEncoder(copy.deepcopy(encoder.visual), encoder.method).lower(settings.dtype)

    @cache
    def converted() -> DenseEncoder:
        other = DenseEncoder(encoder.visual, encoder.method)
        other.engine = _openvino(encoder, settings)
        return other

    about = {"model": structure, "method": settings.method, "dtype": settings.dtype}
    ways = {"torch": lambda: _pass(plain(), pixels), "openvino": lambda: _pass(converted(), pixels)}
    return fastest("engine", about, ways)


@torch.no_grad()
def _pass(encoder: DenseEncoder, pixels: Tensor) -> None:
    """Run what an engine computes: the whole method, or only the blocks if the method reads more than these."""
    if encoder.method.reads_blocks_alone:
        encoder(pixels)
    else:
        encoder.encode(pixels, encoder.method.needs(encoder.depth), encoder.method.positions)
