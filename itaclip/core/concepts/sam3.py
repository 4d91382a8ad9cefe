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
    """

    levels: tuple[Tensor, ...]
    positions: Tensor


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
        return EncodedImage(tuple(found.fpn_hidden_states[:-1]), found.fpn_position_encoding[-2])

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
        return EncodedImage((level,), neck.position_encoding(level.shape, level.device, level.dtype))

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
            pixels = self._pixel_embedding(image.levels, one)
            kept = scores_of >= confidence
            masks = torch.einsum("qc,chw->qhw", head.mask_embedder(own[kept]), head.instance_projection(pixels)[0])
            semantic = head.semantic_projection(pixels)[0, 0]
            found.append(prompt_map(semantic.float(), masks.float(), scores_of[kept], there[0]))
        return torch.stack(found)

    def _decode(self, image: EncodedImage, prompts: Prompts) -> tuple[Tensor, Any]:
        """Run the encoder that reads the prompts, T x (h w) x C, and the decoder of instances."""
        level, many = image.levels[-1], (len(prompts), -1, -1, -1)
        encoded = self.model.detr_encoder(
            vision_features=[level.expand(many)], text_features=prompts.features,
            vision_pos_embeds=[image.positions.expand(many)], text_mask=prompts.mask,
        )  # fmt: skip
        decoded = self.model.detr_decoder(
            vision_features=encoded.last_hidden_state, text_features=encoded.text_features,
            vision_pos_encoding=encoded.pos_embeds_flattened, text_mask=prompts.mask,
            spatial_shapes=encoded.spatial_shapes,
        )  # fmt: skip
        return encoded.last_hidden_state, decoded

    def _asked(self, encoded: Tensor, prompts: Prompts) -> Tensor:
        """Let the patches of each prompt attend to its tokens once more, before masks are made: T x (h w) x C."""
        head = self.model.mask_decoder
        seen = prompts.mask[:, None, None]
        attended, _ = head.prompt_cross_attn(
            query=head.prompt_cross_attn_norm(encoded), key=prompts.features, value=prompts.features,
            attention_mask=torch.zeros_like(seen, dtype=encoded.dtype).masked_fill(~seen, -torch.inf)
            .expand(-1, -1, encoded.shape[1], -1),
        )  # fmt: skip
        return encoded + attended

    def _pixel_embedding(self, levels: Sequence[Tensor], patches: Tensor) -> Tensor:
        """Join a prompt's patches, (h w) x C, with the finer levels of the image: 1 x C x h' x w'.

        The levels are the same for all prompts and are not copied.
        """
        decoder = self.model.mask_decoder.pixel_decoder
        x = patches.mT.unflatten(1, levels[-1].shape[-2:])[None]
        for finer, convolution, norm in zip(levels[-2::-1], decoder.conv_layers, decoder.norms, strict=False):
            x = F.interpolate(x, size=finer.shape[-2:], mode="nearest") + finer
            x = norm(convolution(x)).relu_()
        return x
