"""Measure time and memory per window for image towers of every family, at full size with random weights.

    python tools/measure_towers.py --out docs/results/towers.json
    python tools/measure_towers.py --models ViT-B-16 ViT-B-16-SigLIP2 --dtype bf16 --out towers.json

Builds only the image tower of each model. Windows have the size that it was trained on.
"""

from __future__ import annotations

import argparse
import copy
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import open_clip
import torch

from itaclip.common.console import make_console, run, table_of
from itaclip.common.environment import machine, versions
from itaclip.core.encoder import DTYPES, DenseEncoder
from itaclip.core.methods import METHODS, get_method
from itaclip.errors import ItaclipError
from itaclip.files import refuse_arguments, write_json
from itaclip.research.benchmark.machine import measured, timed

MODELS = (
    "ViT-B-16",
    "coca_ViT-B-32",
    "ViT-B-16-SigLIP2",
    "EVA02-B-16",
    "PE-Core-B-16",
    "ViT-L-14",
    "ViT-H-14",
    "ViT-g-14",
)


def image_tower(name: str) -> Any:
    """Build open_clip's image tower with random weights.

    Raises:
        ItaclipError: no such architecture.
    """
    config = open_clip.get_model_config(name)
    if config is None:
        raise ItaclipError(f"{name}: open_clip has no such architecture.")
    vision = copy.deepcopy(config["vision_cfg"]) | {"output_tokens": False}
    text = {"layers": 1, "width": 64, "heads": 1, "vocab_size": 100}
    torch.manual_seed(0)
    model = open_clip.model.CustomTextCLIP(config["embed_dim"], vision, text)
    return model.visual.eval().requires_grad_(False)


@torch.no_grad()
def cost(name: str, method: str, dtype: str, windows: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """Time and memory of a pass with some windows: a row of the table."""
    visual = image_tower(name)
    encoder = DenseEncoder(visual, get_method("clip")).lower(dtype).to(device)
    encoder.method = get_method(method, blocks=encoder.depth)
    weights = sum(p.numel() * p.element_size() for p in visual.parameters()) / 2**20
    pixels = torch.randn(windows, 3, encoder.image_size, encoder.image_size, device=device)
    memory, _ = measured(lambda: encoder(pixels), device)  # the first pass: later ones reuse its memory
    processor = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        encoder(pixels)
        processor = min(processor, time.process_time() - began)
    seconds, _ = timed(lambda: encoder(pixels), repeats)
    return {
        "model": name, "blocks": encoder.depth, "tokens": (encoder.image_size // encoder.patch_size) ** 2
        + encoder.tower.prefix, "seconds_per_window": round(seconds / windows, 4),
        "processor_seconds_per_window": round(processor / windows, 4), "weights_mib": round(weights),
        "activations_mib": round(memory.extra_mib), "peak_mib": round(memory.peak_mib),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help="open_clip's names")
    parser.add_argument("--method", default="itaclip", choices=[m for m in METHODS if not METHODS[m].reads_text])
    parser.add_argument("--dtype", default="fp32", choices=tuple(DTYPES))
    parser.add_argument("--windows", type=int, default=2, help="windows per pass (default: 2)")
    parser.add_argument("--repeats", type=int, default=3, help="runs, of which the fastest counts (default: 3)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--note", default="", help="a remark about the machine, stored in the file")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    args = parser.parse_args()
    refuse_arguments("out", vars(args))
    device = torch.device(args.device)
    rows = []
    for name in args.models:
        with get_context("spawn").Pool(1) as alone:  # measure the memory of each model separately
            rows.append(alone.apply(cost, (name, args.method, args.dtype, args.windows, args.repeats, device)))
        content = {
            "method": args.method, "dtype": args.dtype, "windows": args.windows, "device": args.device,
            "note": args.note, "machine": machine(), "versions": versions(), "rows": rows,
        }  # fmt: skip
        write_json(args.out, content)
    make_console().print(table_of(f"{args.method}, {args.dtype}", rows))
    return 0


if __name__ == "__main__":
    run(main)
