"""The decoder layers of both heads: cross-attention without self-attention.

Shapes: B images, Q tokens, J memory tokens, E width, m heads of d = E / m channels.
"""

from __future__ import annotations

import copy

import torch.nn.functional as F
from torch import Tensor, nn

from itaclip.errors import ItaclipError
from itaclip.zero_shot.settings import HeadSettings


def split_heads(x: Tensor, heads: int) -> Tensor:
    """B x Q x E to B x m x Q x d."""
    batch, tokens, _ = x.shape
    return x.view(batch, tokens, heads, -1).transpose(1, 2)


def mean_logits(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """``mean over heads of q k' / sqrt(d)``: B x Q x J, from B x Q x E and B x J x E.

    The heads' products add up to the product of the whole width, so no map per head is made.
    """
    width = query.shape[-1]
    return (query @ key.transpose(1, 2)) / (heads * (width / heads) ** 0.5)


class CrossAttention(nn.Module):
    """Multi-head attention of tokens to a memory, with separate linear projections.

    Args:
        width: E.
        settings: heads and dropout.

    Raises:
        ItaclipError: heads that do not divide the width.
    """

    def __init__(self, width: int, settings: HeadSettings) -> None:
        super().__init__()
        if width % settings.heads:
            raise ItaclipError(f"heads = {settings.heads}: they do not divide the joint width {width}.")
        self.heads, self.dropout = settings.heads, settings.dropout
        self.q, self.k, self.v, self.proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """B x Q x E and B x J x E to B x Q x E."""
        q, k, v = (split_heads(x, self.heads) for x in (self.q(tokens), self.k(memory), self.v(memory)))
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return self.proj(out.transpose(1, 2).flatten(2))


class AttentionLogits(nn.Module):
    """The projections of an attention whose logits alone are wanted."""

    def __init__(self, attention: CrossAttention) -> None:
        super().__init__()
        self.heads = attention.heads
        self.q, self.k = copy.deepcopy(attention.q), copy.deepcopy(attention.k)

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """Mean logits over heads, scaled, before softmax: B x Q x J."""
        return mean_logits(self.q(tokens), self.k(memory), self.heads)


class DecoderLayer(nn.Module):
    """Cross-attention and feed-forward network, each with a residual and a norm behind it.

    The published layer has self-attention and a ``norm1`` that nothing calls; they are left out.

    Args:
        width: E.
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
        """B x Q x E and B x J x E to B x Q x E."""
        tokens = self.norm2(tokens + self.dropout(self.multihead_attn(tokens, memory)))
        hidden = self.dropout(F.relu(self.linear1(tokens)))
        return self.norm3(tokens + self.dropout(self.linear2(hidden)))


class Decoder(nn.Module):
    """Layers that start equal: the published ones are deep copies of the first.

    Args:
        width: E.
        settings: how many layers, and their sizes.
    """

    def __init__(self, width: int, settings: HeadSettings) -> None:
        super().__init__()
        first = DecoderLayer(width, settings)
        self.layers = nn.ModuleList([first, *(copy.deepcopy(first) for _ in range(settings.layers - 1))])


class MaskDecoder(nn.Module):
    """Layers whose last one gives its attention logits as masks.

    What a whole last layer would do behind its logits reaches no loss, so it has no more
    than the two projections that make them.

    Args:
        width: E.
        settings: how many layers, and their sizes.
    """

    def __init__(self, width: int, settings: HeadSettings) -> None:
        super().__init__()
        layers: list[nn.Module] = list(Decoder(width, settings).layers)
        last = nn.Module()
        last.multihead_attn = AttentionLogits(layers.pop().multihead_attn)  # type: ignore[arg-type]
        self.layers = nn.ModuleList([*layers, last])

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """Queries B x Q x E and a memory B x J x E to logits B x Q x J."""
        *layers, last = self.layers
        for layer in layers:
            tokens = layer(tokens, memory)
        logits: Tensor = last.multihead_attn(tokens, memory)  # type: ignore[operator]
        return logits
