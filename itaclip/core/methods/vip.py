"""VIP's attention: the backbone's own similarities in the vision head of dino.txt (ICML 2026, arXiv 2605.12325).

Written from a description of the published code at 5bd25ee; no recording of it exists here. Its rule that weighs the
aliases of a class by the window is `itaclip.core.aliases`, for every method. Its rule that marks uncertain pixels as
ignored flatters IoU and is in none of this project's protocols.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.core.clip.encoded import EncodedWindows, Needs
from itaclip.core.methods.method import Method, Window


@dataclass(frozen=True)
class VIP(Method):
    """Run the vision head with one attention for all heads: ``softmax(scale (C - threshold mean C)) v``.

    C are the cosines of the backbone's patches; entries that are not positive do not count. LayerScale,
    residuals and feed-forward networks of the head stay; class and register tokens neither attend nor
    are attended to. A patch that resembles none keeps itself.

    Attributes:
        scale: inverse temperature.
        threshold: factor on the mean cosine, below which patches do not attend to each other.
    """

    reads_head: ClassVar[bool] = True

    scale: float = field(default=0.5, kw_only=True)
    threshold: float = field(default=1.5, kw_only=True)

    def needs(self, depth: int) -> Needs:
        return Needs.of(outputs=[depth])

    def tokens(self, encoded: EncodedWindows, window: Window) -> Tensor:
        head = encoded.vision_head
        x = encoded.patches(encoded.norm(encoded.output(encoded.depth)).float())
        unit = F.normalize(x, dim=-1)
        cosines = unit @ unit.transpose(1, 2)
        scores = self.scale * (cosines - self.threshold * cosines.mean((1, 2), keepdim=True))
        own = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
        weights = scores.masked_fill((scores <= 0) & ~own, -torch.inf).softmax(-1)
        for block in head.blocks:
            x = block.finish(x, weights @ block.values(x))
        found: Tensor = head.ln_final(x)
        return encoded.on_grid(found)
