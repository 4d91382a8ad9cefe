"""Adapter for dino.txt: the patches of its backbone meet texts as they are; its vision head is there for `vip`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from itaclip.core.clip.towers.timm_eva import EvaTower
from itaclip.core.clip.towers.tower import PatchProjection


class DinoTxtTower(EvaTower):
    """`itaclip.core.clip.dinotxt.DinoTxtImage`: DINOv3 in timm's ``Eva``, with rotary positions.

    Published measurements found patches of the backbone better than those of the head, so they are what methods read.
    """

    def __init__(self, visual: Any) -> None:
        super().__init__(visual)
        self.vision_head = visual.vision_head
        self.channels = int(visual.trunk.embed_dim)

    @property
    def image_size(self) -> int:
        """Side in pixels of VIP's windows; the backbone was trained on several sizes."""
        return 21 * self.patch_size

    def norm(self, x: Tensor) -> Tensor:
        normed: Tensor = self.trunk.norm(x)
        return normed

    def joint(self, normed: Tensor, projection: PatchProjection = "values") -> Tensor:
        return normed

    def pooled(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        for block in self.vision_head.blocks:
            x = block(x)
        found: Tensor = self.vision_head.ln_final(x)[:, self.prefix :].mean(1)
        return found
