"""Where the time goes: stages of one image, against the matrix peak measured in the same run.

    python tools/benchmark.py --config configs/cfg_voc.py --weights vit-b-16.pt [--image photo.jpg]
    python tools/benchmark.py --config configs/cfg_voc.py --weights vit-b-16.pt --baseline

The weights may be stand-ins of the right size (``python tests/make_weights.py vit-b-16 F``).
`--baseline` also times one window and one view per encoder pass, as the published code
works, on a few windows, and scales up by their number.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.table import Table

from itaclip.console import make_console, run
from itaclip.evaluation.report import machine, peak_memory_mib, versions
from itaclip.evaluation.setup import build_model, load_config
from itaclip.files import write_json
from itaclip.pamr import pamr
from itaclip.images import normalise
from itaclip.views import VIEWS
from itaclip.windows import cut_windows, stitch


def timed(function: Callable[[], Any], repeats: int = 1) -> tuple[float, Any]:
    """Fastest wall-clock seconds of some runs, and the last result."""
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        result = function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return best, result


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """GFLOP/s of a large square matrix product."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    a @ b
    return 2 * side**3 / timed(lambda: a @ b, repeats=5)[0] / 1e9


def encoder_flops(visual: Any, patches: int) -> float:
    """Multiply-adds of one pass times two: projections, feed-forward, attention, patches."""
    width, layers = visual.conv1.weight.shape[0], len(visual.transformer.resblocks)
    tokens = patches + 1
    per_block = 2 * tokens * 12 * width**2 + 4 * tokens**2 * width
    return layers * per_block + 2 * patches * visual.conv1.weight.numel()


@torch.no_grad()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--weights", help="replaces the configuration's")
    parser.add_argument("--size", type=int, nargs=2, default=(375, 500), help="original height and width in pixels")
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), help="replaces the configuration's")
    parser.add_argument("--baseline", action="store_true", help="also one window and one view per pass")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    config = load_config(args.config)
    if args.weights:
        config.model.model_name = args.weights
    if args.dtype:
        config.model.dtype = args.dtype
    seconds: dict[str, float] = {}
    seconds["model and text bank"], model = timed(lambda: build_model(config))
    pipeline, settings, bank = model.pipeline, model.settings, model.bank
    device = bank.features.device

    size = (args.size[0], args.size[1])
    short = config.test_pipeline[1].scale[1]
    factor = min(2048 / max(size), short / min(size))
    resized = [int(side * factor + 0.5) for side in size]
    pixels = np.random.default_rng(0).integers(0, 256, (*resized, 3), dtype=np.uint8)
    image = normalise(pixels).to(device)
    plan = pipeline.plan(image)
    views = VIEWS if settings.img_engineering else 1
    pipeline.patch_logits([image[:, : plan.rows.window, : plan.columns.window]], bank)  # warm-up

    seconds["encoder and text product"], patches = timed(lambda: pipeline.patch_logits([image], bank)[0])
    seconds["stitching"], logits = timed(lambda: stitch(patches, plan, size), 3)
    guide = F.interpolate(image[None], size=size, mode="bilinear")[0]
    if settings.pamr_steps:
        seconds["PAMR"], _ = timed(lambda: pamr(logits, guide, settings.pamr_steps, settings.pamr_stride))
    seconds["whole image"], _ = timed(lambda: pipeline([image], [size], bank))

    peak = matrix_peak(device, pipeline.encoder.visual.conv1.weight.dtype)
    flops = encoder_flops(pipeline.encoder.visual, plan.grid[0] * plan.grid[1]) * plan.count * views
    achieved = flops / seconds["encoder and text product"] / 1e9
    figures: dict[str, Any] = {
        "config": str(args.config), "image": list(size), "resized": resized, "windows": plan.count,
        "encoder_passes": plan.count * views, "queries": len(bank.features), "dtype": settings.dtype,
        "seconds": seconds, "gflops_encoder": achieved, "gflops_matrix_peak": peak,
        "share_of_peak": achieved / peak, "peak_memory_mib": peak_memory_mib(), "machine": machine(),
        "versions": versions(),
    }  # fmt: skip
    if args.baseline:
        few = min(6, plan.count)
        crops = cut_windows(image, plan, 0, few)

        def one_by_one() -> None:
            for crop in crops:
                for _ in range(views):
                    pipeline.encoder(crop[None].to(pipeline.encoder.visual.conv1.weight.dtype))

        one_by_one()
        took, _ = timed(one_by_one)
        figures["seconds"]["encoder, one window and view a pass (scaled up)"] = took / few * plan.count
    table = Table(title=f"{args.config.name}, {size[0]} x {size[1]}, {plan.count} windows x {views} views, "
                        f"{len(bank.features)} queries, {settings.dtype}")  # fmt: skip
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    for stage, value in figures["seconds"].items():
        table.add_row(stage, f"{value:.3f}")
    console = make_console()
    console.print(table)
    console.print(f"encoder {achieved:.0f} GFLOP/s = {achieved / peak:.0%} of the matrix peak of {peak:.0f} GFLOP/s "
                  f"measured in this run; peak memory {figures['peak_memory_mib']}")  # fmt: skip
    if args.out:
        write_json(args.out, figures)
    return 0


if __name__ == "__main__":
    run(main)
