"""Cascade-CLIP's head: three decoders, from the middle blocks to the last."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from itaclip.research.zero_shot.decoder import MaskDecoder
from itaclip.research.zero_shot.encoder import ImageFeatures
from itaclip.research.zero_shot.settings import HeadSettings

_GROUP = 3  # blocks per group of middle levels


class CascadeHead(nn.Module):
    """Cascade-CLIP (Li et al., ICML 2024): cascaded decoders on weighted groups of levels.

    Args:
        width: width E of the joint space.
        settings: sizes of the decoders.
    """

    def __init__(self, width: int, settings: HeadSettings) -> None:
        super().__init__()
        decoders = _GROUP  # two groups of middle levels and the last block
        self.q_projs = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(decoders))
        self.cascade_decoders = nn.ModuleList(MaskDecoder(width, settings) for _ in range(decoders))
        # a Gaussian of the distance to the group's deepest level, which has the largest weight
        start = torch.exp(-0.5 * torch.arange(_GROUP - 1, -1, -1.0) ** 2)
        self.weights_s1, self.weights_s2 = nn.Parameter(start.clone()), nn.Parameter(start.clone())

    def queries(self, whole: Tensor, text: Tensor) -> list[Tensor]:
        """Compute ``W_d [G * t_k ; t_k] + b_d`` per decoder: B x K x E each, from B x E and K x E."""
        related = whole[:, None] * text
        joint = torch.cat([related, text.expand_as(related)], dim=-1)
        return [project(joint) for project in self.q_projs]

    def memories(self, levels: tuple[Tensor, ...]) -> list[Tensor]:
        """Compute the three memories, B x N x E: two weighted sums of middle levels, and the last level."""
        groups = ((self.weights_s1, levels[:_GROUP]), (self.weights_s2, levels[_GROUP : 2 * _GROUP]))
        sums = [sum((w * level for w, level in zip(weights, group, strict=True)), torch.zeros(()).to(levels[0]))
                for weights, group in groups]  # fmt: skip
        return [*sums, levels[-1]]

    def decode(self, features: ImageFeatures, text: Tensor) -> list[Tensor]:
        """Compute the logits of every decoder: B x K x N each."""
        queries, memories = self.queries(features.whole, text), self.memories(features.levels)
        return [
            decoder(query, memory)
            for decoder, query, memory in zip(self.cascade_decoders, queries, memories, strict=True)
        ]

    def forward(self, features: ImageFeatures, text: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mask logits on the token grid.

        Args:
            features: output of a `CascadeEncoder`.
            text: K x E class embeddings.

        Returns:
            B x K x h x w logits, and an empty dictionary, because there are no additional losses.
        """
        return torch.stack(self.decode(features, text)).sum(0).unflatten(-1, features.grid), {}
