"""Adapters for timm's ViTs in open_clip: SigLIP, SigLIP 2, and plain ones with a class token or mean pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.core.clip.blocks import Projections, query_key_value
from itaclip.core.clip.towers.tower import Grid, PatchProjection, Positions, Tower, TowerBlock, patch_rows, resample


class TimmBlock(TowerBlock):
    """timm's ``Block``: one matrix for queries, keys and values; norms on queries and keys if the model has them."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def attention_input(self, x: Tensor) -> Tensor:
        """Compute the normalised input of the attention, in the precision of its matrices."""
        normed: Tensor = self.module.norm1(x).to(self.module.attn.proj.weight.dtype)
        return normed

    def project(self, x: Tensor) -> Projections:
        attention, normed = self.module.attn, self.attention_input(x)
        q, k, v = query_key_value(normed, attention.qkv.weight, attention.qkv.bias, attention.num_heads)
        return Projections(attention.q_norm(q), attention.k_norm(k), v, normed)

    def output(self, heads: Tensor) -> Tensor:
        attention = self.module.attn
        found: Tensor = self.module.ls1(attention.proj(attention.norm(heads)))
        return found

    def feed_forward(self, x: Tensor) -> Tensor:
        mlp = self.module.mlp
        found: Tensor = self.module.ls2(mlp(self.module.norm2(x).to(mlp.fc2.weight.dtype)))
        return found

    def lower(self, dtype: torch.dtype) -> None:
        self.module.attn.to(dtype)
        self.module.mlp.to(dtype)


class TimmTower(Tower):
    """Common part of timm's ViTs: embedding, pooling, and the heads of timm and open_clip."""

    resampling = "antialias"

    def __init__(self, visual: Any) -> None:
        super().__init__(visual)
        trunk = visual.trunk
        self.trunk = trunk
        self.depth = len(trunk.blocks)
        self.prefix = int(trunk.num_prefix_tokens)
        self.patch_size = int(trunk.patch_embed.patch_size[0])
        self.table_side = int(trunk.patch_embed.grid_size[0])
        self.channels = _channels(visual)
        self._blocks: Sequence[TowerBlock] = [TimmBlock(module) for module in trunk.blocks]
        if trunk.attn_pool is not None:
            self.patch_projections = ("values", "values_linear", "tokens")

    def embed(self, pixels: Tensor, grid: Grid, rule: Positions) -> Tensor:
        trunk, convolution = self.trunk, self.trunk.patch_embed.proj
        x = trunk.patch_embed.norm(patch_rows(pixels, grid, convolution.weight, convolution.bias)).float()
        first = [token.expand(len(x), -1, -1) for token in (trunk.cls_token, trunk.reg_token) if token is not None]
        table = None if trunk.pos_embed is None else resample(trunk.pos_embed[0], self.table_side, grid, rule)
        if table is not None and len(table) == x.shape[1]:  # no positions for the tokens before the patches
            x, table = x + table, None
        x = torch.cat([*first, x], dim=1)
        x = x if table is None else x + table
        embedded: Tensor = trunk.norm_pre(x)
        return embedded

    def blocks(self, grid: Grid) -> Sequence[TowerBlock]:
        return self._blocks

    def norm(self, x: Tensor) -> Tensor:
        normed: Tensor = self.trunk.norm(x)
        # with mean pooling, the norm follows the pooling; patches get the same norm as the mean
        return normed if self.patch_projections else self.trunk.fc_norm(normed)

    def joint(self, normed: Tensor, projection: PatchProjection = "values") -> Tensor:
        if self.patch_projections and projection != "tokens":
            pool = self.trunk.attn_pool
            width = pool.kv.weight.shape[0] // 2
            bias = None if pool.kv.bias is None else pool.kv.bias[width:]
            normed = pool.proj(F.linear(normed, pool.kv.weight[width:], bias))
            if projection == "values":
                normed = normed + pool.mlp(pool.norm(normed))
            normed = self.trunk.fc_norm(normed)
        found: Tensor = self.visual.head(self.trunk.head(normed))
        return found

    def pooled(self, x: Tensor) -> Tensor:
        found: Tensor = self.visual.head(self.trunk.forward_head(self.trunk.norm(x)))
        return found

    def lower(self, dtype: torch.dtype) -> None:
        for block in self._blocks:
            block.lower(dtype)
        self.trunk.patch_embed.proj.to(dtype)


def _channels(visual: Any) -> int:
    for head in (*reversed(list(visual.head.modules())), visual.trunk.head):
        if isinstance(head, torch.nn.Linear):
            return int(head.out_features)
    return int(visual.trunk.num_features)
