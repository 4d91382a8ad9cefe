"""RF-CLIP as one would write it first, for one window: maps stored, loops over tokens, clusters and texts."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.core.methods import RFCLIP, Window


def rfclip(visual: Any, method: RFCLIP, window: Window, grid: tuple[int, ...]) -> Tensor:
    """Logits of a window of the trained size: rows x columns x Q.

    Args:
        visual: open_clip's image tower.
        method: its options; refocusing has no plain version.
        window: a batch of one, with `text`.
        grid: rows and columns.
    """
    assert window.text is not None
    assert not method.refocus
    x = visual.conv1(window.pixels).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(1, 1, -1), x], dim=1) + visual.positional_embedding
    x = visual.ln_pre(x)[0]
    maps, outputs = [], [x]
    for block in visual.transformer.resblocks:
        _, k, _ = heads(block, x)
        maps.append((k @ k.mT / k.shape[-1] ** 0.5).softmax(-1))
        x = block(x[None])[0]
        x = torch.cat([x[:1], denoised(x[1:], grid, method.sink_channels or ())])
        outputs.append(x)
    guide = sum(outputs[1:]) / len(maps)
    attention = (sum(maps) / len(maps))[:, 1:, 1:]
    cosine = F.cosine_similarity(guide[1:, None], guide[None, 1:], dim=-1)
    cosine = torch.where(cosine < 0.4, 0.0, cosine)
    last = visual.transformer.resblocks[-1]
    branches = []
    for enhanced in (cosine @ outputs[-2][1:], cosine @ guide[1:]):
        _, _, v = heads(last, enhanced)
        branches.append(last.attn.out_proj((attention @ v).transpose(0, 1).flatten(1)))
    patches = F.normalize(visual.ln_post(sum(branches) / 2) @ visual.proj, dim=-1)
    token = visual.ln_post(x[0]) @ visual.proj if window.image is None else window.image[0]
    return compared(method, patches, F.normalize(token, dim=-1), window.text).unflatten(0, tuple(grid))


def heads(block: Any, x: Tensor) -> tuple[Tensor, ...]:
    """Compute queries, keys and values of n x D tokens: h x n x d each."""
    joint = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
    return tuple(part.unflatten(-1, (block.attn.num_heads, -1)).transpose(0, 1) for part in joint.chunk(3, dim=-1))


def denoised(patches: Tensor, grid: tuple[int, ...], channels: tuple[int, ...]) -> Tensor:
    """Token by token: sinks take 0.4 of the mean of nine places, of which those outside are zero."""
    if not channels:
        return patches
    square = patches.unflatten(0, tuple(grid))
    found = square.clone()
    for row in range(grid[0]):
        for column in range(grid[1]):
            token = square[row, column] - square[row, column].min()
            share = token / token.sum()
            if any(share[channel] > 5 / len(share) for channel in channels):
                around = square[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].sum((0, 1)) / 9
                found[row, column] = 0.6 * square[row, column] + 0.4 * around
    return found.flatten(0, 1)


def compared(method: RFCLIP, patches: Tensor, token: Tensor, text: Tensor) -> Tensor:
    """N x Q logits: texts that lead their cluster move first."""
    moved, a = text.clone(), method.text_step
    for members in complete_linkage(text, method.text_distance):
        best = max(members, key=lambda q: float(token @ text[q]))
        nearest = (patches @ text[best]).topk(min(2, len(patches))).indices
        target = F.normalize(patches[nearest].mean(0), dim=0)
        moved[best] = F.normalize((1 - a) * text[best] + a * target, dim=0)
    b = method.class_weight
    return (1 - b) * patches @ moved.T + b * (text @ token)


def complete_linkage(text: Tensor, distance: float) -> list[list[int]]:
    """Merge the two clusters whose farthest members are closest, while these are no farther apart than `distance`."""
    apart = 1 - text @ text.T
    found = [[q] for q in range(len(text))]
    while len(found) > 1:
        pairs = [(float(apart[one][:, two].max()), i, j)
                 for i, one in enumerate(found) for j, two in enumerate(found) if i < j]  # fmt: skip
        nearest, i, j = min(pairs)
        if nearest > distance:
            break
        found[i] += found.pop(j)
    return found
