"""SAM 3 by transformers, taken apart: an image and a prompt are each encoded once, and decoded together.

Not run with published weights: they are gated, and none could be had here. Shapes: T prompts of M tokens, C channels,
h x w the grid of patches, n instances.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itaclip.core.clip.tokenizer import BytePairs
from itaclip.core.clip.towers import MEAN, STD
from itaclip.core.concepts.fusion import prompt_map
from itaclip.core.concepts.prompt_reading import Decoded, attention, decode, read_prompts, self_attended, token_bias
from itaclip.core.encoder import DTYPES
from itaclip.errors import ItaclipError

_TOKENS = 32  # of a prompt
_VOCABULARY = 49408  # of CLIP's byte pairs, which SAM 3 shares
_TEXTS_PER_PASS = 64


@dataclass(frozen=True)
class Prompts:
    """Encoded prompts.

    Attributes:
        features: T x M x C.
        mask: T x M bool, False at padding.
    """

    features: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, which: slice | Tensor) -> Prompts:
        return Prompts(self.features[which], self.mask[which])

    def trimmed(self) -> Prompts:
        """Leave out the padding that all prompts share."""
        longest = int(self.mask.sum(1).max()) if len(self) else 0
        return Prompts(self.features[:, :longest], self.mask[:, :longest])


@dataclass(frozen=True)
class EncodedImage:
    """An image as the decoder reads it.

    Attributes:
        levels: 1 x C x h' x w' each, from fine to coarse; the last has a place per patch. A preview
            has only that one.
        positions: 1 x C x h x w, for the last level.
        attended: 1 x (h w) x C, the last level after the first self-attention of the encoder that reads
            the prompts: until then all prompts are alike.
        finer: what the finer levels add to the maps of every prompt, from coarse to fine, without
            those of the patches: 1 x C x h' x w' each.
    """

    levels: tuple[Tensor, ...]
    positions: Tensor
    attended: Tensor
    finer: tuple[Tensor, ...] = ()


class Sam3(nn.Module):
    """SAM 3 (Carion et al., 2025), frozen.

    Args:
        model: transformers' ``Sam3Model``.
        name: name of the model, for messages.

    Raises:
        ItaclipError: a model with another vocabulary than CLIP's.
    """

    def __init__(self, model: Any, name: str = "sam3") -> None:
        super().__init__()
        if model.vocab_size != _VOCABULARY:
            raise ItaclipError(f"{name}: {model.vocab_size} tokens; expected CLIP's {_VOCABULARY}. Is this SAM 3?")
        self.name = name
        self.model: Any = model.requires_grad_(False).eval()
        self.tokenizer = BytePairs(_TOKENS)
        self._previews: dict[int, Any] = {}

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        found: torch.device = self.model.text_projection.weight.device
        return found

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return int(self.model.config.vision_config.backbone_config.patch_size)

    @property
    def side(self) -> int:
        """Side in pixels of the square that images are stretched to: 1008, that of the published model."""
        size = self.model.config.vision_config.image_size
        return int(size if isinstance(size, int) else size[0])

    def lower(self, precision: str) -> Sam3:
        """Convert the weights to another precision; positions stay as they are, or distant patches would turn.

        Args:
            precision: a key of `itaclip.core.encoder.DTYPES`.
        """
        kept = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        self.model.to(DTYPES[precision])
        for name, buffer in kept.items():
            owner, _, own = name.rpartition(".")
            setattr(self.model.get_submodule(owner), own, buffer)
        return self

    # --- encoding ------------------------------------------------------------

    @torch.no_grad()
    def encode_prompts(self, words: Sequence[str]) -> Prompts:
        """Encode words: as they are, without templates. Longer ones than 32 tokens are cut."""
        tokens = self.tokenizer(words)
        ends = tokens.argmax(1, keepdim=True)  # the end has the highest id
        mask = (torch.arange(tokens.shape[1]) <= ends).to(self.device)
        parts = [
            self.model.get_text_features(some.to(self.device), attention_mask=own.long(), return_dict=True)
            for some, own in zip(tokens.split(_TEXTS_PER_PASS), mask.split(_TEXTS_PER_PASS), strict=True)
        ]
        return Prompts(torch.cat([part.pooler_output for part in parts]), mask)

    @torch.no_grad()
    def encode_image(self, image: Tensor) -> EncodedImage:
        """Encode an image: 3 x H x W float32 RGB, normalised for CLIP, of any size."""
        found = self.model.vision_encoder(self._pixels(image, self.side))
        levels, positions = tuple(found.fpn_hidden_states[:-1]), found.fpn_position_encoding[-2]
        convolutions = self.model.mask_decoder.pixel_decoder.conv_layers
        finer = [convolution(level) for level, convolution in zip(levels[-2::-1], convolutions, strict=False)]
        return EncodedImage(levels, positions, self._attended(levels[-1], positions), tuple(finer))

    @torch.no_grad()
    def encode_preview(self, image: Tensor, side: int) -> EncodedImage:
        """Encode an image at another size, for `presence` alone.

        Raises:
            ItaclipError: a side that is not a multiple of the tower's windows.
        """
        backbone, neck = self._at_size(side), self.model.vision_encoder.neck
        hidden = backbone(self._pixels(image, side)).last_hidden_state
        square = hidden.mT.unflatten(2, (side // self.patch_size,) * 2)
        level = neck.fpn_layers[-2](square)
        positions = neck.position_encoding(level.shape, level.device, level.dtype)
        return EncodedImage((level,), positions, self._attended(level, positions))

    def _attended(self, level: Tensor, positions: Tensor) -> Tensor:
        """Run the first self-attention of the encoder that reads the prompts: 1 x (h w) x C."""
        return self_attended(self.model.detr_encoder.layers[0], level.flatten(2).mT, positions.flatten(2).mT)

    def _pixels(self, image: Tensor, side: int) -> Tensor:
        """Stretch an image to a square as SAM 3's processor does, in its range of -1 to 1: 1 x 3 x side x side."""
        mean, std = (torch.tensor(values, device=image.device).view(3, 1, 1) for values in (MEAN, STD))
        rgb = (image.float() * std + mean).clamp(0, 255)
        square = F.interpolate(rgb[None], size=(side, side), mode="bilinear", antialias=True)
        return (square / 127.5 - 1).to(self.model.text_projection.weight.dtype)

    def _at_size(self, side: int) -> Any:
        """Get the image tower for another size of image: the same weights, other positions of the global blocks."""
        if side == self.side:
            return self.model.vision_encoder.backbone
        if side not in self._previews:
            config = copy.deepcopy(self.model.config.vision_config.backbone_config)
            window = config.window_size * self.patch_size
            if side % window:
                raise ItaclipError(
                    f"method_options: preview_side = {side}: expected a multiple of {window}, the windows of SAM 3's "
                    "image tower."
                )
            config.image_size = side
            original = self.model.vision_encoder.backbone
            shared = {id(weight): weight for weight in original.parameters()}
            tower = copy.deepcopy(original, shared)
            for layer in tower.layers:
                if not layer.window_size:
                    layer.position_ids = layer.precompute_positions(config, 0).to(layer.position_ids)
            self._previews = {side: tower}
        return self._previews[side]

    # --- decoding ------------------------------------------------------------

    @torch.no_grad()
    def presence(self, image: EncodedImage, prompts: Prompts) -> Tensor:
        """Compute whether an image shows the prompts: T float32 in [0, 1]. No mask is made."""
        prompts = prompts.trimmed()
        return self._decode(image, prompts)[1].presence[:, 0]

    @torch.no_grad()
    def maps(self, image: EncodedImage, prompts: Prompts, confidence: float) -> Tensor:
        """Compute a map per prompt, see `prompt_map`: T x h' x w' float32, of the finest level's size.

        Args:
            image: from `encode_image`.
            prompts: decoded together; the finest maps are made one after the other, because each takes
                tens of MiB.
            confidence: least score of an instance.
        """
        prompts = prompts.trimmed()
        encoded, decoded = self._decode(image, prompts)
        scoring = self.model.dot_product_scoring(
            decoder_hidden_states=decoded.queries[None], text_features=prompts.features, text_mask=prompts.mask
        )
        scores = scoring[0, ..., 0].float().sigmoid() * decoded.presence
        asked = self._asked(encoded, prompts)
        head, found = self.model.mask_decoder, []
        for one, own, scores_of, there in zip(asked, decoded.queries, scores, decoded.presence, strict=True):
            pixels = self._pixel_embedding(image, one)
            kept = scores_of >= confidence
            masks = _projected(head.mask_embedder(own[kept]), head.instance_projection, pixels)
            semantic = head.semantic_projection(pixels)[0, 0]
            found.append(prompt_map(semantic.float(), masks.float(), scores_of[kept], there[0]))
        return torch.stack(found)

    def _decode(self, image: EncodedImage, prompts: Prompts) -> tuple[Tensor, Decoded]:
        """Run the encoder that reads the prompts, T x (h w) x C, and the decoder of instances."""
        places, grid = image.positions.flatten(2).mT, (image.positions.shape[2], image.positions.shape[3])
        tokens, mask = prompts.features, prompts.mask
        x = read_prompts(self.model.detr_encoder.layers, image.attended, places, tokens, mask)
        return x, decode(self.model.detr_decoder, x, places, tokens, mask, grid)

    def _asked(self, encoded: Tensor, prompts: Prompts) -> Tensor:
        """Let the patches of each prompt attend to its tokens once more, before masks are made: T x (h w) x C."""
        head, tokens = self.model.mask_decoder, prompts.features
        normed = head.prompt_cross_attn_norm(encoded)
        seen = token_bias(prompts.mask, encoded, encoded.shape[1])
        return attention(head.prompt_cross_attn, normed, tokens, tokens, seen).add_(encoded)

    def _pixel_embedding(self, image: EncodedImage, patches: Tensor) -> Tensor:
        """Join a prompt's patches, (h w) x C, with the finer levels of the image: 1 x C x h' x w'.

        A convolution of a sum is a sum of convolutions: that of the finer level is the same for all prompts.
        """
        decoder = self.model.mask_decoder.pixel_decoder
        x = patches.mT.unflatten(1, image.levels[-1].shape[-2:])[None]
        for finer, convolution, norm in zip(image.finer, decoder.conv_layers, decoder.norms, strict=False):
            x = norm(convolved_after_doubling(x, convolution.weight, finer.shape[-2:]) + finer).relu_()
        return x


def convolved_after_doubling(x: Tensor, weight: Tensor, size: Sequence[int]) -> Tensor:
    """Enlarge to a size by nearest neighbour, and convolve with 3 x 3 weights, zeros beyond the border.

    Of twice the size, two of three rows and columns that a weight meets are one: 2 x 2 weights for each
    of four places do the same on the small map with 4 / 9 of the operations.

    Args:
        x: 1 x C x h x w.
        weight: D x C x 3 x 3.
        size: height and width of the result.

    Returns:
        1 x D x size, without a bias.
    """
    height, width = x.shape[-2:]
    if tuple(size) != (2 * height, 2 * width):
        return F.conv2d(F.interpolate(x, size=tuple(size), mode="nearest"), weight, padding=1)
    found = x.new_empty(len(x), len(weight), *size)
    for row, rows in enumerate(_halves(weight, 2)):
        for column, part in enumerate(_halves(rows, 3)):
            small = F.conv2d(x, part, padding=1)
            found[..., row::2, column::2] = small[..., row : row + height, column : column + width]
    return found


def _halves(weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Merge three weights along a dimension into the two that the even, and those that the odd places meet."""
    before, here, after = weight.split(1, dim)
    return torch.cat([before, here + after], dim), torch.cat([before + here, after], dim)


def _projected(queries: Tensor, projection: Any, pixels: Tensor) -> Tensor:
    """Multiply queries, q x C, with projected pixels: q x h x w.

    Args:
        queries: q x C.
        projection: a convolution of 1 x 1. It goes to the few queries instead of the many pixels.
        pixels: 1 x C x h x w.
    """
    weight = projection.weight.flatten(1)
    biases = queries @ projection.bias
    return torch.einsum("qc,chw->qhw", queries @ weight, pixels[0]) + biases[:, None, None]
