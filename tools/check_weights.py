"""Check real weights: compare both towers with open_clip's, and OpenAI's weights also with recorded embeddings.

    python tools/check_weights.py                              # OpenAI's ViT-B/16, by name
    python tools/check_weights.py --weights ViT-B-16-SigLIP2   # any supported model
    python tools/check_weights.py --weights ViT-B-16.pt --recorded
    python tools/check_weights.py --weights ViT-B-16:mine.pt   # a file that does not state its activation
    python tools/check_weights.py --weights sam3:FOLDER        # SAM 3, which is not CLIP

It lists what the tensors do not show, and where it was taken from: activation, attention heads, normalisation,
tokenizer. The weights are not "ok" if any of it was only assumed.

For every family, pooled features of images and texts must match those of the library's forward pass
with the same weights (open_clip's, or Transformers' for TIPSv2 and C-RADIO): every cosine must exceed 0.99999.
For models that were published with scores of segmentation, the evaluation that repeats one is named.

`tools/real_text_embeddings` contains float16 features of OpenAI's ViT-B/16 for the prompt
"a photo of a {}", as published with Cascade-CLIP (ICML 2024), for the 20 classes of Pascal
VOC and the 171 of COCO-Stuff. Every cosine must exceed 0.9999.

SAM 3's maps must match those of transformers' own forward pass within 0.001. Then evaluate it with
``eval.py --config voc --method sam3 --preset published``; ActiveSAM's authors print 79.8 mIoU for SegEarth-OV3.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from itaclip.common.console import make_console, run
from itaclip.core.clip import architectures, load_clip
from itaclip.core.clip.encoded import Needs
from itaclip.core.clip.facts import measured_sizes
from itaclip.core.clip.names import is_path
from itaclip.core.clip.open_clip_modules import as_open_clip
from itaclip.core.clip.openai import CLIP
from itaclip.core.concepts.options import is_concept_model
from itaclip.core.encoder import DenseEncoder
from itaclip.core.images import normalise
from itaclip.core.methods import get_method
from itaclip.core.models import load_model
from itaclip.core.text import TextEncoder
from itaclip.errors import ItaclipError
from itaclip.research.benchmark.segmenters import whole_model
from itaclip.research.openmmlab import PascalVOC20Dataset

RECORDED = Path(__file__).parent / "real_text_embeddings"
RECORDED_MODELS = ("ViT-B/16", "ViT-B-16", "ViT-B/16:openai", "ViT-B-16:openai", "ViT-B-16-quickgelu:openai")
SMALLEST_COSINE = 0.9999
SMALLEST_TO_OPEN_CLIP = 0.99999
LARGEST_OF_SAM3 = 1e-3
PUBLISHED = {
    "tipsv2-b14": ("ade20k", "--preset tipsv2", "17.4 mIoU, README of TIPS's repository"),
    "tipsv2-l14": ("ade20k", "--preset tipsv2", "24.7 mIoU, README of TIPS's repository"),
    "tipsv2-so400m14": ("ade20k", "--preset tipsv2", "23.3 mIoU, README of TIPS's repository"),
    "tipsv2-g14": ("ade20k", "--preset tipsv2", "17.8 mIoU, README of TIPS's repository"),
    "c-radiov3-b": ("ade20k", "--method radseg --preset published",
                    "RADSeg: a mean of about 48 mIoU over five data sets without background, read off its figure"),
}  # fmt: skip
"""Configuration, options and published score by the name of a model."""
PROMPTS = ("a photo of a cat.", "dog", "a bad photo of the traffic light.", "a cropped photo of many small boats")


@torch.no_grad()
def to_open_clip(clip: Any, encoder: TextEncoder) -> Iterator[tuple[str, Tensor]]:
    """Compare pooled features with those of open_clip's own forward pass.

    Yields:
        The kind of features, and one cosine per image or text.
    """
    dense = DenseEncoder(clip.visual, get_method("clip"))
    rng, side = np.random.default_rng(0), dense.image_size
    pictures = [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(2)]
    last = dense.encode(torch.stack([normalise(picture) for picture in pictures]), Needs.of(outputs=[dense.depth]))
    model = as_open_clip(clip) if isinstance(clip, CLIP) else clip
    theirs = model.encode_image(torch.stack([_as_trained(picture, clip.visual) for picture in pictures]))
    yield "images", F.cosine_similarity(dense.tower.pooled(last.output(dense.depth)), theirs)
    yield "texts", F.cosine_similarity(encoder(PROMPTS), model.encode_text(encoder.tokenizer(PROMPTS)))


def _as_trained(rgb: np.ndarray[Any, Any], visual: Any) -> Tensor:
    """Normalise an image like open_clip's preprocessing."""
    mean = getattr(visual, "image_mean", open_clip.OPENAI_DATASET_MEAN)
    std = getattr(visual, "image_std", open_clip.OPENAI_DATASET_STD)
    pixels = torch.from_numpy(rgb).permute(2, 0, 1) / 255
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def to_recorded(encoder: TextEncoder, file: str, names: tuple[str, ...]) -> Tensor:
    """Compute the cosine of every class name's feature with the recorded one.

    Raises:
        ItaclipError: weights with another embedding size.
    """
    recorded = torch.from_numpy(np.load(RECORDED / file)).float()
    features = encoder([f"a photo of a {name}" for name in names]).cpu()
    if features.shape != recorded.shape:
        raise ItaclipError(
            f"the weights give features with {features.shape[1]} channels, but {file} has {recorded.shape[1]} "
            "(it was recorded with ViT-B/16)."
        )
    return F.cosine_similarity(features, recorded)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="ViT-B/16", help="name or path (default: ViT-B/16)")
    parser.add_argument("--activation", choices=("gelu", "quick_gelu"),
                        help="activation of weights that do not state it (default: as stated)")  # fmt: skip
    parser.add_argument("--recorded", action="store_true",
                        help="compare with the recorded embeddings; always done for ViT-B/16 by name")  # fmt: skip
    args = parser.parse_args()
    console = make_console()
    if is_concept_model(args.weights):
        return check_sam3(args.weights, console)
    clip = load_clip(args.weights, quick_gelu=args.activation and args.activation == "quick_gelu")
    for fact in clip.facts:
        console.print(f"{fact.name}: {fact.value} ({'ASSUMED ' if fact.assumed else 'from '}{fact.source})")
    assumed = [fact.name for fact in clip.facts if fact.assumed]
    encoder = TextEncoder(clip)
    good = True
    for what, values in to_open_clip(clip, encoder):
        good &= bool(values.min() > SMALLEST_TO_OPEN_CLIP)
        console.print(f"{what}: smallest cosine with the library's own {values.min():.7f}")
    if args.recorded or args.weights in RECORDED_MODELS:
        from mmseg.datasets import COCOStuffDataset  # importable only after itaclip.research.openmmlab

        for file, names in (
            ("voc12_single.npy", PascalVOC20Dataset.METAINFO["classes"]),
            ("coco_single.npy", COCOStuffDataset.METAINFO["classes"]),
        ):
            values = to_recorded(encoder, file, names)
            worst = int(values.argmin())
            good &= bool(values[worst] > SMALLEST_COSINE)
            console.print(f"{file}: {len(names)} classes, smallest cosine {values[worst]:.6f} ({names[worst]})")
    name = args.weights.partition(":")[0].lower()
    if name in PUBLISHED:
        config, options, score = PUBLISHED[name]
        console.print(f"To compare with {score}:\n  itaclip eval --config {config} --weights {args.weights} {options}",
                      markup=False, soft_wrap=True)  # fmt: skip
    if not good:
        console.print("DIFFERENT: other weights, another tokenizer, or an unsupported tower")
    elif assumed:
        named = f"Name the architecture ({_example(clip)}:{args.weights}), or put" if is_path(args.weights) else "Put"
        console.print(
            f"NOT CERTAIN: nothing states {', '.join(assumed)}. {named} the model's configuration beside the file."
        )
    else:
        console.print("ok")
    return 0 if good and not assumed else 1


def check_sam3(name: str, console: Console) -> int:
    """Compare SAM 3's maps of a random picture with transformers' own; returns the exit status."""
    model = load_model(name)
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    image, prompts = model.encode_image(normalise(picture)), model.encode_prompts(["cat", "traffic light"])
    together = model.maps(image, prompts, 0.5)
    apart = max(
        float((found - whole_model(model, image, prompts[i : i + 1], 0.5)).abs().max())
        for i, found in enumerate(together)
    )
    console.print(f"{model.name}: complete; maps differ from transformers' own by at most {apart:.1e}")
    console.print("ok" if apart < LARGEST_OF_SAM3 else "DIFFERENT: an unsupported version of transformers")
    return 0 if apart < LARGEST_OF_SAM3 else 1


def _example(clip: Any) -> str:
    """Return the name of an architecture with tensors of these sizes, or any."""
    found = architectures.like(measured_sizes(clip.state_dict()))
    return found[0].name if found else "ViT-B-16"


if __name__ == "__main__":
    run(main)
