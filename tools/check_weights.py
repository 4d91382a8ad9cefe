"""Check real ViT-B/16 weights: text tower and tokenizer against recorded embeddings.

    python tools/check_weights.py                      # OpenAI's ViT-B/16, by name
    python tools/check_weights.py --weights ViT-B-16.pt

`tools/real_text_embeddings` holds float16 features of OpenAI's ViT-B/16 for the prompt
"a photo of a {}", as published with Cascade-CLIP (ICML 2024): the 20 classes of Pascal
VOC and the 171 of COCO-Stuff. Every cosine must exceed 0.9999.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from itaclip.clip import load_clip
from itaclip.console import make_console, run
from itaclip.errors import ItaclipError
from itaclip.openmmlab import PascalVOC20Dataset
from itaclip.text import TextEncoder

RECORDED = Path(__file__).parent / "real_text_embeddings"
SMALLEST_COSINE = 0.9999


def cosines(encoder: TextEncoder, file: str, names: tuple[str, ...]) -> torch.Tensor:
    """Cosine of every class name's feature with the recorded one."""
    recorded = torch.from_numpy(np.load(RECORDED / file)).float()
    features = encoder([f"a photo of a {name}" for name in names]).cpu()
    if features.shape != recorded.shape:
        raise ItaclipError(
            f"the weights give features of {features.shape[1]} channels; {file} has {recorded.shape[1]} "
            "(it was recorded with ViT-B/16)."
        )
    return F.cosine_similarity(features, recorded)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="ViT-B/16", help="name or path (default: ViT-B/16)")
    args = parser.parse_args()
    console = make_console()
    encoder = TextEncoder(load_clip(args.weights))
    good = True
    from mmseg.datasets import COCOStuffDataset  # importable only after itaclip.openmmlab

    for file, names in (
        ("voc12_single.npy", PascalVOC20Dataset.METAINFO["classes"]),
        ("coco_single.npy", COCOStuffDataset.METAINFO["classes"]),
    ):
        values = cosines(encoder, file, names)
        worst = int(values.argmin())
        good &= bool(values[worst] > SMALLEST_COSINE)
        console.print(f"{file}: {len(names)} classes, smallest cosine {values[worst]:.6f} ({names[worst]})")
    console.print(
        "ok: text tower and tokenizer are those of the recording" if good else "DIFFERENT weights or tokenizer"
    )
    return 0 if good else 1


if __name__ == "__main__":
    run(main)
