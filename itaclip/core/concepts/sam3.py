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
        first = self.model.detr_encoder.layers[0]
        x, places = level.flatten(2).mT, positions.flatten(2).mT
        normed = first.layer_norm1(x)
        attended, _ = first.self_attn(query=normed + places, key=normed + places, value=normed)
        found: Tensor = x + attended
        return found

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
        _, decoded = self._decode(image, prompts)
        found: Tensor = decoded.presence_logits[-1].float().sigmoid()[:, 0]
        return found

    @torch.no_grad()
    def maps(self, image: EncodedImage, prompts: Prompts, confidence: float) -> Tensor:
        """Compute a map per prompt, see `prompt_map`: T x h' x w' float32, of the finest level's size.

        Args:
            image: from `encode_image`.
            prompts: decoded together; the finest maps are made one after the other, because each takes
                tens of MiB.
            confidence: least score of an instance.
        """
        encoded, decoded = self._decode(image, prompts)
        queries = decoded.intermediate_hidden_states[-1]
        scoring = self.model.dot_product_scoring(
            decoder_hidden_states=queries[None], text_features=prompts.features, text_mask=prompts.mask
        )
        presence = decoded.presence_logits[-1].float().sigmoid()
        scores = scoring[0, ..., 0].float().sigmoid() * presence
        asked = self._asked(encoded, prompts)
        head, found = self.model.mask_decoder, []
        for one, own, scores_of, there in zip(asked, queries, scores, presence, strict=True):
            pixels = self._pixel_embedding(image, one)
            kept = scores_of >= confidence
            masks = torch.einsum("qc,chw->qhw", head.mask_embedder(own[kept]), head.instance_projection(pixels)[0])
            semantic = head.semantic_projection(pixels)[0, 0]
            found.append(prompt_map(semantic.float(), masks.float(), scores_of[kept], there[0]))
        return torch.stack(found)

    def _decode(self, image: EncodedImage, prompts: Prompts) -> tuple[Tensor, Any]:
        """Run the encoder that reads the prompts, T x (h w) x C, and the decoder of instances."""
        first, *others = self.model.detr_encoder.layers
        places, many = image.positions.flatten(2).mT, (len(prompts), -1, -1)
        x = image.attended.expand(many)
        seen = _additive(prompts.mask, x)
        attended, _ = first.cross_attn(
            query=first.layer_norm2(image.attended).expand(many), key=prompts.features, value=prompts.features,
            attention_mask=seen,
        )  # fmt: skip
        x = x + attended
        x = x + first.mlp(first.layer_norm3(x))
        for layer in others:
            x = layer(x, prompts.features, places, prompt_cross_attn_mask=seen)
        decoded = self.model.detr_decoder(
            vision_features=x, text_features=prompts.features, vision_pos_encoding=places.expand(many),
            text_mask=prompts.mask,
            spatial_shapes=torch.tensor([image.positions.shape[-2:]], device=x.device),
        )  # fmt: skip
        return x, decoded

    def _asked(self, encoded: Tensor, prompts: Prompts) -> Tensor:
        """Let the patches of each prompt attend to its tokens once more, before masks are made: T x (h w) x C."""
        head = self.model.mask_decoder
        attended, _ = head.prompt_cross_attn(
            query=head.prompt_cross_attn_norm(encoded), key=prompts.features, value=prompts.features,
            attention_mask=_additive(prompts.mask, encoded),
        )  # fmt: skip
        return encoded + attended

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


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """Make an additive mask of attention: T x 1 x N x M, for T x M bool and T x N x C."""
    found = torch.zeros_like(mask, dtype=like.dtype).masked_fill(~mask, -torch.inf)
    return found[:, None, None].expand(-1, -1, like.shape[1], -1)
