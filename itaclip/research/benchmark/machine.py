"""What the machine can do, measured in the same run."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from itaclip.common.environment import peak_memory_mib
from itaclip.core.encoder import DTYPES


@dataclass(frozen=True)
class Cost:
    """What a call took.

    Attributes:
        seconds: of wall clock.
        peak_mib: largest memory during the call, all that was there before included: of the
            process on a CPU (off Linux: the largest since its start), of tensors on a GPU.
        extra_mib: how much of it was not there before.
    """

    seconds: float
    peak_mib: float
    extra_mib: float


def measured(function: Callable[[], Any], device: torch.device) -> tuple[Cost, Any]:
    """Measure the cost of a call that works on a device, and return its result."""
    _forget_peak(device)
    before = _peak_mib(device)
    taken, result = timed(function)
    peak = _peak_mib(device)
    return Cost(taken, peak, peak - before), result


def timed(function: Callable[[], Any], repeats: int = 1) -> tuple[float, Any]:
    """Measure the fastest wall-clock seconds of some runs, and return the last result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        _wait()
        began = time.perf_counter()
        result = function()
        _wait()
        best = min(best, time.perf_counter() - began)
    return best, result


def matrix_peak(device: torch.device, precision: str) -> float:
    """Measure the GFLOP/s of a large square matrix product (GOP/s for int8)."""
    side = 8192 if device.type == "cuda" else 2048
    if precision == "int8":
        factors = [torch.randint(-127, 128, (side, side), dtype=torch.int8) for _ in range(2)]
        multiply = torch._int_mm
    else:
        factors = [torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2)]
        multiply = torch.mm
    multiply(*factors)
    return 2 * side**3 / timed(lambda: multiply(*factors), repeats=7)[0] / 1e9


def encoder_flops(visual: Any, patches: int, middle: int) -> float:
    """Count the operations of one pass, a multiplication and an addition counting two, as they are done.

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


def _forget_peak(device: torch.device) -> None:
    """Let peaks start from what is in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError, AttributeError):  # what the C library keeps of freed memory would hide later needs
            ctypes.CDLL(None).malloc_trim(0)
        with suppress(OSError):  # another system, or a closed container: peaks since the start
            Path("/proc/self/clear_refs").write_text("5")


def _peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    kib = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return kib[0] / 2**10 if kib else peak_memory_mib()["process"]
