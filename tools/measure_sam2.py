"""Measure what a region map of SAM 2 costs: hiera-large at its true size, with random weights.

    python tools/measure_sam2.py --out docs/results/sam2.json

Times the image encoder and whole maps of one image. `sam2-64` runs the mask decoder 64 times as often as `sam2`; unless
`--all` is given, its seconds are those of the encoder and 64 times the rest of `sam2`. Random weights take the time of
the published ones up to the thresholds: how many masks pass them, and are painted, differs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Sam2Config, Sam2HieraDetConfig, Sam2ImageProcessor, Sam2Model, Sam2VisionConfig

from itaclip.common.console import make_console, run, table_of
from itaclip.common.environment import machine, versions
from itaclip.core.regions.sam2 import SAMPLINGS, Sam2Masks
from itaclip.files import write_json

_MORE = (SAMPLINGS["sam2-64"].points // SAMPLINGS["sam2"].points) ** 2


def hiera_large() -> Sam2Config:
    """Give the shapes of facebook/sam2-hiera-large (Ravi et al., 2024)."""
    widths = [144, 288, 576, 1152]
    backbone = Sam2HieraDetConfig(
        hidden_size=widths[0], embed_dim_per_stage=widths, num_attention_heads=2,
        num_attention_heads_per_stage=[2, 4, 8, 16], blocks_per_stage=[2, 6, 36, 4],
        global_attention_blocks=[23, 33, 43], window_size_per_stage=[8, 4, 16, 8],
        window_positional_embedding_background_size=[7, 7],
    )  # fmt: skip
    return Sam2Config(vision_config=Sam2VisionConfig(backbone_config=backbone, backbone_channel_list=widths[::-1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs=2, type=int, default=(375, 500), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--all", action="store_true", help="run sam2-64 too, which takes minutes")
    parser.add_argument("--note", default="", help="a remark about the machine, stored with the results")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    torch.manual_seed(0)
    image = np.random.default_rng(0).integers(0, 256, (*args.size, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        Sam2Model(hiera_large()).save_pretrained(folder)
        Sam2ImageProcessor().save_pretrained(folder)
        sources = {name: Sam2Masks(folder, sampling=name) for name in SAMPLINGS}
    small = sources["sam2"]
    with torch.inference_mode(), FlopCounterMode(display=False) as counted:
        began = time.perf_counter()
        small._model.get_image_embeddings(small._processor(images=image, return_tensors="pt")["pixel_values"])
        encoder = time.perf_counter() - began
    encoding = counted.get_total_flops()
    with FlopCounterMode(display=False) as counted:
        began = time.perf_counter()
        small(image)
        whole = time.perf_counter() - began
    decoding = counted.get_total_flops() - encoding
    many = encoder + _MORE * (whole - encoder)
    if args.all:
        began = time.perf_counter()
        sources["sam2-64"](image)
        many = time.perf_counter() - began
    rows = [
        {"part": "image encoder", "seconds": encoder, "TFLOP": encoding / 1e12, "measured": True},
        {"part": "sam2", "seconds": whole, "TFLOP": (encoding + decoding) / 1e12, "measured": True},
        {"part": "sam2-64", "seconds": many, "TFLOP": (encoding + _MORE * decoding) / 1e12, "measured": args.all},
    ]
    for row in rows:
        row |= {"seconds": round(float(row["seconds"]), 1), "TFLOP": round(float(row["TFLOP"]), 2)}
    make_console().print(table_of("region maps of SAM 2 hiera-large, random weights", rows))
    if args.out:
        write_json(args.out, {"machine": machine(), "versions": versions(), "note": args.note, "size": list(args.size),
                              "rows": rows})  # fmt: skip
    return 0


if __name__ == "__main__":
    run(main)
