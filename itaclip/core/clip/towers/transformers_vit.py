"""Image towers of Transformers: TIPSv2, and RADIO with an adaptor into another model's joint space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from itaclip.core.clip.blocks import Projections
from itaclip.core.clip.towers.tower import Grid, PatchProjection, Positions, Tower, TowerBlock, patch_rows, resample

_MOST_GRIDS = 64  # tables of positions kept at a time; images that are not cut into windows come in many sizes


class TransformersBlock(TowerBlock):
    """A DINOv2-like block: separate matrices for queries, keys and values, and LayerScale."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def project(self, x: Tensor) -> Projections:
        attention = self.module.attention
        normed = self._normed(x)
        q, k, v = (self._heads(part(normed)) for part in (attention.q_proj, attention.k_proj, attention.v_proj))
        return Projections(q, k, v, normed)

    def query_of(self, x: Tensor) -> Tensor:
        return self._heads(self.module.attention.q_proj(self._normed(x)))

    def _normed(self, x: Tensor) -> Tensor:
        normed: Tensor = self.module.norm1(x).to(self.module.attention.o_proj.weight.dtype)
        return normed

    def _heads(self, rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (-1, self.module.attention.head_dim)).transpose(1, 2)

    def output(self, heads: Tensor) -> Tensor:
        found: Tensor = self.module.layer_scale1(self.module.attention.o_proj(heads))
        return found

    def feed_forward(self, x: Tensor) -> Tensor:
        dtype = self.module.attention.o_proj.weight.dtype
        found: Tensor = self.module.layer_scale2(self.module.mlp(self.module.norm2(x).to(dtype)))
        return found

    def lower(self, dtype: torch.dtype) -> None:
        self.module.attention.to(dtype)
        self.module.mlp.to(dtype)


class TipsTower(Tower):
    """Transformers' ``Tipsv2VisionModel``: no projection, so the joint space has the tower's width.

    Its register was trained as a second class token, on other captions (Maninis et al., arXiv 2604.12012).
    """

    resampling = "bilinear"

    def __init__(self, visual: Any) -> None:
        super().__init__(visual)
        embeddings = visual.embeddings
        self._blocks: Sequence[TowerBlock] = [TransformersBlock(module) for module in visual.encoder.layer]
        self.depth = len(self._blocks)
        self.prefix = 1 + embeddings.register_tokens.shape[1]
        self.patch_size = int(embeddings.patch_embeddings.projection.kernel_size[0])
        self.table_side = round((embeddings.position_embeddings.shape[1] - 1) ** 0.5)
        self.channels = int(embeddings.cls_token.shape[-1])

    def embed(self, pixels: Tensor, grid: Grid, rule: Positions) -> Tensor:
        embeddings, projection = self.visual.embeddings, self.visual.embeddings.patch_embeddings.projection
        x = patch_rows(pixels, grid, projection.weight, projection.bias).to(embeddings.cls_token.dtype)
        table = resample(embeddings.position_embeddings[0], self.table_side, grid, rule)
        first = (embeddings.cls_token + table[:1], embeddings.register_tokens)  # the register has no place
        return torch.cat([*(token.expand(len(x), -1, -1) for token in first), x + table[1:]], dim=1)

    def blocks(self, grid: Grid) -> Sequence[TowerBlock]:
        return self._blocks

    def norm(self, x: Tensor) -> Tensor:
        normed: Tensor = self.visual.layernorm(x)
        return normed

    def joint(self, normed: Tensor, projection: PatchProjection = "values") -> Tensor:
        return normed

    def pooled(self, x: Tensor) -> Tensor:
        return self.norm(x[:, 0])

    def lower(self, dtype: torch.dtype) -> None:
        for block in self._blocks:
            block.lower(dtype)
        self.visual.embeddings.patch_embeddings.projection.to(dtype)


class RadioTower(Tower):
    """Transformers' ``RadioModel`` with an adaptor (`itaclip.core.clip.radio.RadioImage`).

    It was trained on images of many sizes, with a table of positions for 2048 pixels; windows are RADSeg's by default.
    """

    resampling = "cut"
    image_size = 336

    def __init__(self, visual: Any) -> None:
        super().__init__(visual)
        embeddings = visual.model.embeddings
        self._blocks: Sequence[TowerBlock] = [TransformersBlock(module) for module in visual.model.encoder.layer]
        self.depth = len(self._blocks)
        self.prefix = int(embeddings.cls_register_token.shape[0])
        self.patch_size = int(embeddings.patch_size)
        self.table_side = int(embeddings.max_rows)
        self.channels = int(visual.adaptor.channels)
        self._tables: dict[tuple[Grid, Positions, torch.device], Tensor] = {}

    def embed(self, pixels: Tensor, grid: Grid, rule: Positions) -> Tensor:
        embeddings, weight = self.visual.model.embeddings, self.visual.model.embeddings.patch_projection.weight
        first = embeddings.cls_register_token
        x = patch_rows(pixels, grid, weight.unflatten(1, (3, self.patch_size, self.patch_size))).to(first.dtype)
        return torch.cat([first.expand(len(x), -1, -1), x + self._table(grid, rule)], dim=1)

    def _table(self, grid: Grid, rule: Positions) -> Tensor:
        """Resample the large table once for each grid."""
        table = self.visual.model.embeddings.position_embedding[0]
        key = grid, rule, table.device
        if key not in self._tables:
            if len(self._tables) >= _MOST_GRIDS:
                self._tables.clear()
            self._tables[key] = resample(table, self.table_side, grid, rule)
        return self._tables[key]

    def blocks(self, grid: Grid) -> Sequence[TowerBlock]:
        return self._blocks

    def norm(self, x: Tensor) -> Tensor:
        return x  # it has none

    def joint(self, normed: Tensor, projection: PatchProjection = "values") -> Tensor:
        found: Tensor = self.visual.adaptor(normed)
        return found

    def pooled(self, x: Tensor) -> Tensor:
        return self.joint(x[:, self.visual.summary])

    def lower(self, dtype: torch.dtype) -> None:
        for block in self._blocks:
            block.lower(dtype)
        self.visual.model.embeddings.patch_projection.to(dtype)
