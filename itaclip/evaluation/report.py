"""The report of a run: the per-class table and `metrics.json`."""

from __future__ import annotations

import dataclasses
import math
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.table import Table

from itaclip.core.settings import Settings

if TYPE_CHECKING:  # `itaclip env` reports versions where MMSegmentation may be missing
    from itaclip.evaluation.counts import Metrics
    from itaclip.evaluation.loop import Outcome

PACKAGES = ("itaclip", "torch", "torchvision", "open_clip_torch", "transformers", "fastapi", "pycocotools", "numpy",
            "opencv-python", "pillow")  # fmt: skip
OPENMMLAB = ("mmsegmentation", "mmengine", "mmcv-lite", "mmcv", "onedl-mmsegmentation", "onedl-mmengine", "onedl-mmcv")
"""OpenMMLab's packages, and those of the fork that take their places."""


def class_table(metrics: Metrics, names: tuple[str, ...]) -> Table:
    """Table of the IoU and accuracy of every class, with summary rows."""
    table = Table(title="Results in percent")
    table.add_column("class")
    table.add_column("IoU", justify="right")
    table.add_column("Acc", justify="right")
    for name, iou, accuracy in zip(names, metrics.iou, metrics.accuracy, strict=True):
        table.add_row(name, _percent(iou), _percent(accuracy))
    table.add_section()
    table.add_row("mean", _percent(metrics.mean_iou), _percent(metrics.mean_accuracy))
    table.add_row("all pixels", "", _percent(metrics.all_accuracy))
    return table


def as_json(metrics: Metrics, names: tuple[str, ...], outcome: Outcome, settings: Settings,
            run: dict[str, Any]) -> dict[str, Any]:  # fmt: skip
    """The content of `metrics.json`; NaN becomes null."""
    return {
        "mIoU": _number(metrics.mean_iou),
        "mAcc": _number(metrics.mean_accuracy),
        "aAcc": _number(metrics.all_accuracy),
        "per_class": {
            name: {"IoU": _number(iou), "Acc": _number(accuracy)}
            for name, iou, accuracy in zip(names, metrics.iou, metrics.accuracy, strict=True)
        },
        "images": outcome.images,
        "pixels": metrics.pixels,
        "skipped": [{"path": path, "reason": reason} for path, reason in outcome.skipped],
        "seconds_per_image": outcome.seconds / max(outcome.images, 1),
        "peak_memory_mib": peak_memory_mib(),
        "settings": dataclasses.asdict(settings),
        "run": run,
        "versions": versions(),
        "machine": machine(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages of `PACKAGES` and `OPENMMLAB`."""
    found = {"python": platform.python_version()}
    for package in (*PACKAGES, *OPENMMLAB):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Processor, cores and GPU."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    """Model name of the processor, because speeds depend on it; Linux tells it in a file only."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def peak_memory_mib() -> dict[str, float]:
    """Peak memory in MiB so far: of the process (not on Windows), and of the GPU if there is one."""
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


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
