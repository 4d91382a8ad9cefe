"""The decoder layers of both heads: cross-attention without self-attention.

Shapes: B images, Q tokens, J memory tokens, E width, m heads of d = E / m channels.
"""

from __future__ import annotations

import copy

import torch.nn.functional as F
from torch import Tensor, nn

from itaclip.errors import ItaclipError
from itaclip.research.zero_shot.settings import HeadSettings


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Reshape B x Q x E to B x m x Q x d."""
    batch, tokens, _ = x.shape
    return x.view(batch, tokens, heads, -1).transpose(1, 2)


def mean_logits(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """Compute ``mean over heads of q k' / sqrt(d)``: B x Q x J, from B x Q x E and B x J x E.

    The products of the heads add up to the product over the full width, so no map per head is needed.
    """
    width = query.shape[-1]
    return (query @ key.transpose(1, 2)) / (heads * (width / heads) ** 0.5)


class CrossAttention(nn.Module):
    """Multi-head attention of tokens to a memory, with separate linear projections.

    Args:
        width: width E.
        settings: heads and dropout.

    Raises:
        ItaclipError: the width is not a multiple of the number of heads.
    """

    def __init__(self, width: int, settings: HeadSettings) -> None:
        super().__init__()
        if width % settings.heads:
            raise ItaclipError(f"heads = {settings.heads}: expected a divisor of the joint width {width}.")
        self.heads, self.dropout = settings.heads, settings.dropout
        self.q, self.k, self.v, self.proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """Map tokens B x Q x E and memory B x J x E to B x Q x E."""
        q, k, v = (split_heads(x, self.heads) for x in (self.q(tokens), self.k(memory), self.v(memory)))
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return self.proj(out.transpose(1, 2).flatten(2))


class AttentionLogits(nn.Module):
    """The query and key projections of an attention of which only the logits are needed."""

    def __init__(self, attention: CrossAttention) -> None:
        super().__init__()
        self.heads = attention.heads
        self.q, self.k = copy.deepcopy(attention.q), copy.deepcopy(attention.k)

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """Average the logits over heads, scaled, before softmax: B x Q x J."""
        return mean_logits(self.q(tokens), self.k(memory), self.heads)


class DecoderLayer(nn.Module):
    """Cross-attention and feed-forward network, each followed by a residual connection and a norm.

    Omits the self-attention and the ``norm1`` of the published layer, which are never called.

    Args:
        width: width E.
        settings: heads, hidden width, dropout.
    """

    def __init__(self, width: int, settings: HeadSettings) -> None:
        super().__init__()
        hidden = settings.hidden_ratio * width
        self.multihead_attn = CrossAttention(width, settings)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """Map tokens B x Q x E and memory B x J x E to B x Q x E."""
        tokens = self.norm2(tokens + self.dropout(self.multihead_attn(tokens, memory)))
        hidden = self.dropout(F.relu(self.linear1(tokens)))
        return self.norm3(tokens + self.dropout(self.linear2(hidden)))


class Decoder(nn.Module):
    """Layers with equal initial values: as published, they are deep copies of the first.

    Args:
        width: width E.
        settings: number and sizes of the layers.
    """

    def __init__(self, width: int, settings: HeadSettings) -> None:
        super().__init__()
        first = DecoderLayer(width, settings)
        self.layers = nn.ModuleList([first, *(copy.deepcopy(first) for _ in range(settings.layers - 1))])


class MaskDecoder(nn.Module):
    """Layers of which the last returns its attention logits as masks.

    The rest of the last layer would not affect any loss, so it consists only of the two
    projections for its logits.

    Args:
        width: width E.
        settings: number and sizes of the layers.
    """

    def __init__(self, width: int, settings: HeadSettings) -> None:
        super().__init__()
        layers: list[nn.Module] = list(Decoder(width, settings).layers)
        last = nn.Module()
        last.multihead_attn = AttentionLogits(layers.pop().multihead_attn)  # type: ignore[arg-type]
        self.layers = nn.ModuleList([*layers, last])

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """Map queries B x Q x E and memory B x J x E to logits B x Q x J."""
        *layers, last = self.layers
        for layer in layers:
            tokens = layer(tokens, memory)
        logits: Tensor = last.multihead_attn(tokens, memory)  # type: ignore[operator]
        return logits
