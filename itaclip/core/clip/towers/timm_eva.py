"""timm's ``Eva``: EVA-01 and EVA-02, and Meta's Perception Encoder (PE-Core), which rotate queries and keys."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import apply_rot_embed_cat
from timm.models.eva import EvaBlockPostNorm
from torch import Tensor

from itaclip.core.clip.blocks import Projections, query_key_value
from itaclip.core.clip.towers.timm_vit import TimmBlock, TimmTower
from itaclip.core.clip.towers.tower import Grid, TowerBlock

_MOST_GRIDS = 64  # rotations kept at a time; images that are not cut into windows come in many sizes


class EvaBlock(TimmBlock):
    """timm's ``EvaBlock``: rotary positions, SwiGLU and inner norms, depending on the model.

    Args:
        module: timm's block.
        rotation: N x 2 d sines and cosines of the grid's patches; None without rotary positions.
    """

    def __init__(self, module: Any, rotation: Tensor | None) -> None:
        super().__init__(module)
        self.rotation = rotation

    def project(self, x: Tensor) -> Projections:
        attention, normed = self.module.attn, self.attention_input(x)
        if attention.qkv is None:
            parts = [attention.q_proj(normed), attention.k_proj(normed), attention.v_proj(normed)]
            q, k, v = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in parts)
        else:
            bias = attention.qkv.bias
            if getattr(attention, "q_bias", None) is not None:  # EVA's keys have none
                bias = torch.cat([attention.q_bias, torch.zeros_like(attention.q_bias), attention.v_bias])
            q, k, v = query_key_value(normed, attention.qkv.weight, bias, attention.num_heads)
        return Projections(self._placed(attention.q_norm(q)), self._placed(attention.k_norm(k)), v, normed)

    def query_of(self, x: Tensor) -> Tensor:
        return type(self)(self.module, None).project(x).query

    def _placed(self, heads: Tensor) -> Tensor:
        """Rotate heads by the positions of their patches; the tokens before the patches have none."""
        if self.rotation is None:
            return heads
        first = heads.shape[2] - len(self.rotation)
        rotated = apply_rot_embed_cat(heads[:, :, first:], self.rotation, half=self.module.attn.rotate_half)
        return torch.cat([heads[:, :, :first], rotated.to(heads.dtype)], dim=2)

    def output(self, heads: Tensor) -> Tensor:
        attention = self.module.attn
        found: Tensor = attention.proj(attention.norm(heads))
        return found if self.module.gamma_1 is None else self.module.gamma_1 * found

    def feed_forward(self, x: Tensor) -> Tensor:
        mlp = self.module.mlp
        found: Tensor = mlp(self.module.norm2(x).to(mlp.fc2.weight.dtype))
        return found if self.module.gamma_2 is None else self.module.gamma_2 * found


class EvaPostNormBlock(EvaBlock):
    """timm's ``EvaBlockPostNorm`` (EVA02-E): the norms follow the attention and the feed-forward network."""

    def attention_input(self, x: Tensor) -> Tensor:
        return x.to(self.module.attn.proj.weight.dtype)

    def output(self, heads: Tensor) -> Tensor:
        attention = self.module.attn
        found: Tensor = self.module.norm1(attention.proj(attention.norm(heads)).float())
        return found

    def feed_forward(self, x: Tensor) -> Tensor:
        mlp = self.module.mlp
        found: Tensor = self.module.norm2(mlp(x.to(mlp.fc2.weight.dtype)).float())
        return found


class EvaTower(TimmTower):
    """timm's ``Eva`` with square patches."""

    def __init__(self, visual: Any) -> None:
        super().__init__(visual)
        self.rotates = self.trunk.rope is not None
        self._by_grid: dict[tuple[Grid, torch.device], list[TowerBlock]] = {}

    def blocks(self, grid: Grid) -> Sequence[TowerBlock]:
        key = grid, self.device
        if key not in self._by_grid:
            if len(self._by_grid) >= _MOST_GRIDS:
                self._by_grid.clear()
            rotation = None if self.trunk.rope is None else _rotation(self.trunk.rope, grid)
            kind = EvaPostNormBlock if isinstance(self.trunk.blocks[0], EvaBlockPostNorm) else EvaBlock
            self._by_grid[key] = [kind(module, rotation) for module in self.trunk.blocks]
        return self._by_grid[key]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _rotation(rope: Any, grid: Grid) -> Tensor:
    """Get timm's table for a grid, in float32: rounding would rotate distant patches by wrong angles."""
    if rope.feat_shape is not None:  # timm's module keeps the table of one grid; a copy computes another
        rope = copy.deepcopy(rope)
        rope.update_feat_shape(list(grid))
    table: Tensor = rope.get_embed(shape=list(grid))
    return table.float()
