"""CLIP-RC's image encoder, with region tokens as an intermediate level between image and patches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from itaclip.errors import ItaclipError
from itaclip.research.zero_shot.encoder import ImageFeatures, PromptedEncoder
from itaclip.research.zero_shot.settings import EncoderSettings


class RegionEncoder(PromptedEncoder):
    """CLIP-RC (Zhang et al., CVPR 2024): the region-level bridge.

    R region tokens follow the patches. An attention mask, the same in all blocks, lets each of them
    attend only to the patches of its own tile, and only those patches attend to it. The tokens have
    equal initial values and stay frozen, as published: only the mask distinguishes them.

    Args:
        visual: the image tower.
        settings: sizes of the encoder.

    Raises:
        ItaclipError: the regions do not divide the token grid evenly.
    """

    attention_mask: Tensor

    def __init__(self, visual: Any, settings: EncoderSettings) -> None:
        super().__init__(visual, settings)
        side, across = settings.image_size // self.patch_size, round(settings.regions**0.5)
        if side % across:
            raise ItaclipError(
                f"regions = {settings.regions}: {across} x {across} regions do not divide {side} x {side} patches "
                "evenly."
            )
        start = self.class_embedding + self.positional_embedding[0]
        self.region_level_bridge = nn.Parameter(start.detach().repeat(settings.regions, 1))
        self.register_buffer("attention_mask", region_mask(side, across, 1 + settings.prompts), persistent=False)
        self.freeze()

    def forward(self, pixels: Tensor) -> ImageFeatures:
        """Encode B x 3 x S x S images, see `PromptedEncoder.forward`.

        Raises:
            ItaclipError: sides other than `image_size`, for which the mask is computed.
        """
        size = self.settings.image_size
        if pixels.shape[-2:] != (size, size):
            raise ItaclipError(
                f"input of {pixels.shape[-2]} x {pixels.shape[-1]} pixels: CLIP-RC requires {size} x {size}; "
                f"resize the short side of images to {size} or more."
            )
        tokens, grid = self.embed(pixels, self.region_level_bridge)
        (x,) = self.run(tokens, mask=self.attention_mask)
        first, regions = 1 + self.settings.prompts, self.settings.regions
        normed = self.prompt_norm(x[:, :-regions])
        patches, whole = self.to_joint_space(normed[:, first:]), self.to_joint_space(normed[:, 0])
        return ImageFeatures((patches,), whole, grid, self.to_joint_space(x[:, -regions:]))


def region_mask(side: int, across: int, first: int) -> Tensor:
    """Make the attention mask for side x side patches and across x across regions: rows are queries, columns keys.

    Args:
        side: patches along an edge of the image.
        across: regions along an edge; a divisor of `side`.
        first: number of tokens before the patches (class and prompts).

    Returns:
        T x T bool with T = first + side^2 + across^2.
    """
    tile = torch.arange(side) // (side // across)
    region = (tile[:, None] * across + tile).flatten()  # of every patch
    belongs = region[:, None] == torch.arange(across**2)
    patches, regions = belongs.shape
    mask = torch.ones(first + patches + regions, first + patches + regions, dtype=torch.bool)
    mask[:first, first + patches :] = False
    mask[first + patches :, :first] = False
    mask[first : first + patches, first + patches :] = belongs
    mask[first + patches :, first : first + patches] = belongs.T
    mask[first + patches :, first + patches :] = torch.eye(regions, dtype=torch.bool)
    return mask
