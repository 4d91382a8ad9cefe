"""ITACLIP as one would write it first: the measure that speed-ups are told in.

One window and one view per encoder pass through open_clip's own modules, attention maps
stored, logits upsampled window by window, every neighbour of PAMR side by side. This is
how the published implementation works, and it gives the same labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from open_clip import CLIP, OPENAI_IMAGENET_TEMPLATES, get_tokenizer
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from itaclip.core.settings import Settings


def encode_text(clip: CLIP, text: str) -> Tensor:
    """Encode a text in 80 templates, all of them in a pass of full length."""
    tokens = get_tokenizer("ViT-B-16")([template(text) for template in OPENAI_IMAGENET_TEMPLATES])
    features = clip.encode_text(tokens.to(clip.text_projection.device), normalize=True)
    return F.normalize(features.mean(0), dim=-1)


def encode(visual: Any, pixels: Tensor, middle: Sequence[int]) -> Tensor:
    """Encode one view, 1 x 3 x h x w of the trained size, to tokens: 1 x N x E."""
    x = visual.conv1(pixels).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(1, 1, -1), x], dim=1) + visual.positional_embedding
    x = visual.ln_pre(x)
    blocks, saved = visual.transformer.resblocks, []
    for number, block in enumerate(blocks[:-1], 1):
        if number in middle:
            saved.append(_self_self(block, x)[0])
        x = block(x)
    maps, value = _self_self(blocks[-1], x)
    maps = 0.5 * maps + 0.5 * torch.stack(saved).mean(0)
    out = (maps @ value).transpose(1, 2).flatten(2)
    return visual.ln_post(x + blocks[-1].attn.out_proj(out)) @ visual.proj


def _self_self(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the stored maps softmax(q q') + softmax(k k'), and the values, of a block: 1 x h x N x ..."""
    attention = block.attn
    joint = F.linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in joint.chunk(3, dim=-1))
    scale = q.shape[-1] ** -0.5
    return (q @ q.transpose(-1, -2) * scale).softmax(-1) + (k @ k.transpose(-1, -2) * scale).softmax(-1), v


def window_logits(visual: Any, crop: Tensor, text: Tensor, settings: Settings, middle: Sequence[int]) -> Tensor:
    """Compute the logits of one window, 3 x h x w, upsampled to it: 1 x Q x h x w."""
    side, patch = crop.shape[-1], visual.conv1.kernel_size[0]
    views = [crop]
    if settings.img_engineering:
        kernel, sigma = [settings.blur_kernel] * 2, [settings.blur_sigma] * 2
        views += [tv.rgb_to_grayscale(crop, num_output_channels=3), tv.gaussian_blur(crop, kernel, sigma)]
        views += [crop.flip(1), crop.flip(2)]
    features = [F.normalize(encode(visual, view[None], middle)[:, 1:].float(), dim=-1) for view in views]

    def upsampled(patches: Tensor) -> Tensor:
        maps = (patches @ text.T).transpose(1, 2).unflatten(-1, (side // patch, side // patch))
        return F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False)

    if not settings.img_engineering:
        return upsampled(features[0])
    kept = upsampled((features[0] + features[1] + features[2]) / 3)
    turned = (upsampled(features[3]).flip(2) + upsampled(features[4]).flip(3)) / 2
    return settings.img_eng_coefficient * kept + (1 - settings.img_eng_coefficient) * turned


def slide(visual: Any, image: Tensor, text: Tensor, settings: Settings, middle: Sequence[int]) -> Tensor:
    """Average the logits of all windows of an image, 3 x H x W, at least as large as a window: Q x H x W."""
    height, width = image.shape[1:]
    crop, stride = settings.slide_crop, settings.slide_stride
    total, count = image.new_zeros(1, len(text), height, width), image.new_zeros(height, width)
    for row in range((height - crop + stride - 1) // stride + 1):
        for column in range((width - crop + stride - 1) // stride + 1):
            top, left = min(row * stride, height - crop), min(column * stride, width - crop)
            rows, columns = slice(top, top + crop), slice(left, left + crop)
            total[..., rows, columns] += window_logits(visual, image[:, rows, columns], text, settings, middle)
            count[rows, columns] += 1
    return (total / count)[0]


def refine(logits: Tensor, guide: Tensor, settings: Settings) -> Tensor:
    """Refine with PAMR, all neighbours side by side, Q x 8 D x H x W."""

    def neighbours(x: Tensor, centre: bool) -> Tensor:
        found = []
        for d in settings.pamr_stride:
            padded = F.pad(x[None], [d] * 4, mode="replicate")[0]
            for dy in (0, d, 2 * d):
                for dx in (0, d, 2 * d):
                    if centre or (dy, dx) != (d, d):
                        found.append(padded[:, dy : dy + x.shape[1], dx : dx + x.shape[2]])
        return torch.stack(found, dim=1)

    spread = neighbours(guide, centre=True).std(dim=1, keepdim=True)
    likeness = -(guide[:, None] - neighbours(guide, centre=False)).abs() / (1e-8 + 0.1 * spread)
    weights = likeness.mean(0).softmax(0)
    for _ in range(settings.pamr_steps):
        logits = (neighbours(logits, centre=False) * weights).sum(1)
    return logits


def decide(logits: Tensor, query_to_class: Sequence[int], settings: Settings) -> Tensor:
    """Decide on labels H x W: softmax over queries, best query of a class, thresholds, closing."""
    classes = max(query_to_class) + 1
    members = F.one_hot(torch.tensor(query_to_class), classes).T.to(logits)[:, :, None, None]
    scores = ((logits * settings.logit_scale).softmax(0)[None] * members).amax(1)
    if settings.area_thd is not None:
        area = torch.stack([(scores.argmax(0) == k).sum() for k in range(classes)])
        small = area <= settings.area_thd * area[1:].sum()
        small[0] = False
        scores[small] = 0
    labels = scores.argmax(0)
    labels[scores.amax(0) < settings.prob_thd] = 0
    if settings.closing:
        dilated = F.max_pool2d(labels[None].float(), 3, 1, 1)
        labels = -F.max_pool2d(-dilated, 3, 1, 1)[0]
    return labels.long()
