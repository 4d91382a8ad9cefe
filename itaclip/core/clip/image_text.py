"""Models of two towers that neither OpenAI's layout nor open_clip describes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from itaclip.core.clip.facts import Fact
from itaclip.core.clip.tokenizer_source import TokenizerSource


class ImageTextModel(nn.Module):
    """An image tower and a text tower with one joint space, with the attributes of open_clip's models.

    Args:
        visual: the image tower, which `itaclip.core.clip.towers.as_tower` wraps.
        text: maps T x M token ids to T x E features.
        image_features: the library's own features of B x 3 x h x w pixels, normalised for the tower: B x E.
        temperature: learned factor on cosines is one over this.
        tokenizer: source of the tokenizer.
        facts: what the tensors do not show.
        statistics: mean and deviation of RGB channels, for values in [0, 1].
    """

    logit_bias: None = None

    def __init__(
        self,
        visual: nn.Module,
        text: nn.Module,
        image_features: Callable[[Tensor], Tensor],
        *,
        temperature: float,
        tokenizer: TokenizerSource,
        facts: tuple[Fact, ...],
        statistics: tuple[tuple[float, ...], tuple[float, ...]],
    ) -> None:
        super().__init__()
        self.visual: Any = visual
        self.text: Any = text
        tower: Any = visual
        tower.image_mean, tower.image_std = statistics
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(temperature)), requires_grad=False)
        self.tokenizer_source, self.facts = tokenizer, facts
        self._image_features = image_features
        self.requires_grad_(False).eval()

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Compute features by the library's own forward pass, B x E, to check this project's."""
        return self._image_features(pixels)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Compute features of T x M token ids: T x E."""
        return cast(Tensor, self.text(tokens))


class MaskedText(nn.Module):
    """A text tower of Transformers that sees no padding, so that texts may be cut behind their last token.

    Args:
        model: returns ``pooler_output`` for token ids and an attention mask.
        padding: id that pads a row.
    """

    def __init__(self, model: nn.Module, padding: int) -> None:
        super().__init__()
        self.model = model
        self._padding = padding

    def ends(self, tokens: Tensor) -> Tensor:
        """Find the last token of every row that is no padding; 0 in an empty row."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return (places * (tokens != self._padding)).amax(dim=1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode T x M tokens as T x E."""
        return cast(Tensor, self.model(tokens, attention_mask=(tokens != self._padding).long()).pooler_output)
