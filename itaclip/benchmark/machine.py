"""What the machine can do, measured in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


def timed(function: Callable[[], Any], repeats: int = 1) -> tuple[float, Any]:
    """Fastest wall-clock seconds of some runs, and the last result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        _wait()
        began = time.perf_counter()
        result = function()
        _wait()
        best = min(best, time.perf_counter() - began)
    return best, result


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """GFLOP/s of a large square matrix product."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    a @ b
    return 2 * side**3 / timed(lambda: a @ b, repeats=7)[0] / 1e9


def encoder_flops(visual: Any, patches: int, middle: int) -> float:
    """Operations of one pass, a multiplication and an addition counting two, as they are done.

    Blocks 1..L-1 whole; of the last one its projections; two more maps in each middle layer
    and two in the last block instead of one.
    """
    width, layers = visual.conv1.weight.shape[0], len(visual.transformer.resblocks)
    tokens = patches + 1
    products = 2 * tokens * width**2 * (12 * (layers - 1) + 4)
    attention = 4 * tokens**2 * width * (layers - 1 + 2 + 2 * middle)
    ends = 2 * patches * visual.conv1.weight.numel() + 2 * tokens * visual.proj.numel()
    return products + attention + ends


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
