"""SAM 3's two transformers that read a prompt, as pure functions over the modules of transformers.

The same results as `Sam3DetrEncoderLayer` and `Sam3DetrDecoder`, but for rounding. Theirs copy activations of tens of
MiB, which takes a third of the time on a CPU. Shapes: T prompts of M tokens, N patches, C channels, Q queries.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SHARPNESS = 8.0  # of the logarithm of distances
_EPS = 1e-3  # of the inverse sigmoid


@dataclass(frozen=True)
class Decoded:
    """What the decoder found.

    Attributes:
        queries: T x Q x C, one per instance.
        presence: T x 1 float32 in [0, 1].
    """

    queries: Tensor
    presence: Tensor


def attention(module: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Run a `Sam3Attention`: T x N x C, for T x N x C queries and T x M x C keys and values.

    Args:
        module: its four projections.
        query: T x N x C.
        key: T x M x C.
        value: T x M x C.
        bias: added to the scores, T x (1 or h) x N x M, or broadcast to it.
    """
    split = (module.num_attention_heads, -1)
    q, k, v = (
        project(x).unflatten(-1, split).transpose(1, 2)
        for project, x in ((module.q_proj, query), (module.k_proj, key), (module.v_proj, value))
    )
    heads = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    found: Tensor = module.o_proj(heads.transpose(1, 2).flatten(2))
    return found


def token_bias(mask: Tensor, like: Tensor, queries: int) -> Tensor:
    """Make the bias that hides padding: T x 1 x queries x M, for T x M bool and the precision of `like`."""
    found = torch.zeros_like(mask, dtype=like.dtype).masked_fill(~mask, -torch.inf)
    return found[:, None, None].expand(-1, -1, queries, -1)


# --- the encoder -------------------------------------------------------------


def self_attended(layer: Any, x: Tensor, places: Tensor) -> Tensor:
    """Let patches attend to each other, with a residual: the first third of a layer, T x N x C."""
    normed = layer.layer_norm1(x)
    placed = normed + places
    return attention(layer.self_attn, placed, placed, normed).add_(x)


def read_prompts(layers: Iterable[Any], attended: Tensor, places: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """Let the patches of an image read prompts, layer after layer: T x N x C.

    Args:
        layers: of the encoder.
        attended: 1 x N x C, patches after `self_attended` of the first layer, which is alike for all prompts.
        places: 1 x N x C, positions of the patches.
        tokens: T x M x C.
        mask: T x M bool, False at padding.
    """
    count = len(tokens)
    seen = token_bias(mask, attended, attended.shape[1])
    x = attended
    for number, layer in enumerate(layers):
        x = self_attended(layer, x, places) if number else x
        normed = layer.layer_norm2(x).expand(count, -1, -1)
        x = attention(layer.cross_attn, normed, tokens, tokens, seen).add_(x)
        for one in x:  # what lies between the products of one prompt stays in a CPU's caches
            one += _feed_forward(layer.mlp, layer.layer_norm3(one))
    return x


def _feed_forward(mlp: Any, x: Tensor) -> Tensor:
    hidden = mlp.fc1(x)
    rectified = isinstance(mlp.activation_fn, nn.ReLU)
    found: Tensor = mlp.fc2(hidden.relu_() if rectified else mlp.activation_fn(hidden))
    return found


# --- the decoder -------------------------------------------------------------


def decode(
    decoder: Any, patches: Tensor, places: Tensor, tokens: Tensor, mask: Tensor, grid: tuple[int, int]
) -> Decoded:
    """Find instances of prompts, and whether there are any.

    Args:
        decoder: transformers' `Sam3DetrDecoder`.
        patches: T x N x C, from `read_prompts`.
        places: 1 x N x C, positions of the patches.
        tokens: T x M x C.
        mask: T x M bool, False at padding.
        grid: rows and columns of the N patches.
    """
    keys = patches + places
    x = torch.cat([decoder.presence_token.weight, decoder.query_embed.weight])[None].expand(len(tokens), -1, -1)
    seen = token_bias(mask, patches, x.shape[1])
    boxes = decoder.reference_points.weight.sigmoid()[None]  # of the first layer, alike for all prompts
    near = patches.new_zeros(len(tokens), decoder.config.num_attention_heads, x.shape[1], *grid)
    last = len(decoder.layers) - 1
    for number, layer in enumerate(decoder.layers):
        where = decoder.ref_point_head(decoder.position_encoding.encode_boxes(boxes))
        where = F.pad(where, (0, 0, 1, 0))  # the presence token comes first, and has no box
        placed = x + where
        x = layer.self_attn_layer_norm(x + attention(layer.self_attn, placed, placed, x))
        x = layer.text_cross_attn_layer_norm(x + attention(layer.text_cross_attn, x + where, tokens, tokens, seen))
        _set_box_bias(near[:, :, 1:], decoder, boxes)
        x = layer.vision_cross_attn_layer_norm(
            x + attention(layer.vision_cross_attn, x + where, keys, patches, near.flatten(3))
        )
        x = layer.mlp_layer_norm(x + _feed_forward(layer.mlp, x))
        if number < last:
            moved = decoder.box_head(decoder.output_layer_norm(x[:, 1:]))
            boxes = (moved + torch.log(boxes.clamp(min=_EPS) / (1 - boxes).clamp(min=_EPS))).sigmoid()
    most = decoder.clamp_presence_logit_max_val
    presence = decoder.presence_head(decoder.presence_layer_norm(x[:, :1]))[..., 0].clamp(-most, most)
    return Decoded(decoder.output_layer_norm(x[:, 1:]), presence.float().sigmoid())


def _set_box_bias(bias: Tensor, decoder: Any, boxes: Tensor) -> None:
    """Set the bias by the place of every patch relative to the borders of boxes: a part by rows and one by columns.

    Args:
        bias: T x h x Q x rows x columns, overwritten.
        decoder: transformers' `Sam3DetrDecoder`.
        boxes: (T or 1) x Q x 4, centre and size, in [0, 1].
    """
    x, y, width, height = boxes.unbind(-1)
    rows = _distances(y - height / 2, y + height / 2, bias.shape[3])
    columns = _distances(x - width / 2, x + width / 2, bias.shape[4])
    by_row = _rectified(decoder.box_rpb_embed_y, rows).movedim(-1, 1)[..., None]
    by_column = _rectified(decoder.box_rpb_embed_x, columns).movedim(-1, 1)[..., None, :]
    torch.add(by_row.expand_as(bias), by_column.expand_as(bias), out=bias)


def _rectified(mlp: Any, x: Tensor) -> Tensor:
    """Run a `Sam3DecoderMLP` of two layers."""
    found: Tensor = mlp.layer2(mlp.layer1(x).relu_())
    return found


def _distances(first: Tensor, last: Tensor, count: int) -> Tensor:
    """Compute signed logarithms of the distances of lines from two borders: T x Q x count x 2."""
    lines = torch.arange(count, device=first.device, dtype=first.dtype) / count
    apart = (lines[:, None] - torch.stack([first, last], -1)[:, :, None]) * _SHARPNESS
    return apart.sign() * torch.log2(apart.abs() + 1) / math.log2(_SHARPNESS)
