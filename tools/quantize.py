"""Calibrate int8 on your own images and see which labels change.

    python tools/quantize.py --images photos --classes "cat; sofa, couch" --model ViT-B/16
    python tools/quantize.py --images data/demo/JPEGImages --classes-file configs/cls_demo.txt --model demo

The first images by name measure the ranges of int8; the others are segmented in float32, bfloat16
and int8, and the shares of equal labels are printed. The rounded model is kept: every later start
with the same weights and the printed settings loads it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from itaclip.apps.command.options import add_class_options, add_model_options, choose_vocabulary, segmenter_maker
from itaclip.common.console import make_console, run, table_of
from itaclip.common.environment import machine, versions
from itaclip.core.engines.calibration import CALIBRATION_IMAGES, images_of
from itaclip.errors import ItaclipError
from itaclip.files import refuse_arguments, write_json
from itaclip.research.benchmark.machine import timed
from itaclip.segmenter import Segmenter
from itaclip.vocabulary import Vocabulary

PRECISIONS: dict[str, dict[str, str]] = {
    "float32": {"engine": "torch", "dtype": "fp32"},
    "OpenVINO, float32": {"engine": "openvino", "dtype": "fp32"},
    "OpenVINO, bfloat16": {"engine": "openvino", "dtype": "bf16"},
    "OpenVINO, int8": {"engine": "openvino", "dtype": "int8"},
}


def labels(segmenter: Segmenter, vocabulary: Vocabulary, paths: Sequence[Path]) -> list[NDArray[np.int32]]:
    """Label maps of some images."""
    return [segmenter(path, vocabulary).labels for path in paths]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="a folder of images like those to be labelled")
    parser.add_argument("--calibrate-on", help="another folder, or demo (default: --images)")
    parser.add_argument("--limit", type=int, default=12, help="images to compare labels on (%(default)s)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    add_model_options(parser)
    add_class_options(parser)
    args = parser.parse_args()
    refuse_arguments("out", vars(args))
    console = make_console()
    calibration = args.calibrate_on or str(args.images)
    used = set(images_of(calibration)[:CALIBRATION_IMAGES]) if calibration != "demo" else set()
    files = images_of(args.images)
    compared = [path for path in files if path not in used][: args.limit]
    if not compared:
        raise ItaclipError(
            f"{args.images}: all {len(files)} images are used to calibrate; add more, or set --calibrate-on."
        )
    make, device = segmenter_maker(args)
    expected: list[NDArray[np.int32]] = []
    rows = []
    for name, settings in PRECISIONS.items():
        segmenter = make(device=device, calibration=calibration, **settings)
        vocabulary = choose_vocabulary(args, segmenter)
        segmenter(compared[0], vocabulary)  # converts, and warms up
        seconds, results = timed(partial(labels, segmenter, vocabulary, compared))
        expected = expected or results
        same = np.concatenate([(a == b).ravel() for a, b in zip(results, expected, strict=True)])
        rows.append(
            {"engine, precision": name, "seconds an image": seconds / len(compared), "equal labels": same.mean()}
        )
    console.print(table_of(f"{len(compared)} images, labels against float32", rows))
    console.print(f"Use it: engine=openvino dtype=int8 calibration={calibration}", markup=False)
    if args.out:
        write_json(args.out, {"calibration": calibration, "rows": rows, "machine": machine(), "versions": versions()})
    return 0


if __name__ == "__main__":
    run(main)
