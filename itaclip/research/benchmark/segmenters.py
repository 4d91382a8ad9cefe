"""Seconds of region sources, and of SAM 3 with many prompts, at true sizes with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput

from itaclip.core.concepts.options import Sam3Options
from itaclip.core.concepts.sam3 import EncodedImage, Prompts, Sam3
from itaclip.core.regions.source import RegionSource
from itaclip.research.benchmark.machine import timed


def region_seconds(
    sources: Mapping[str, RegionSource], image: NDArray[np.uint8], repeats: int = 3
) -> list[dict[str, Any]]:
    """Measure seconds per image of every source; they take turns, and the fastest of the repeats counts.

    Args:
        sources: by the name that the rows show; the first is what ratios are told against.
        image: H x W x 3 uint8 RGB.
        repeats: turns.
    """
    best = dict.fromkeys(sources, float("inf"))
    regions = dict.fromkeys(sources, 0)
    for _ in range(repeats):
        for name, source in sources.items():
            seconds, found = timed(lambda source=source: source(image))  # type: ignore[misc]
            best[name], regions[name] = min(best[name], seconds), len(np.unique(found))
    first = next(iter(best.values()))
    return [
        {"regions": name, "seconds": round(seconds, 3), "ratio": round(seconds / first, 2), "found": regions[name]}
        for name, seconds in best.items()
    ]


@torch.no_grad()
def sam3_seconds(
    model: Sam3, image: Tensor, prompts: int, bucket: int = 4, options: Sam3Options | None = None
) -> dict[str, Any]:
    """Measure the parts of an image with many prompts, with a preview and prompt by prompt, and add them up.

    Prompt by prompt is transformers' own forward pass for each, with the image encoded once, and a
    loop over all its instances. Every part is measured on one bucket of prompts, which all cost alike.

    Args:
        model: SAM 3.
        image: 3 x H x W, normalised for CLIP.
        prompts: number of prompts of the whole image.
        bucket: prompts that are decoded together.
        options: of the preview.
    """
    chosen = options or Sam3Options()
    words = [f"thing number {number}" for number in range(bucket)]
    encoded_words = model.encode_prompts(words)
    kept = min(chosen.preview_most, max(1, int(prompts * chosen.preview_share)))

    image_s, encoded = timed(lambda: model.encode_image(image))
    preview_s, small = timed(lambda: model.encode_preview(image, chosen.preview_side))

    def one_by_one() -> Tensor:
        return whole_model(model, encoded, encoded_words[:1], chosen.confidence)

    parts: dict[str, tuple[Callable[[], Any], int]] = {
        "a prompt in the preview": (lambda: model.presence(small, encoded_words), bucket),
        "a prompt decoded": (lambda: model.maps(encoded, encoded_words, chosen.confidence), bucket),
        "a prompt by transformers": (one_by_one, 1),
    }
    per_prompt = dict.fromkeys(parts, float("inf"))
    for _ in range(2):
        for name, (run, count) in parts.items():
            per_prompt[name] = min(per_prompt[name], timed(run)[0] / count)
    apart = float((model.maps(encoded, encoded_words[:1], chosen.confidence)[0] - one_by_one()).abs().max())
    plain = image_s + prompts * per_prompt["a prompt by transformers"]
    bucketed = image_s + prompts * per_prompt["a prompt decoded"]
    previewed = image_s + preview_s + prompts * per_prompt["a prompt in the preview"]
    previewed += kept * per_prompt["a prompt decoded"]
    return {
        "prompts": prompts, "kept": kept, "bucket": bucket, "preview side": chosen.preview_side,
        "the image, s": round(image_s, 2), "the image in the preview, s": round(preview_s, 2),
        **{f"{name}, s": round(seconds, 3) for name, seconds in per_prompt.items()},
        "prompt by prompt, s": round(plain, 1), "in buckets, s": round(bucketed, 1),
        "with preview, s": round(previewed, 1),
        "in buckets, times as fast": round(plain / bucketed, 2),
        "with preview, times as fast": round(plain / previewed, 2),
        "largest difference": f"{apart:.0e}",
    }  # fmt: skip


@torch.no_grad()
def whole_model(model: Sam3, image: EncodedImage, prompt: Prompts, confidence: float) -> Tensor:
    """Run transformers' own forward pass for one prompt, and fuse all its instances in a loop: h x w.

    Args:
        model: SAM 3.
        image: from `Sam3.encode_image`.
        prompt: a single one.
        confidence: least score of an instance.
    """
    unused = torch.empty(0)  # transformers drops the coarsest level
    positions = (unused,) * (len(image.levels) - 1) + (image.positions, unused)
    output = model.model(
        vision_embeds=Sam3VisionEncoderOutput(
            fpn_hidden_states=(*image.levels, unused), fpn_position_encoding=positions
        ),
        text_embeds=BaseModelOutputWithPooling(pooler_output=prompt.features),
        attention_mask=prompt.mask.long(),
    )
    presence = output.presence_logits[0, 0].sigmoid()
    scores = output.pred_logits[0].sigmoid() * presence
    masks = output.pred_masks[0].sigmoid()
    found: Tensor = output.semantic_seg[0, 0].sigmoid()
    for score, one in zip(scores, masks, strict=True):
        if score >= confidence:
            found = torch.maximum(found, one * score)
    return found * presence
