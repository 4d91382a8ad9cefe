"""Adapter for the ViT of OpenAI's layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from itaclip.core.clip import blocks as functions
from itaclip.core.clip.blocks import Projections
from itaclip.core.clip.towers.tower import Grid, PatchReading, Positions, Tower, TowerBlock, patch_rows, resample


class OpenAIBlock(TowerBlock):
    """OpenAI's block; positions are only in the residual stream."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def project(self, x: Tensor) -> Projections:
        return functions.project(self.module, x)

    def query_of(self, x: Tensor) -> Tensor:
        return functions.query_of(self.module, x)

    def output(self, heads: Tensor) -> Tensor:
        found: Tensor = self.module.attn.out_proj(heads)
        return found

    def feed_forward(self, x: Tensor) -> Tensor:
        return functions.feed_forward(self.module, x)

    def lower(self, dtype: torch.dtype) -> None:
        self.module.attn.to(dtype)
        self.module.mlp.to(dtype)


class OpenAITower(Tower):
    """`itaclip.core.clip.openai.ImageTower`; its class token always comes first."""

    prefix = 1

    def __init__(self, visual: Any) -> None:
        super().__init__(visual)
        self._blocks = [self.block(module) for module in visual.transformer.resblocks]
        self.depth = len(self._blocks)
        self.patch_size = int(visual.conv1.kernel_size[0])
        self.table_side = round((visual.positional_embedding.shape[0] - 1) ** 0.5)
        self.channels = int(visual.proj.shape[1])

    def block(self, module: Any) -> OpenAIBlock:
        """Wrap one block in its adapter."""
        return OpenAIBlock(module)

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
        return self.joint(self.norm(x[:, 0]))

    def lower(self, dtype: torch.dtype) -> None:
        for block in self._blocks:
            block.lower(dtype)
        self.visual.conv1.to(dtype)
