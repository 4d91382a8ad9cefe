"""Measure what dense features cost beside a plain pass of an encoder, at true sizes with random weights.

    python tools/measure_encoders.py --out docs/results/encoders.json

The plain pass is that of Transformers' own module over the same windows: TIPSv2 B/14 on windows of 448 pixels, and
C-RADIOv3-B, without its adaptor, on the windows of 336 pixels of one image. RADSeg's side has everything from the image
to logits of 150 queries. Both take turns; processor time is compared, which other programs disturb least.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import RadioConfig, RadioModel, Tipsv2VisionConfig, Tipsv2VisionModel

from itaclip.common.console import make_console, run, table_of
from itaclip.common.environment import machine, versions
from itaclip.core.clip.image_text import ImageTextModel
from itaclip.core.clip.radio import Adaptor, RadioImage
from itaclip.core.clip.tokenizer_source import TokenizerSource
from itaclip.core.encoder import DenseEncoder
from itaclip.core.methods import get_method
from itaclip.core.pipeline import Pipeline
from itaclip.core.settings import Settings
from itaclip.core.text import TextBank, parse_class_names
from itaclip.files import refuse_arguments, write_json

_QUERIES = 150
_CHANNELS = 1536  # of SigLIP 2 giant; the adaptor's inner width is taken as large
_STATISTICS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def of_tipsv2(windows: int) -> tuple[str, Callable[[], Any], Callable[[], Any]]:
    """Build TIPSv2 B/14: its name, the library's pass, and the reading of values."""
    visual: Any = Tipsv2VisionModel(Tipsv2VisionConfig()).eval().requires_grad_(False)
    encoder = DenseEncoder(visual, get_method("maskclip"))
    pixels = torch.randn(windows, 3, 448, 448)
    return "TIPSv2 B/14, maskclip", lambda: visual(pixels), lambda: encoder(pixels)


def of_radio(side: int, stride: int) -> tuple[str, Callable[[], Any], Callable[[], Any]]:
    """Build C-RADIOv3-B: its name, the library's pass over the windows of an image, and RADSeg."""
    config = RadioConfig(hidden_size=768, num_hidden_layers=12, num_attention_heads=12)
    model = RadioModel(config).eval()
    visual = RadioImage(model, Adaptor(768, _CHANNELS, _CHANNELS, 1), 0)
    clip = ImageTextModel(visual, torch.nn.Identity(), visual, temperature=0.01, tokenizer=TokenizerSource(), facts=(),
                          statistics=_STATISTICS)  # fmt: skip
    settings = Settings(method="radseg", slide_crop=336, slide_stride=stride, img_engineering=False, logit_scale=100)
    pipeline, image = Pipeline(clip, settings), torch.randn(3, side, side)
    bank = TextBank(F.normalize(torch.randn(_QUERIES, _CHANNELS), dim=-1),
                    parse_class_names([f"class {i}" for i in range(_QUERIES)]))  # fmt: skip
    cut = image.unfold(1, 336, stride).unfold(2, 336, stride).permute(1, 2, 0, 3, 4).flatten(0, 1)
    return "C-RADIOv3-B, radseg", lambda: model(cut), lambda: pipeline.patch_logits([image], bank)


@torch.no_grad()
def compared(name: str, plain: Callable[[], Tensor], dense: Callable[[], Tensor], repeats: int) -> dict[str, Any]:
    """Run both in turns after a warm-up: a row of the table, from the fastest run of each."""
    best = {plain: float("inf"), dense: float("inf")}
    for number in range(repeats + 1):
        for call in best:
            began = time.process_time()
            call()
            if number:
                best[call] = min(best[call], time.process_time() - began)
    return {"encoder": name, "plain": round(best[plain], 3), "dense": round(best[dense], 3),
            "ratio": round(best[dense] / best[plain], 3)}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=2, help="windows of TIPSv2 (default: 2)")
    parser.add_argument("--side", type=int, default=560, help="side of RADSeg's image, stride 224 (default: 560)")
    parser.add_argument("--repeats", type=int, default=5, help="runs, of which the fastest counts (default: 5)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    args = parser.parse_args()
    refuse_arguments("out", vars(args))
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows = [compared(*of_tipsv2(args.windows), args.repeats), compared(*of_radio(args.side, 224), args.repeats)]
    content = {"windows": args.windows, "side": args.side, "repeats": args.repeats, "threads": 1, "machine": machine(),
               "versions": versions(), "rows": rows}  # fmt: skip
    write_json(args.out, content)
    make_console().print(table_of("processor seconds", rows))
    return 0


if __name__ == "__main__":
    run(main)
