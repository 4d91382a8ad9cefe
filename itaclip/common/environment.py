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
        "processor": _processor(),
        "cores": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    """Name the model of the processor, because speeds depend on it; Linux tells it in a file only."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


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
