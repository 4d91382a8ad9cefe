"""open_clip's own ViT, with the variants in its configurations."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from open_clip.transformer import CustomResidualAttentionBlock, ResidualAttentionBlock
from torch import Tensor, nn

from itaclip.core.clip import blocks as functions
from itaclip.core.clip.blocks import Projections
from itaclip.core.clip.towers.openai import OpenAIBlock, OpenAITower
from itaclip.core.clip.towers.tower import PatchReading
from itaclip.errors import ItaclipError


class ScaledBlock(OpenAIBlock):
    """OpenAI's block, with LayerScale if the model has it."""

    def output(self, heads: Tensor) -> Tensor:
        found: Tensor = self.module.ls_1(super().output(heads))
        return found

    def feed_forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.module.ls_2(super().feed_forward(x))
        return found


class CustomBlock(OpenAIBlock):
    """open_clip's "custom" block: norms on queries and keys, scaled heads, inner norms."""

    def project(self, x: Tensor) -> Projections:
        p, attention = functions.project(self.module, x), self.module.attn
        return Projections(attention.ln_q(p.query), attention.ln_k(p.key), p.value, p.normed)

    def query_of(self, x: Tensor) -> Tensor:
        found: Tensor = self.module.attn.ln_q(functions.query_of(self.module, x))
        return found

    def output(self, heads: Tensor) -> Tensor:
        attention = self.module.attn
        if attention.head_scale is not None:
            factors = attention.head_scale.flatten().repeat_interleave(attention.head_dim)
            heads = heads * factors
        inside = attention.out_proj(attention.ln_inner(heads))
        found: Tensor = self.module.ls_1(self.module.ln_attn(inside))
        return found

    def feed_forward(self, x: Tensor) -> Tensor:
        mlp = self.module.mlp
        found: Tensor = self.module.ls_2(mlp(self.module.ln_2(x).to(mlp.c_fc.weight.dtype)))
        return found


class OpenClipTower(OpenAITower):
    """open_clip's ``VisionTransformer``, pooled by its class token or by the mean of its patches."""

    def block(self, module: Any) -> OpenAIBlock:
        if isinstance(module, ResidualAttentionBlock):
            return ScaledBlock(module)
        if isinstance(module, CustomResidualAttentionBlock) and module.attn.logit_scale is None:
            return CustomBlock(module)
        kind = type(module).__name__
        raise ItaclipError(f"blocks of type {kind}, or with cosine attention, cannot be read densely.")

    def pooled(self, x: Tensor) -> Tensor:
        if self.visual.pool_type == "tok":
            return super().pooled(x)
        if self.visual.final_ln_after_pool:
            return self.joint(self.norm(x[:, 1:].mean(1)))
        return self.joint(self.norm(x[:, 1:]).mean(1))


class CoCaTower(OpenClipTower):
    """open_clip's ``VisionTransformer`` with attention pooling instead of the class token's projection.

    The head's first query produces the image feature; its values are computed from ``ln_k(x)``.
    """

    def __init__(self, visual: Any) -> None:
        super().__init__(visual)
        same_width = visual.ln_pre.weight.shape if isinstance(visual.ln_pre, nn.LayerNorm) else ()
        # without the head, tokens can be projected only if the widths agree
        self.readings = ("values", "tokens") if same_width == visual.proj.shape[:1] else ("values",)

    def norm(self, x: Tensor) -> Tensor:
        normed: Tensor = self.visual.attn_pool.ln_k(x)
        return normed

    def joint(self, normed: Tensor, reading: PatchReading = "values") -> Tensor:
        pool = self.visual.attn_pool.attn
        if reading != "tokens":
            width = pool.embed_dim
            weight = pool.v_proj_weight if pool.in_proj_weight is None else pool.in_proj_weight[2 * width :]
            normed = pool.out_proj(F.linear(normed, weight, pool.in_proj_bias[2 * width :]))
        return super().joint(self.visual.ln_post(normed))

    def pooled(self, x: Tensor) -> Tensor:
        found: Tensor = self.visual.ln_post(self.visual.attn_pool(x))
        head = found[:, 0] if self.visual.pool_type == "tok" else found[:, 1:].mean(1)
        return super().joint(head)
