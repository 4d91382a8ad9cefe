"""Choose the engine and the precision in which the image tower runs."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from itaclip.core.choices import Agreement, fastest
from itaclip.core.clip.fingerprint import fingerprint
from itaclip.core.clip.towers import Grid
from itaclip.core.encoder import DenseEncoder
from itaclip.core.engines import OPENVINO_DTYPES, OpenVINOBlocks, has_openvino, require_openvino
from itaclip.core.engines.calibration import calibration_key, calibration_windows
from itaclip.core.settings import Settings
from itaclip.devices import choose_device

_LOG = logging.getLogger(__name__)

_ONE_LABEL = 0.95  # share of the most frequent label, above which equal labels prove nothing
_PASS = 10  # views per pass on a CPU
_WAYS = {
    "openvino": ("openvino int8", "openvino bf16", "openvino fp32"),
    "torch": ("torch bf16", "torch fp32"),  # fp16 is slow on CPUs
}
_WAYS["auto"] = _WAYS["openvino"] + _WAYS["torch"]
"""Engines and precisions by the setting `engine`; the last one is taken where no other agrees."""


def on_engine(encoder: DenseEncoder, settings: Settings) -> str:
    """Set up an encoder for the engine and precision of the settings, whose precision is not "auto".

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
        encoder.engine, encoder.precision = _openvino(encoder, settings), settings.dtype
    else:
        encoder.lower(settings.dtype)
    return engine


def choose_kernels(encoder: DenseEncoder, settings: Settings) -> None:
    """Let the kernels that PyTorch chooses from on a CPU be chosen for windows of the settings, which one pass does."""
    if encoder.engine is None and encoder.tower.device.type == "cpu" and encoder.precision == "bf16":
        side = -(-(settings.slide_crop or encoder.image_size) // encoder.patch_size) * encoder.patch_size
        _pass(encoder, torch.zeros(1, 3, side, side))


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


def agreeing(
    encoder: DenseEncoder, settings: Settings, about: Mapping[str, Any], labels: Callable[[DenseEncoder], Tensor]
) -> tuple[str, str]:
    """Find the fastest engine and precision whose labels agree with those of PyTorch in float32.

    Args:
        encoder: in float32.
        settings: `agreement` is the share of labels that have to be equal; `engine` limits the choice.
        about: what the labels depend on besides model and settings.
        labels: segments the same images with an encoder.

    Returns:
        The engine and the precision.

    Raises:
        ItaclipError: OpenVINO is requested but not installed, or there is no image to compare.
    """
    if settings.engine == "openvino":
        require_openvino("fp32")
    ways = [way for way in _WAYS[settings.engine] if way.startswith("torch") or has_openvino(way.split()[1])]
    make = _maker(encoder, settings)

    @cache
    def expected() -> Tensor | None:
        found = labels(encoder)
        if found.bincount().max() <= _ONE_LABEL * found.numel():
            return found
        _LOG.warning("dtype = 'auto': nearly all pixels of the images compared get one label, which proves nothing, so "
                     "fp32 is taken. Set calibration to a folder of your own images, or name a precision.")  # fmt: skip
        return None

    def share(way: str) -> float:
        reference = expected()
        return 0.0 if reference is None else float(labels(make(way)).eq(reference).double().mean())

    of_model = {
        "model": f"{encoder.structure} {fingerprint(encoder.visual.named_parameters())[:8]}",
        "method": settings.method, "agreement": settings.agreement,
        "calibration": calibration_key(settings.calibration)[:16],
    }  # fmt: skip
    passes = _passes(ways, make, encoder.image_size)
    engine, dtype = fastest("precision", {**of_model, **about}, passes, Agreement(settings.agreement, share)).split()
    return engine, dtype


def _may_choose(settings: Settings) -> bool:
    """Tell whether OpenVINO can run on this device, in this precision, with the installed packages."""
    device = choose_device(settings.device, settings.dtype)
    return device.type == "cpu" and settings.dtype in OPENVINO_DTYPES and has_openvino(settings.dtype)


def _faster(encoder: DenseEncoder, settings: Settings) -> str:
    """Find the engine that is faster on a pass of ten views, measured once per machine."""
    if settings.dtype == "int8":
        return "openvino"  # the only engine that supports it
    about = {"model": encoder.structure, "method": settings.method, "dtype": settings.dtype}
    ways = [f"torch {settings.dtype}", f"openvino {settings.dtype}"]
    return fastest("engine", about, _passes(ways, _maker(encoder, settings), encoder.image_size)).split()[0]


def _maker(encoder: DenseEncoder, settings: Settings) -> Callable[[str], DenseEncoder]:
    """Make what sets up copies of an encoder for engines and precisions; one copy is kept at a time."""

    @lru_cache(maxsize=1)
    def make(way: str) -> DenseEncoder:
        engine, dtype = way.split()
        visual = copy.deepcopy(encoder.visual) if engine == "torch" else encoder.visual
        made = DenseEncoder(visual, encoder.method)
        on_engine(made, settings.changed(engine=engine, dtype=dtype))
        return made

    return make


def _passes(
    ways: Sequence[str], make: Callable[[str], DenseEncoder], side: int
) -> dict[str, Callable[[], None]]:  # fmt: skip
    """Make a call per way, which runs ten views of square windows; nothing is made before it is called."""
    pixels = cache(lambda: torch.randn(_PASS, 3, side, side))
    return {way: partial(lambda way: _pass(make(way), pixels()), way) for way in ways}


@torch.no_grad()
def _pass(encoder: DenseEncoder, pixels: Tensor) -> None:
    """Run what an engine computes: the whole method, or only the blocks if the method reads more than these."""
    if encoder.method.reads_blocks_alone:
        encoder(pixels)
    else:
        encoder.encode(pixels, encoder.method.needs(encoder.depth), encoder.method.positions)
