"""Measure region sources, and SAM 3 with many prompts, at true sizes with random weights.

    python tools/measure_segmenters.py --regions --out docs/results/regions_speed.json
    python tools/measure_segmenters.py --sam3 --prompts 150 --out docs/results/sam3_speed.json

Needs no weights: times do not depend on their values, except for what passes a threshold. SAM 3 takes
4 GiB of memory in float32.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from transformers import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2ImageProcessor,
    Sam2Model,
    Sam2VisionConfig,
    Sam3Config,
    Sam3Model,
)

from itaclip.common.console import make_console, run, table_of
from itaclip.common.environment import machine, versions
from itaclip.core.concepts.options import Sam3Options
from itaclip.core.concepts.sam3 import Sam3
from itaclip.core.images import normalise
from itaclip.core.regions.source import RegionSource, region_source
from itaclip.core.second_encoders import NAMES
from itaclip.files import refuse_arguments, write_json
from itaclip.research.benchmark.segmenters import region_seconds, sam3_seconds
from itaclip.research.benchmark.stages import photo


def sources(folder: Path, names: list[str]) -> dict[str, RegionSource]:
    """Build the region sources, those with weights from random ones of true size."""
    found: dict[str, RegionSource] = {}
    for name in names:
        if name.startswith("gram"):
            encoder = "dinov3-vits16"
            path = folder / f"{encoder}.safetensors"
            if not path.exists():
                model = timm.create_model(NAMES[encoder], pretrained=False, num_classes=0)
                save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
            found[name] = region_source(f"{name}:{encoder}@{path}")
        elif name.startswith("sam2"):
            if not (folder / "sam2").exists():
                sam2_large().save_pretrained(folder / "sam2")
                Sam2ImageProcessor().save_pretrained(folder / "sam2")
            found[name] = region_source(f"{name}:{folder / 'sam2'}")
        else:
            found[name] = region_source(name)
    return found


def sam2_large() -> Sam2Model:
    """Build SAM 2 with the sizes of hiera-large."""
    backbone = Sam2HieraDetConfig(
        hidden_size=144, num_attention_heads=2, blocks_per_stage=[2, 6, 36, 4],
        embed_dim_per_stage=[144, 288, 576, 1152], num_attention_heads_per_stage=[2, 4, 8, 16],
        window_size_per_stage=[8, 4, 16, 8], global_attention_blocks=[23, 33, 43],
        window_positional_embedding_background_size=[7, 7],
    )  # fmt: skip
    vision = Sam2VisionConfig(backbone_config=backbone, backbone_channel_list=[1152, 576, 288, 144])
    return Sam2Model(Sam2Config(vision_config=vision)).eval()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--regions", action="store_true", help="region sources")
    what.add_argument("--sam3", action="store_true", help="SAM 3 with and without preview, and prompt by prompt")
    parser.add_argument("--sources", nargs="+", default=["felzenszwalb", "slic", "gram-fast", "gram", "sam2"],
                        help="with --regions (default: %(default)s)")  # fmt: skip
    parser.add_argument("--prompts", type=int, default=150, help="with --sam3 (default: %(default)s)")
    parser.add_argument("--bucket", type=int, default=4, help="with --sam3: prompts decoded together "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--preview-sides", type=int, nargs="+", default=[672, 336], help="with --sam3: pixels, "
                        "ActiveSAM's first and second version (default: 672 336)")  # fmt: skip
    parser.add_argument("--size", type=int, nargs=2, default=(375, 500), metavar=("HEIGHT", "WIDTH"),
                        help="of the image (default: 375 500)")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=3, help="with --regions (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    args = parser.parse_args()
    refuse_arguments("out", vars(args))
    torch.manual_seed(0)
    image = photo((args.size[0], args.size[1]))
    rows: list[dict[str, Any]]
    if args.regions:
        with tempfile.TemporaryDirectory() as folder:
            rows = region_seconds(sources(Path(folder), args.sources), image, args.repeats)
    else:
        model = Sam3(Sam3Model(Sam3Config()).eval())
        rows = [
            sam3_seconds(model, normalise(image), args.prompts, args.bucket, Sam3Options(preview_side=side))
            for side in args.preview_sides
        ]
    write_json(args.out, {"machine": machine(), "versions": versions(), "size": list(args.size), "rows": rows})
    make_console().print(table_of("seconds", rows))
    return 0


if __name__ == "__main__":
    run(main)
