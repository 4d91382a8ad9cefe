"""Versions of packages, the machine, and memory used so far."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("itaclip", "torch", "torchvision", "open_clip_torch", "transformers", "fastapi", "pycocotools", "numpy",
            "opencv-python", "pillow")  # fmt: skip
OPENMMLAB = ("mmsegmentation", "mmengine", "mmcv-lite", "mmcv", "onedl-mmsegmentation", "onedl-mmengine", "onedl-mmcv")
"""OpenMMLab's packages, and those of the fork that take their places."""

_MATRIX_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "avx_vnni", "amx_")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages of `PACKAGES` and `OPENMMLAB`."""
    found = {"python": platform.python_version()}
    for package in (*PACKAGES, *OPENMMLAB):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Name the processor, its cores and the GPU."""
    return {
        "platform": platform.platform(),
        "processor": processor(),
        "instructions": instructions(),
        "cores": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def processor() -> str:
    """Name the model of the processor, because speeds depend on it."""
    return _cpuinfo("model name") or platform.processor()


def instructions() -> str:
    """Name the instructions that decide how fast the processor multiplies matrices, joined by spaces.

    Processors of one name may differ: rented ones are often just "AMD EPYC".
    """
    flags = _cpuinfo("flags").split() or [torch.backends.cpu.get_cpu_capability().lower()]
    return " ".join(flag for flag in flags if flag.startswith(_MATRIX_INSTRUCTIONS))


def _cpuinfo(name: str) -> str:
    """Read a field of Linux's list of processors; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), "")


def peak_memory_mib() -> dict[str, float]:
    """Measure the peak memory in MiB so far: of the process (not on Windows), and of the GPU if there is one."""
    peak = {}
    try:
        import resource
    except ImportError:
        pass
    else:
        unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss: bytes on macOS, KiB elsewhere
        peak["process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    if torch.cuda.is_available():
        peak["gpu"] = torch.cuda.max_memory_allocated() / 2**20
    return peak
