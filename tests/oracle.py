"""An independent implementation of ITACLIP's mathematics, as simple as possible: loops, stored maps, no sharing.

Written from the description of the method alone, without the library's functions, so that
a fast path and its oracle cannot be wrong in the same way. Slow on purpose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

State = dict[str, Tensor]


@dataclass
class Options:
    patch: int = 16
    crop: int = 224
    stride: int = 112
    self_self: bool = True
    residual: bool = True
    middle: tuple[int, ...] = (7, 8, 10)
    views: bool = True
    view_weight: float = 0.75
    blur: tuple[int, float] = (11, 5.0)
    pamr_steps: int = 0
    dilations: tuple[int, ...] = (8, 16)
    scale: float = 40.0
    prob_thd: float = 0.0
    peak_thd: float = 0.0
    area_thd: float | None = None


def layer_norm(x: Tensor, state: State, name: str) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * state[name + ".weight"] + state[name + ".bias"]


def similarity(a: Tensor, b: Tensor) -> Tensor:
    return torch.softmax(a @ b.transpose(-1, -2) / math.sqrt(a.shape[-1]), dim=-1)


def heads_of(x: Tensor, state: State, block: str, causal: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v of one sequence: h x N x 64."""
    y = layer_norm(x, state, block + "ln_1")
    joint = y @ state[block + "attn.in_proj_weight"].T + state[block + "attn.in_proj_bias"]
    parts = joint.split(x.shape[-1], dim=-1)
    return tuple(p.reshape(len(x), -1, 64).transpose(0, 1) for p in parts)  # type: ignore[return-value]


def project_out(out: Tensor, state: State, block: str) -> Tensor:
    joined = out.transpose(0, 1).reshape(out.shape[1], -1)
    return joined @ state[block + "attn.out_proj.weight"].T + state[block + "attn.out_proj.bias"]


def mlp(x: Tensor, state: State, block: str) -> Tensor:
    y = layer_norm(x, state, block + "ln_2")
    hidden = y @ state[block + "mlp.c_fc.weight"].T + state[block + "mlp.c_fc.bias"]
    hidden = hidden * torch.sigmoid(1.702 * hidden)
    return hidden @ state[block + "mlp.c_proj.weight"].T + state[block + "mlp.c_proj.bias"]


def keys_kernel(t: float, a: float = -0.75) -> float:
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    if t < 2:
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return 0.0


def positions(state: State, rows: int, columns: int) -> Tensor:
    """Bicubic resampling with the factor (n + 0.1) / g, written out tap by tap."""
    table = state["visual.positional_embedding"]
    g = math.isqrt(len(table) - 1)
    if (rows, columns) == (g, g):
        return table

    def matrix(n: int) -> Tensor:
        weights = torch.zeros(n, g, dtype=torch.float64)
        for i in range(n):
            centre = (i + 0.5) * g / (n + 0.1) - 0.5
            base = math.floor(centre)
            for tap in range(base - 1, base + 3):
                weights[i, min(max(tap, 0), g - 1)] += keys_kernel(centre - tap)
        return weights

    grid = table[1:].double().reshape(g, g, -1)
    resampled = torch.einsum("rg,ghd,ch->rcd", matrix(rows), grid, matrix(columns))
    return torch.cat([table[:1], resampled.reshape(rows * columns, -1).float()])


def encode(pixels: Tensor, state: State, options: Options) -> Tensor:
    """Encode a 3 x h x w image to (1 + patches) x E tokens."""
    p = options.patch
    rows, columns = pixels.shape[1] // p, pixels.shape[2] // p
    kernel = state["visual.conv1.weight"].flatten(1)
    patches = [
        kernel @ pixels[:, r * p : (r + 1) * p, c * p : (c + 1) * p].flatten()
        for r in range(rows)
        for c in range(columns)
    ]
    x = torch.stack([state["visual.class_embedding"], *patches]) + positions(state, rows, columns)
    x = layer_norm(x, state, "visual.ln_pre")
    count = len({k.split(".")[3] for k in state if k.startswith("visual.transformer.resblocks.")})
    maps = {}
    for i in range(1, count + 1):
        block = f"visual.transformer.resblocks.{i - 1}."
        q, k, v = heads_of(x, state, block)
        maps[i] = similarity(q, q) + similarity(k, k) if options.self_self else similarity(q, k)
        if i < count:
            x = x + project_out(similarity(q, k) @ v, state, block)
            x = x + mlp(x, state, block)
    final = maps[count]
    if options.middle:
        final = 0.5 * final + 0.5 * sum(maps[i] for i in options.middle) / len(options.middle)
    out = project_out(final @ v, state, block)
    if options.residual:
        out = x + out
    return layer_norm(out, state, "visual.ln_post") @ state["visual.proj"]


def blur(picture: Tensor, size: int, sigma: float) -> Tensor:
    steps = np.arange(size) - size // 2
    kernel = np.exp(-0.5 * (steps / sigma) ** 2)
    kernel /= kernel.sum()
    planes = [
        cv2.sepFilter2D(plane.double().numpy(), -1, kernel, kernel, borderType=cv2.BORDER_REFLECT_101)
        for plane in picture
    ]
    return torch.from_numpy(np.stack(planes)).float()


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def crop_logits(crop: Tensor, state: State, text: Tensor, options: Options) -> Tensor:
    """Q x h x w logits of one crop, upsampled; padded to whole patches inside."""
    p = options.patch
    height, width = crop.shape[1:]
    below, right = -height % p, -width % p
    padded = torch.nn.functional.pad(crop, (0, right, 0, below))
    rows, columns = padded.shape[1] // p, padded.shape[2] // p

    def features(picture: Tensor) -> Tensor:
        return unit(encode(picture, state, options)[1:]).reshape(rows, columns, -1)

    if options.views:
        red, green, blue = padded
        grey = (0.2989 * red + 0.587 * green + 0.114 * blue).expand(3, -1, -1)
        kept = (features(padded) + features(grey) + features(blur(padded, *options.blur))) / 3 @ text.T
        down = features(padded.flip(1)).flip(0) @ text.T
        sideways = features(padded.flip(2)).flip(1) @ text.T
        grid = options.view_weight * kept + (1 - options.view_weight) * (down + sideways) / 2
    else:
        grid = features(padded) @ text.T
    maps = grid.permute(2, 0, 1)[None]
    upsampled = torch.nn.functional.interpolate(maps, size=padded.shape[1:], mode="bilinear", align_corners=False)
    return upsampled[0, :, :height, :width]


def slide(image: Tensor, state: State, text: Tensor, options: Options) -> Tensor:
    height, width = image.shape[1:]
    crop_h, crop_w = min(height, options.crop), min(width, options.crop)
    total, count = torch.zeros(len(text), height, width), torch.zeros(height, width)
    for row in range(max(height - crop_h + options.stride - 1, 0) // options.stride + 1):
        for column in range(max(width - crop_w + options.stride - 1, 0) // options.stride + 1):
            bottom = min(row * options.stride + crop_h, height)
            end = min(column * options.stride + crop_w, width)
            window = (slice(None), slice(bottom - crop_h, bottom), slice(end - crop_w, end))
            total[window] += crop_logits(image[window], state, text, options)
            count[window[1:]] += 1
    return total / count


def refine(masks: Tensor, guide: Tensor, options: Options) -> Tensor:
    """PAMR with every neighbour stored: Q x 16 x H x W."""

    def neighbours(x: Tensor, centre: bool) -> Tensor:
        height, width = x.shape[1:]
        found = []
        for d in options.dilations:
            for dy in (-d, 0, d):
                for dx in (-d, 0, d):
                    if dy or dx or centre:
                        ys = (torch.arange(height) + dy).clamp(0, height - 1)
                        xs = (torch.arange(width) + dx).clamp(0, width - 1)
                        found.append(x[:, ys][:, :, xs])
        return torch.stack(found, dim=1)

    spread = neighbours(guide, centre=True).std(dim=1, keepdim=True)
    affinity = -(guide[:, None] - neighbours(guide, centre=False)).abs() / (1e-8 + 0.1 * spread)
    weights = torch.softmax(affinity.mean(0), dim=0)
    for _ in range(options.pamr_steps):
        masks = (neighbours(masks, centre=False) * weights).sum(1)
    return masks


def decide(logits: Tensor, query_to_class: list[int], options: Options) -> tuple[Tensor, np.ndarray]:
    p = torch.softmax(options.scale * logits, dim=0)
    classes = max(query_to_class) + 1
    scores = torch.stack([p[[q for q, c in enumerate(query_to_class) if c == k]].max(0).values for k in range(classes)])
    if options.area_thd is not None:
        hard = scores.argmax(0)
        foreground = int((hard > 0).sum())
        for k in range(1, classes):
            if int((hard == k).sum()) <= options.area_thd * foreground:
                scores[k] = 0
    for k in range(classes):
        if scores[k].max() < options.peak_thd:
            scores[k] = 0
    labels = scores.argmax(0)
    labels[scores.max(0).values < options.prob_thd] = 0
    kernel = np.ones((3, 3), np.uint8)
    closed = cv2.morphologyEx(labels.numpy().astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    return scores, closed


def segment(
    image: Tensor, size: tuple[int, int], state: State, text: Tensor, query_to_class: list[int], options: Options
) -> tuple[Tensor, np.ndarray]:
    """Normalised 3 x H x W image to class scores and labels of the original size."""
    logits = slide(image, state, text, options)
    logits = torch.nn.functional.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
    if options.pamr_steps:
        guide = torch.nn.functional.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]
        logits = refine(logits, guide, options)
    return decide(logits, query_to_class, options)
