"""Measure the effect of attention across windows at several strides, on a data set.

    python tools/measure_across.py --config configs/cfg_demo.py --out docs/results/across_demo.json

For every method and stride, with and without `across_windows`: encoder passes per image, mIoU, and
the share of pixels with the same label as the method's finest stride without it. Uses a single view,
no refinement and no closing; other settings are the configuration's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from itaclip.common.console import make_console, progress, run, table_of
from itaclip.common.environment import machine, versions
from itaclip.files import refuse_arguments, write_json
from itaclip.research.comparison.ablation import Ablation
from itaclip.research.evaluation.counts import IoUCounts
from itaclip.research.evaluation.setup import build_dataset
from itaclip.research.openmmlab.configuration import load_config


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=["clip", "sclip", "itaclip"], help="%(default)s")
    parser.add_argument(
        "--parts", nargs="+", type=int, default=[1, 2, 4], help="steps per window and axis (%(default)s)"
    )
    parser.add_argument("--limit", type=int, help="only the first N images")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    args = parser.parse_args()
    refuse_arguments("out", vars(args))
    config = load_config(args.config)
    dataset = build_dataset(config)
    ablation = Ablation(config)
    base = ablation.base.changed(img_engineering=False, pamr_steps=0, closing=False)
    keys = [(method, parts, across) for method in args.methods for parts in args.parts for across in (False, True)]
    variants = [
        base.changed(method=method, slide_stride=base.slide_crop // parts, across_windows=across)
        for method, parts, across in keys
    ]
    counts = {key: IoUCounts(len(dataset.metainfo["classes"])) for key in keys}
    equal, passes = {key: list[float]() for key in keys}, {key: list[int]() for key in keys}
    images = range(min(args.limit or len(dataset), len(dataset)))
    console = make_console()
    with progress(console, len(images), "images") as advance:
        for i in images:
            data = dataset[i]
            results = ablation.results(data, variants)
            for key, found in zip(keys, results, strict=True):
                finest = results[keys.index((key[0], max(args.parts), False))]
                counts[key].add(found.labels.cpu(), data["data_samples"].gt_sem_seg.data[0])
                equal[key].append(float((found.labels == finest.labels).float().mean()))
                passes[key].append(found.passes)
            advance(1)
    rows = [
        {"method": method, "stride": base.slide_crop // parts, "across_windows": across,
         "passes": round(float(np.mean(passes[method, parts, across])), 1),
         "mIoU": round(counts[method, parts, across].metrics().mean_iou, 2),
         "labels_as_finest": round(float(np.mean(equal[method, parts, across])), 4)}
        for method, parts, across in keys
    ]  # fmt: skip
    write_json(args.out, {"config": str(args.config), "images": len(images), "rows": rows, "machine": machine(),
                          "versions": versions()})  # fmt: skip
    console.print(table_of(f"{args.config.name}, {len(images)} images", rows))
    return 0


if __name__ == "__main__":
    run(main)
