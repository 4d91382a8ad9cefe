"""Measure how well adaptive windows and views, and wider strides, agree with all of them.

    python tools/measure_adaptive.py --config configs/cfg_demo.py --out docs/results/adaptive_demo.json

Every image is segmented with quality `exact` (stride of an eighth of a window, five views), with
plain wider strides, and adaptively with several tolerances. Reports for each variant: its encoder
passes relative to `exact`, the share of pixels with the exact label (mean, and worst image), and
mIoU. Writes a plot as PNG next to the JSON file.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from itaclip.common.console import make_console, progress, run, table_of
from itaclip.common.environment import machine, versions
from itaclip.core.quality import quality_settings
from itaclip.core.settings import Settings
from itaclip.files import atomic_path, refuse_arguments, write_json
from itaclip.research.comparison.ablation import Ablation
from itaclip.research.evaluation.counts import IoUCounts
from itaclip.research.evaluation.setup import build_dataset
from itaclip.research.openmmlab.configuration import load_config

STEPS = (1, 2, 3, 4, 8)  # strides of n eighths of a window
TOLERANCES = (1.0, 0.03, 0.01, 0.005, 0.003, 0.002)
EXACT = "stride 1/8"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--data-root", help="replaces the configuration's")
    parser.add_argument("--weights", help="replaces the configuration's")
    parser.add_argument("--limit", type=int, help="only the first N images")
    parser.add_argument("--out", type=Path, required=True, help="JSON file; the plot is written next to it")
    args = parser.parse_args()
    refuse_arguments("out", vars(args))
    config = load_config(args.config, args.data_root, args.weights)
    dataset = build_dataset(config)
    ablation = Ablation(config)
    variants = variants_of(ablation.base)
    classes, images = len(dataset.metainfo["classes"]), range(min(args.limit or len(dataset), len(dataset)))
    counts = {name: IoUCounts(classes) for name in variants}
    passes, equal = {name: list[int]() for name in variants}, {name: list[float]() for name in variants}
    console = make_console()
    with progress(console, len(images), "images") as advance:
        for i in images:
            data = dataset[i]
            results = ablation.results(data, list(variants.values()))
            exact = results[0].labels
            for name, result in zip(variants, results, strict=True):
                passes[name].append(result.passes)
                equal[name].append(float((result.labels == exact).float().mean()))
                counts[name].add(result.labels.cpu(), data["data_samples"].gt_sem_seg.data[0])
            advance(1)
    rows = [
        {
            "variant": name,
            "passes": round(sum(passes[name]) / sum(passes[EXACT]), 3),
            "labels_as_exact": round(float(np.mean(equal[name])), 4),
            "worst_image": round(min(equal[name]), 4),
            "mIoU": round(counts[name].metrics().mean_iou, 2),
        }
        for name in variants
    ]
    write_json(args.out, {"config": str(args.config), "images": len(images), "rows": rows, "machine": machine(),
                          "versions": versions()})  # fmt: skip
    draw(rows, args.out.with_suffix(".png"))
    console.print(table_of(f"{args.config.name}, {len(images)} images", rows))
    return 0


def variants_of(base: Settings) -> dict[str, Settings]:
    """List `exact` first, then wider strides, then adaptive ones."""
    fine = base.changed(**quality_settings("exact", base.slide_crop))
    plain = {f"stride {n}/8": fine.changed(slide_stride=base.slide_crop * n // 8) for n in STEPS}
    return plain | {f"adaptive, tolerance {t:g}": fine.changed(tolerance=t) for t in TOLERANCES}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot agreement against passes: one line for plain strides, one for adaptive variants."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for kind, marker in (("stride", "s"), ("adaptive", "o")):
        points = sorted((row["passes"], row["labels_as_exact"]) for row in rows if row["variant"].startswith(kind))
        axes.plot(*zip(*points, strict=True), marker=marker, label={"stride": "plain strides"}.get(kind, kind))
    axes.set(xlabel="encoder passes, exact = 1", ylabel="labels as the exact ones", xlim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=130, format="png")


if __name__ == "__main__":
    run(main)
