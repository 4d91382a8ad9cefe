"""What the qualities of `itaclip.Segmenter` cost and give, on a data set.

    python tools/measure_qualities.py --config configs/cfg_demo.py --out docs/results/qualities_demo.json

For exact (windows and views as published), balanced and fast: encoder passes, seconds,
mIoU, and the share of pixels that have exact's label. Resizing, classes, texts and
thresholds are the configuration's; only the stride and the views change.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from itaclip import Segmenter
from itaclip.console import make_console, progress, run, table_of
from itaclip.evaluation.counts import IoUCounts
from itaclip.evaluation.report import machine, versions
from itaclip.evaluation.setup import build_dataset, load_config
from itaclip.files import write_json
from itaclip.presets import QUALITIES, quality_settings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--data-root", help="replaces the configuration's")
    parser.add_argument("--weights", help="replaces the configuration's")
    parser.add_argument("--limit", type=int, help="only the first N images")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    args = parser.parse_args()
    config = load_config(args.config)
    if args.data_root is not None:
        config.test_dataloader.dataset.data_root = args.data_root
    dataset = build_dataset(config)
    classes, images = len(dataset.metainfo["classes"]), range(min(args.limit or len(dataset), len(dataset)))
    segmenter = Segmenter.from_config(args.config, model=args.weights)
    counts = {name: IoUCounts(classes) for name in QUALITIES}
    seconds, equal = dict.fromkeys(QUALITIES, 0.0), {name: list[float]() for name in QUALITIES}
    console = make_console()
    with progress(console, len(images), "images") as advance:
        for i in images:
            sample = dataset[i]["data_samples"]
            exact = None
            for name in QUALITIES:
                began = time.perf_counter()
                labels = segmenter(sample.img_path, **quality_settings(name, segmenter.settings.slide_crop)).labels
                seconds[name] += time.perf_counter() - began
                exact = labels if exact is None else exact
                equal[name].append(float((labels == exact).mean()))
                counts[name].add(torch.from_numpy(labels), sample.gt_sem_seg.data[0])
            advance(1)
    rows = [
        {
            "quality": name,
            **quality_settings(name, segmenter.settings.slide_crop),
            "mIoU": round(counts[name].metrics().mean_iou, 2),
            "labels_as_exact": round(float(np.mean(equal[name])), 4),
            "seconds_per_image": round(seconds[name] / len(images), 3),
        }
        for name in QUALITIES
    ]
    write_json(args.out, {"config": str(args.config), "images": len(images), "rows": rows, "machine": machine(),
                          "versions": versions()})  # fmt: skip
    console.print(table_of(f"{args.config.name}, {len(images)} images", rows))
    return 0


if __name__ == "__main__":
    run(main)
