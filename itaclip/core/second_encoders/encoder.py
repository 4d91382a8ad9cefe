"""A timm vision transformer as a second encoder: features of its last block on the patch grid."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itaclip.core.clip.towers import MEAN, STD
from itaclip.errors import ItaclipError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# Rotary tables kept at a time; whole images come in many sizes.
_MAX_TABLES = 64

# Entries of the attention maps of a whole image that may be stored at a time: 64 MiB in float32.
_MOST_CELLS = 2**24

TOKENS = "tokens"
QUERY_KEY = "query_key"
LAST_BLOCK = "last_block"
KINDS = (TOKENS, QUERY_KEY, LAST_BLOCK)


@dataclass(frozen=True)
class Features:
    """Features of one batch; kinds that were not requested are None.

    Attributes:
        tokens: B x C x r x c float32, patch tokens of the last block after the final norm.
        query_key: B x C x r x c float32, query plus key of the last block's patch tokens,
            including biases, heads concatenated. If the model normalises or rotates queries
            and keys, these are the values before that step.
        last_block: B x (C + 3A) x r x c float32, what the last block reads of its patch tokens, for
            `SecondEncoder.run_last_block`: the output of the block before, after the final norm,
            then queries, keys and values of all heads (A channels each, usually C), before any
            step that normalises or rotates them.
    """

    tokens: Tensor | None = None
    query_key: Tensor | None = None
    last_block: Tensor | None = None


class SecondEncoder(nn.Module):
    """A frozen vision transformer that takes the same input as CLIP.

    Args:
        model: a float32 timm ``VisionTransformer`` or ``Eva`` with ``dynamic_img_size`` and pre-norm
            blocks. It is modified in place, not copied.
        name: name of the encoder, for messages.
        mean: the model's normalisation mean per RGB channel, for values in [0, 1].
        std: the model's normalisation standard deviation, likewise.
        dtype: ``"fp32"``, ``"fp16"`` or ``"bf16"`` for the model; features are always float32.
        device: device of the model.

    Raises:
        ItaclipError: an unsupported model, or an unknown dtype.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        dtype: str = "fp32",
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        if dtype not in DTYPES:
            raise ItaclipError(f"dtype = {dtype!r}: a second encoder supports {', '.join(DTYPES)}.")
        _require_layout(model, name)
        layout: Any = model
        patch = layout.patch_embed.patch_size
        if patch[0] != patch[1]:
            raise ItaclipError(f"{name}: patches of {patch[0]} x {patch[1]} pixels; expected square patches.")
        self.name = name
        self.patch_size = int(patch[0])
        self.channels = int(layout.embed_dim)
        self.dtype = DTYPES[dtype]
        self.fingerprint = _fingerprint(model, mean, std, dtype)
        self.model: Any = _cast(model.requires_grad_(False).eval().to(device), self.dtype)
        if isinstance(getattr(self.model, "rope", None), nn.Module):
            self.model.rope = _RotaryTables(self.model.rope)
        to, by = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        clip_mean, clip_std = (torch.tensor(values, dtype=torch.float64) / 255 for values in (MEAN, STD))
        self._scale: Tensor
        self._shift: Tensor
        self.register_buffer("_scale", (clip_std / by).float().view(3, 1, 1).to(device), persistent=False)
        self.register_buffer("_shift", ((clip_mean - to) / by).float().view(3, 1, 1).to(device), persistent=False)

    @torch.no_grad()
    def forward(self, pixels: Tensor, wants: Collection[str] = (TOKENS, QUERY_KEY)) -> Features:
        """Compute the requested features of a batch in a single pass.

        On a GPU this never synchronises with the host, except for a rotary model's first batch of a grid size.

        Args:
            pixels: B x 3 x h x w float RGB, normalised for CLIP (the pipeline's `MEAN` and `STD`).
            wants: some of `KINDS`. Without tokens, the last block's attention and feed-forward
                network do not run.

        Raises:
            ItaclipError: another shape, sides that are not multiples of the patch size, or an
                unknown kind of features.
        """
        if unknown := set(wants) - set(KINDS):
            raise ItaclipError(f"features {sorted(unknown)}: expected {' or '.join(KINDS)}.")
        if LAST_BLOCK in wants:
            _require_last_block(self.model.blocks[-1], self.name)
        grid = self._grid(pixels)
        x = (pixels.float() * self._scale + self._shift).to(self.dtype)
        x, rope = self._embed(x)
        *first, last = self.model.blocks
        for depth, block in enumerate(first):
            x = _run(block, x, rope, depth)
        query_key = tokens = last_block = None
        if QUERY_KEY in wants:
            query_key = self._on_grid(query_plus_key(last.attn, last.norm1(x)), grid)
        if TOKENS in wants:
            tokens = self._on_grid(self.model.norm(_run(last, x, rope, len(first))), grid)
        if LAST_BLOCK in wants:
            parts = self.model.norm(x), *_projections(last.attn, last.norm1(x))
            last_block = self._on_grid(torch.cat(parts, dim=-1), grid)
        return Features(tokens, query_key, last_block)

    @torch.no_grad()
    def run_last_block(self, stitched: Tensor) -> Tensor:
        """Run the last block over any grid of patches, without class and register tokens.

        ``y = P + attention(q, k, v)``, ``y + MLP(norm(y))`` (OV-Stitcher, arXiv 2604.08110): DINO's block on
        a normalised input. LayerScale applies as in the model (DINOv2). Rotary positions are those
        of the given grid (DINOv3): stitching joins queries and keys that have no positions yet, and
        the grid gives them. OV-Stitcher was published for DINO alone.

        Args:
            stitched: B x (C + 3A) x H x W from `Features.last_block`, of one window or stitched.

        Returns:
            B x C x H x W float32, without a final norm.

        Raises:
            ItaclipError: the last block is not one of timm's plain ones.
        """
        block = self.model.blocks[-1]
        _require_last_block(block, self.name)
        attention, size = block.attn, stitched.shape[2:]
        flat = stitched.flatten(2).mT
        y, *projected = flat.split([self.channels, *[(flat.shape[2] - self.channels) // 3] * 3], dim=2)
        q, k, v = (part.to(self.dtype).unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for part in projected)
        q, k = attention.q_norm(q), attention.k_norm(k)
        if isinstance(getattr(self.model, "rope", None), nn.Module):
            from timm.layers import apply_rot_embed_cat

            table = self.model.rope.get_embed([size[0], size[1]])
            table = table[-1] if table.ndim == 4 else table  # the last block's, or one for all
            q, k = (apply_rot_embed_cat(part, table, half=attention.rotate_half).to(v.dtype) for part in (q, k))
        # in blocks of rows, because not every device has a kernel that does not store the map
        step = max(1, _MOST_CELLS // (q.shape[0] * q.shape[1] * q.shape[2]))
        parts = (F.scaled_dot_product_attention(rows, k, v, scale=attention.scale) for rows in q.split(step, dim=2))
        heads = torch.cat(list(parts), dim=2)
        update = attention.proj(attention.norm(heads.transpose(1, 2).flatten(2)))
        y = y + _layer_scaled(block, 1, update).float()
        y = y + _layer_scaled(block, 2, block.mlp(block.norm2(y.to(self.dtype)))).float()
        return y.mT.unflatten(2, size)

    def _grid(self, pixels: Tensor) -> tuple[int, int]:
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ItaclipError(f"pixels of shape {tuple(pixels.shape)}: expected batch x 3 x height x width.")
        height, width = pixels.shape[2:]
        if height % self.patch_size or width % self.patch_size or not height or not width:
            raise ItaclipError(
                f"{self.name}: {height} x {width} pixels are not a multiple of the patch size {self.patch_size}; "
                "pad or resize the image."
            )
        return height // self.patch_size, width // self.patch_size

    def _embed(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the tokens before the first block, and the rotary table if the model has one."""
        embedded = self.model._pos_embed(self.model.patch_embed(x))
        tokens, rope = embedded if isinstance(embedded, tuple) else (embedded, None)
        return self.model.norm_pre(tokens), rope

    def _on_grid(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Reshape B x N x C tokens to B x C x r x c float32, dropping class and register tokens."""
        patches = tokens[:, self.model.num_prefix_tokens :].float()
        return patches.transpose(1, 2).reshape(patches.shape[0], -1, *grid)


def _projections(attention: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute queries, keys and values of all heads, B x N x A each, in the dtype of the model."""
    if attention.qkv is None:
        return attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)
    bias = attention.qkv.bias
    if getattr(attention, "q_bias", None) is not None:
        bias = torch.cat((attention.q_bias, attention.k_bias, attention.v_bias)).to(x.dtype)
    q, k, v = F.linear(x, attention.qkv.weight, bias).chunk(3, dim=-1)
    return q, k, v


def _layer_scaled(block: Any, number: int, update: Tensor) -> Tensor:
    """Apply the first or second LayerScale of a block, if it has any: timm has two ways to store them."""
    gamma = getattr(block, f"gamma_{number}", None)
    scale = getattr(block, f"ls{number}", None)
    scaled: Tensor = update if scale is None else scale(update)
    return scaled if gamma is None else gamma * scaled


def _require_last_block(block: Any, name: str) -> None:
    """Refuse blocks whose attention is more than projections, softmax and an output projection."""
    from timm.layers import Attention
    from timm.models.eva import EvaAttention

    if type(block.attn) not in (Attention, EvaAttention) or block.attn.gate is not None:
        raise ItaclipError(
            f"{name}: its last block ({type(block.attn).__name__}) cannot be read before its attention, so it cannot "
            "see a whole image; use the ViTs of DINO, DINOv2 or DINOv3, or method_options={'stitched_features': False}."
        )


def query_plus_key(attention: Any, x: Tensor) -> Tensor:
    """Compute query plus key of every token, B x N x C, summed in float32.

    Args:
        attention: a timm attention module with joint or separate projections.
        x: B x N x C, its input tokens.
    """
    if attention.qkv is None:
        return attention.q_proj(x).float() + attention.k_proj(x).float()
    rows = attention.qkv.weight.shape[0] // 3 * 2
    bias = attention.qkv.bias
    if getattr(attention, "q_bias", None) is not None:
        bias = torch.cat((attention.q_bias, attention.k_bias, attention.v_bias)).to(x.dtype)
    query, key = F.linear(x, attention.qkv.weight[:rows], None if bias is None else bias[:rows]).chunk(2, dim=-1)
    return query.float() + key.float()


class _RotaryTables(nn.Module):
    """Caches rotary tables per grid size: timm computes them on the CPU, and a GPU would wait for each copy."""

    def __init__(self, rope: nn.Module) -> None:
        super().__init__()
        self.rope: Any = rope
        self._tables: dict[tuple[torch.device, tuple[int, ...]], Tensor] = {}

    def get_embed(self, shape: Sequence[int]) -> Tensor:
        """Get the table of a grid, as timm's module returns it."""
        device = next(chain(self.rope.parameters(), self.rope.buffers())).device
        key = device, tuple(shape)
        if key not in self._tables:
            if len(self._tables) >= _MAX_TABLES:
                self._tables.clear()
            self._tables[key] = self.rope.get_embed(list(shape))
        return self._tables[key]


def _cast(model: Any, dtype: torch.dtype) -> Any:
    """Cast the model, except for rotary periods: rounding them would rotate distant patches by wrong angles."""
    rope = getattr(model, "rope", None)
    kept = dict(rope.named_buffers()) if isinstance(rope, nn.Module) else {}
    model.to(dtype)
    for name, buffer in kept.items():
        setattr(rope, name, buffer)
    return model


def _run(block: Any, x: Tensor, rope: Tensor | None, depth: int) -> Tensor:
    if rope is None:
        return block(x)
    return block(x, rope=rope[depth] if rope.ndim == 4 else rope)  # a table per block, or one for all


def _require_layout(model: Any, name: str) -> None:
    """Reject models that are not patch embedding, positions, pre-norm blocks and a final norm."""
    from timm.models.eva import Eva, EvaBlock
    from timm.models.vision_transformer import Block, VisionTransformer

    blocks = getattr(model, "blocks", [])
    fine = isinstance(model, (VisionTransformer, Eva)) and all(isinstance(b, (Block, EvaBlock)) for b in blocks)
    if not fine or not len(blocks) or not hasattr(blocks[-1].attn, "qkv"):
        raise ItaclipError(
            f"{name}: {type(model).__name__} is not a plain vision transformer; a second encoder needs a patch "
            "embedding and pre-norm blocks with one attention each, like the ViTs of DINO, DINOv2 and DINOv3."
        )
    attention = blocks[-1].attn
    if getattr(attention, "num_kv_heads", attention.num_heads) != attention.num_heads:
        raise ItaclipError(f"{name}: has fewer key heads than query heads, so they cannot be added.")


def _fingerprint(model: nn.Module, mean: Sequence[float], std: Sequence[float], dtype: str) -> str:
    """Return a short hash of everything the features depend on: layout, weights, normalisation, dtype."""
    found = hashlib.sha256(json.dumps([str(model), list(mean), list(std), dtype]).encode())
    for key, value in sorted(model.state_dict().items()):
        found.update(f"{key}{tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]
