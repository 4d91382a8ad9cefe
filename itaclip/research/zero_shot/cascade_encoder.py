"""Cascade-CLIP's image encoder: features of the last seven blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from itaclip.errors import ItaclipError
from itaclip.research.zero_shot.encoder import ImageFeatures, PromptedEncoder, unit
from itaclip.research.zero_shot.settings import EncoderSettings

LEVELS = 6
"""Levels before the last block, in two groups of three: blocks 5 to 10 of 12, counted from 0."""


class CascadeEncoder(PromptedEncoder):
    """Cascade-CLIP (Li et al., ICML 2024), section 3.

    ``F_j = unit(LN_j(prompt_norm(X)) A_j)`` after each of the six blocks before the last, and the
    last block with CLIP's own projection. LN_j and A_j stay frozen at their random initial values,
    as published, so a checkpoint only works with its own.

    Args:
        visual: the image tower.
        settings: sizes of the encoder.

    Raises:
        ItaclipError: the tower has fewer than seven blocks.
    """

    def __init__(self, visual: Any, settings: EncoderSettings) -> None:
        super().__init__(visual, settings)
        if len(self.blocks) <= LEVELS:
            raise ItaclipError(f"Cascade-CLIP needs at least {LEVELS + 1} blocks; this tower has {len(self.blocks)}.")
        width = self.positional_embedding.shape[1]
        self.ln_layers = nn.ModuleList(nn.LayerNorm(width) for _ in range(LEVELS))
        self.proj_layers = nn.Parameter(torch.randn(LEVELS, width, self.joint_width) * width**-0.5)
        self.freeze()

    def forward(self, pixels: Tensor) -> ImageFeatures:
        """Encode B x 3 x H x W images, see `PromptedEncoder.forward`; H = W is any multiple of the patch size."""
        tokens, grid = self.embed(pixels)
        last = len(self.blocks) - 1
        *tapped, final = self.run(tokens, tuple(range(last - LEVELS, last)))
        first = 1 + self.settings.prompts
        levels = [
            unit(norm(self.prompt_norm(x[:, first:])) @ projection)
            for x, norm, projection in zip(tapped, self.ln_layers, self.proj_layers, strict=True)
        ]
        normed = self.prompt_norm(final)
        levels.append(self.to_joint_space(normed[:, first:]))
        return ImageFeatures(tuple(levels), self.to_joint_space(normed[:, 0]), grid)
