"""`itaclip env`: what is installed, what is found, and whether it works."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itaclip.common.console import make_console

LOWEST_SHARE_RIGHT = 0.9
"""Smallest share of correct pixels that passes the self-check. The bundled CLIP reaches 97 % on that scene."""


def main(arguments: Sequence[str]) -> int:
    """Print the report.

    Returns:
        The exit status: 1 when the self-check fails.
    """
    args = parser().parse_args(arguments)
    if args.clear_cache:
        from itaclip.core.engines import clear_engines, engine_folder

        make_console().print(f"{engine_folder()}: {clear_engines() / 1e6:.0f} MB freed", markup=False)
        return 0
    from itaclip.common.environment import OPENMMLAB, PACKAGES, versions

    installed = dict.fromkeys(("python", "system", *PACKAGES), "not installed") | versions()
    installed = {name: value for name, value in installed.items() if name not in OPENMMLAB}
    installed["system"] = platform.platform()
    report = {"versions": installed, "openmmlab": openmmlab(), "device": devices(), "text_cache": text_cache(),
              "engines": engines(), "weights": weights()}  # fmt: skip
    if not args.no_check:
        report["self_check"] = self_check()
    if args.json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        console = make_console()
        for title, section in report.items():
            console.print(f"[bold]{title.replace('_', ' ')}[/bold]")
            for name, value in section.items():
                for line in value if isinstance(value, list) else [value]:
                    console.print(f"  {name}: {line}", markup=False)
    return 0 if args.no_check or report["self_check"]["passed"] else 1


def parser() -> argparse.ArgumentParser:
    """Declare the options of `itaclip env`."""
    options = argparse.ArgumentParser(
        prog="itaclip env", description="Show what is installed and found, and segment a bundled scene as a check."
    )
    options.add_argument("--no-check", action="store_true", help="report only, do not segment a scene")
    options.add_argument("--json", action="store_true", help="print JSON")
    options.add_argument(
        "--clear-cache",
        action="store_true",
        help="delete models converted for OpenVINO and what was measured, and stop",
    )
    return options


def openmmlab() -> dict[str, str]:
    """Return the packages that provide MMSegmentation, MMEngine and mmcv, and conflicts between them."""
    from itaclip.common.openmmlab_packages import report

    return report()


def devices() -> dict[str, Any]:
    """Return the processor, GPUs, and the device that "auto" takes."""
    import torch

    from itaclip.common.environment import instructions, processor
    from itaclip.devices import choose_device

    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "threads": torch.get_num_threads(),
        "cpu": f"{processor()}, {instructions()}",
        "cuda": torch.version.cuda or "torch is built without CUDA",
        "gpus": [f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in gpus] or "none found",
        "mps": "available" if torch.backends.mps.is_available() else "not available",
        "auto": str(choose_device("auto")),
    }


def text_cache() -> dict[str, Any]:
    """Return the folder and size of the cache of text features."""
    from itaclip.core.text import default_folder

    folder = default_folder()
    files = list(folder.rglob("*.safetensors")) if folder.is_dir() else []
    return {"folder": str(folder), "texts": len(files), "kilobytes": sum(p.stat().st_size for p in files) // 1000}


def engines() -> dict[str, Any]:
    """Return what can run CLIP, and the models converted for it."""
    from itaclip.core.choices import remembered
    from itaclip.core.engines import engine_folder, has_openvino

    folder = engine_folder()
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    able = ["torch", *(f"openvino ({kind})" for kind in ("fp32, bf16", "int8") if has_openvino(kind))]
    return {"available": ", ".join(able), "folder": str(folder), "models": sum(p.name == "model.xml" for p in files),
            "megabytes": sum(p.stat().st_size for p in files) // 1_000_000,
            "measured choices": remembered() or "none yet"}  # fmt: skip


def weights() -> dict[str, Any]:
    """Weight files in the folders that are searched, and models found by name, including the hub's cache."""
    from itaclip.core.clip.download import weight_folders
    from itaclip.core.clip.model_list import models
    from itaclip.core.clip.names import DEMO

    found: dict[str, Any] = {DEMO: "bundled"}
    for folder in weight_folders():
        files = sorted(p for p in folder.glob("*") if p.suffix in (".pt", ".pth", ".bin", ".safetensors"))
        found[str(folder)] = ", ".join(f"{p.name} ({p.stat().st_size >> 20} MiB)" for p in files) or "none"
    found["by name"] = ", ".join(f"{m.name}:{m.tag}" for m in models() if m.weights) or "none"
    return found


def self_check() -> dict[str, Any]:
    """Segment a bundled scene with the bundled CLIP and compare the result with the truth."""
    import numpy as np

    from itaclip.common.demo.dataset import class_lines, ensure_demo_dataset
    from itaclip.common.images import read_image
    from itaclip.core.clip.names import DEMO
    from itaclip.segmenter import Segmenter

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        root = ensure_demo_dataset(Path(folder) / "demo", scenes=1)
        image = read_image(root / "JPEGImages/scene_000.jpg")
        truth = read_image(root / "SegmentationClass/scene_000.png")  # in the colours of the classes
        segmenter = Segmenter(DEMO, text_cache=False)
        background, *classes = class_lines()
        segmenter.set_classes(classes, background.split(", "))
        ready = time.perf_counter()
        result = segmenter(image)
        painted = np.asarray(result.colors, np.uint8)[result.labels]
    share = float((painted == truth).all(axis=2).mean())
    return {
        "passed": share >= LOWEST_SHARE_RIGHT,
        "pixels_right": round(share, 4),
        "seconds_to_start": round(ready - began, 2),
        "seconds_for_an_image": round(time.perf_counter() - ready, 2),
    }
