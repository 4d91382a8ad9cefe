"""open_clip's own ViT: OpenAI's layout, and the variations that open_clip's configurations name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import CustomResidualAttentionBlock, ResidualAttentionBlock
from torch import Tensor, nn

from itaclip.clip import blocks as functions
from itaclip.clip.blocks import Projections
from itaclip.clip.towers.tower import Grid, PatchReading, Positions, Tower, TowerBlock, patch_rows, resample
from itaclip.errors import ItaclipError


class OpenAIBlock(TowerBlock):
    """OpenAI's block, with LayerScale where a model has it; positions lie in the stream alone."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def project(self, x: Tensor) -> Projections:
        return functions.project(self.module, x)

    def query_of(self, x: Tensor) -> Tensor:
        return functions.query_of(self.module, x)

    def output(self, heads: Tensor) -> Tensor:
        found: Tensor = self.module.ls_1(self.module.attn.out_proj(heads))
        return found

    def feed_forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.module.ls_2(functions.feed_forward(self.module, x))
        return found

    def lower(self, dtype: torch.dtype) -> None:
        self.module.attn.to(dtype)
        self.module.mlp.to(dtype)


class CustomBlock(OpenAIBlock):
    """open_clip's "custom" block: norms on queries and keys, scaled heads, norms inside."""

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


class OpenAITower(Tower):
    """open_clip's ``VisionTransformer``; its class token always comes first."""

    prefix = 1

    def __init__(self, visual: Any) -> None:
        super().__init__(visual)
        self._blocks = [_block(module) for module in visual.transformer.resblocks]
        self.depth = len(self._blocks)
        self.patch_size = int(visual.conv1.kernel_size[0])
        self.table_side = round((visual.positional_embedding.shape[0] - 1) ** 0.5)
        self.channels = int(visual.proj.shape[1])

    def embed(self, pixels: Tensor, grid: Grid, rule: Positions) -> Tensor:
        visual = self.visual
        first = visual.class_embedding
        x = patch_rows(pixels, grid, visual.conv1.weight).to(first.dtype)
        table = resample(visual.positional_embedding, self.table_side, grid, rule)
        embedded: Tensor = visual.ln_pre(torch.cat([first.expand(x.shape[0], 1, -1), x], dim=1) + table)
        return embedded

    def blocks(self, grid: Grid) -> Sequence[TowerBlock]:
        return self._blocks

    def norm(self, x: Tensor) -> Tensor:
        normed: Tensor = self.visual.ln_post(x)
        return normed

    def joint(self, normed: Tensor, reading: PatchReading = "values") -> Tensor:
        found: Tensor = normed @ self.visual.proj
        return found

    def pooled(self, x: Tensor) -> Tensor:
        if self.visual.pool_type == "tok":
            return self.joint(self.norm(x[:, 0]))
        if self.visual.final_ln_after_pool:
            return self.joint(self.norm(x[:, 1:].mean(1)))
        return self.joint(self.norm(x[:, 1:]).mean(1))

    def lower(self, dtype: torch.dtype) -> None:
        for block in self._blocks:
            block.lower(dtype)
        self.visual.conv1.to(dtype)


class CoCaTower(OpenAITower):
    """The same with open_clip's attention pooling in the place of the class token's projection.

    The head's first query makes the image's feature; its values are those of ``ln_k(x)``.
    """

    def __init__(self, visual: Any) -> None:
        super().__init__(visual)
        same_width = visual.ln_pre.weight.shape if isinstance(visual.ln_pre, nn.LayerNorm) else ()
        # without the head, tokens meet the projection only where the widths agree
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


def _block(module: Any) -> OpenAIBlock:
    if isinstance(module, ResidualAttentionBlock):
        return OpenAIBlock(module)
    if isinstance(module, CustomResidualAttentionBlock) and module.attn.logit_scale is None:
        return CustomBlock(module)
    raise ItaclipError(f"blocks of the type {type(module).__name__}, or with cosine attention, cannot be read densely.")
