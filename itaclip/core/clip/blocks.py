"""OpenAI's transformer block in parts: pure functions over its modules.

Shapes: B images or texts, N tokens, D width, h heads of d = D / h channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.core.choices import fastest
from itaclip.core.clip.openai import QuickGELU

Block: TypeAlias = Any
"""`itaclip.core.clip.openai.Block`, or open_clip's `ResidualAttentionBlock`, which has no type annotations."""

_QUICK = 1.702
_FEW_TOKENS = 1024  # up to here, a stored map is small compared with the activations


@dataclass(frozen=True)
class Projections:
    """Queries, keys and values of one block, each B x h x N x d with biases included,
    and the block's normalised input ``ln_1(x)``, B x N x D, which they are computed from."""

    query: Tensor
    key: Tensor
    value: Tensor
    normed: Tensor


def project(block: Block, x: Tensor) -> Projections:
    """Apply the fused input projection to ``ln_1(x)`` and split it in three; x: B x N x D."""
    attention = block.attn
    normed = block.ln_1(x).to(attention.in_proj_weight.dtype)
    parts = query_key_value(normed, attention.in_proj_weight, attention.in_proj_bias, attention.num_heads)
    return Projections(*parts, normed)


def query_key_value(x: Tensor, weight: Tensor, bias: Tensor | None, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Apply a fused projection, 3D x D, to B x N x D and split it: B x h x N x d each.

    One product runs at once what an engine converts to three: only then does int8 round queries and keys as
    they are written, instead of in two more passes over the activations.
    """
    if _is_traced():
        biases = bias.chunk(3) if bias is not None else (None, None, None)
        parts = [F.linear(x, one, b) for one, b in zip(weight.chunk(3), biases, strict=True)]
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
    else:
        q, k, v = F.linear(x, weight, bias).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return q, k, v


def _is_traced() -> bool:
    """Tell whether an engine's converter records what is computed."""
    return torch._C._get_tracing_state() is not None


def query_of(block: Block, x: Tensor) -> Tensor:
    """Compute only the queries, for tokens that no other token attends to: B x h x N x d."""
    attention = block.attn
    normed = block.ln_1(x).to(attention.in_proj_weight.dtype)
    width = x.shape[-1]
    joint = F.linear(normed, attention.in_proj_weight[:width], attention.in_proj_bias[:width])
    return joint.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, causal: bool = False) -> Tensor:
    """Compute ``softmax(query key' / sqrt(d) + bias) value``; B x h x N x d.

    The N x N map is not stored, except in bfloat16 on a CPU, where torch's fused kernel is
    slower than two products on some processors.
    """
    plain = bias is None and not causal and query.shape[-2] == key.shape[-2] <= _FEW_TOKENS
    if plain and query.dtype == torch.bfloat16 and query.device.type == "cpu":
        return _WAYS[attention_on_cpu(*query.shape[1:])](query, key, value)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, is_causal=causal)


def _two_products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)).softmax(-1) @ value


_WAYS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "fused": F.scaled_dot_product_attention,
    "products": _two_products,
}


def attention_on_cpu(heads: int, tokens: int, channels: int) -> str:
    """Find the faster way in bfloat16 on this machine, a key of `_WAYS`, measured on one image.

    Whoever compiles `attend` must mark this function with ``torch.compiler.assume_constant_result``
    first: as a decorator, that would import the compiler with this module.
    """

    def run(way: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        joint = torch.ones(1, tokens, 3, heads, channels, dtype=torch.bfloat16)
        return way(*joint.permute(2, 0, 3, 1, 4).unbind())

    about = {"dtype": "bf16", "heads": heads, "tokens": tokens, "channels": channels}
    return fastest("attention", about, {name: partial(run, way) for name, way in _WAYS.items()})


def merge_heads(block: Block, heads: Tensor) -> Tensor:
    """Concatenate the heads (B x h x N x d) and apply the output projection: B x N x D."""
    batch, _, tokens, _ = heads.shape
    return block.attn.out_proj(heads.transpose(1, 2).reshape(batch, tokens, -1))


def feed_forward(block: Block, x: Tensor) -> Tensor:
    """Compute ``W_2 act(W_1 ln_2(x))``, without the residual.

    QuickGELU, ``h sigmoid(1.702 h)``, equals ``silu(1.702 h) / 1.702``: the two products absorb
    the factors and the activation needs no temporaries, which took 7 % of the time. Engines fuse
    the plain form.
    """
    first, second = block.mlp.c_fc, block.mlp.c_proj
    if _is_traced() or not isinstance(block.mlp.gelu, QuickGELU):
        return block.mlp(block.ln_2(x).to(first.weight.dtype))
    rows = block.ln_2(x).to(first.weight.dtype).flatten(0, -2)
    hidden = torch.addmm(first.bias, rows, first.weight.T, beta=_QUICK, alpha=_QUICK)
    hidden = F.silu(hidden, inplace=not hidden.requires_grad)
    return torch.addmm(second.bias, hidden, second.weight.T, alpha=1 / _QUICK).view_as(x)


def run_block(block: Block, x: Tensor, projections: Projections | None = None, causal: bool = False) -> Tensor:
    """Run the block as CLIP was trained: attention and feed-forward network, each with a residual."""
    p = projections or project(block, x)
    x = x + merge_heads(block, attend(p.query, p.key, p.value, causal=causal))
    return x + feed_forward(block, x)
