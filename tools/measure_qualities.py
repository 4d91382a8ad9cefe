"""Measure speed and accuracy of the qualities and precisions of `itaclip.Segmenter`, on a data set.

    python tools/measure_qualities.py --config configs/cfg_demo.py --engine openvino --dtypes fp32 bf16 int8 \\
        --out docs/results/qualities_demo.json

For every quality, from exact (published windows and views) to fast, and every precision: seconds,
mIoU, and the share of pixels with the same label as the first one. Resizing, classes, texts and
thresholds are the configuration's; only the stride, the views and the precision change.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from itaclip import Segmenter
from itaclip.common.console import make_console, progress, run, table_of
from itaclip.common.environment import machine, versions
from itaclip.core.engines import ENGINES
from itaclip.core.quality import QUALITIES, quality_settings
from itaclip.core.settings_checks import PRECISIONS
from itaclip.files import refuse_arguments, write_json
from itaclip.research.evaluation.counts import IoUCounts
from itaclip.research.evaluation.setup import build_dataset
from itaclip.research.openmmlab.configuration import load_config


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--data-root", help="replaces the configuration's")
    parser.add_argument("--weights", help="replaces the configuration's")
    parser.add_argument("--engine", choices=ENGINES, default="torch", help="what runs CLIP (%(default)s)")
    parser.add_argument("--dtypes", nargs="+", choices=PRECISIONS, default=["fp32"], help="precisions (%(default)s)")
    parser.add_argument("--limit", type=int, help="only the first N images")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    args = parser.parse_args()
    refuse_arguments("out", vars(args))
    dataset = build_dataset(load_config(args.config, args.data_root))
    classes, images = len(dataset.metainfo["classes"]), range(min(args.limit or len(dataset), len(dataset)))
    segmenters = {
        dtype: Segmenter.from_config(args.config, model=args.weights, dtype=dtype, engine=args.engine)
        for dtype in args.dtypes
    }
    crop = segmenters[args.dtypes[0]].settings.slide_crop
    variants = [(name, dtype) for name in QUALITIES for dtype in args.dtypes]
    counts = {variant: IoUCounts(classes) for variant in variants}
    seconds, equal = dict.fromkeys(variants, 0.0), {variant: list[float]() for variant in variants}
    console = make_console()
    with progress(console, len(images), "images") as advance:
        for i in images:
            sample = dataset[i]["data_samples"]
            first = None
            for name, dtype in variants:
                began = time.perf_counter()
                labels = segmenters[dtype](sample.img_path, **quality_settings(name, crop)).labels
                seconds[name, dtype] += time.perf_counter() - began
                first = labels if first is None else first
                equal[name, dtype].append(float((labels == first).mean()))
                counts[name, dtype].add(torch.from_numpy(labels), sample.gt_sem_seg.data[0])
            advance(1)
    rows = [
        {
            "quality": name,
            "dtype": dtype,
            **quality_settings(name, crop),
            "mIoU": round(counts[name, dtype].metrics().mean_iou, 2),
            "labels_as_first": round(float(np.mean(equal[name, dtype])), 4),
            "seconds_per_image": round(seconds[name, dtype] / len(images), 3),
        }
        for name, dtype in variants
    ]
    write_json(args.out, {"config": str(args.config), "images": len(images), "rows": rows, "machine": machine(),
                          "versions": versions()})  # fmt: skip
    console.print(table_of(f"{args.config.name}, {len(images)} images", rows))
    return 0


if __name__ == "__main__":
    run(main)
