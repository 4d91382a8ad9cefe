"""RADSeg: self-correlating attention in the last block and over the whole image (arXiv 2511.19704, CVPR 2026).

Written from a description of the published code at 05ec86f. No recording of that code exists here; a plain
implementation, written from the same text, is the oracle in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.core.clip.blocks import attend
from itaclip.core.clip.encoded import EncodedWindows, Needs
from itaclip.core.methods.method import StitchedFeatures, Window

# Entries of the similarities of a whole image that are stored at a time: 16 MiB in float32.
_MOST_CELLS = 2**22


@dataclass(frozen=True)
class RADSeg(StitchedFeatures):
    """Recursive attention in the last block of every window, then an average over alike patches of the image.

    The last attention's own result decides which tokens attend to each other (SCRA); the tower's
    residual, LayerScale and feed-forward network stay. The features of all windows are stitched, and every patch
    becomes a mean of the patches that resemble it more than two patches of the image do on average (SCGA).

    Attributes:
        attention_scale: inverse temperature of the last block's cosines.
        image_scale: inverse temperature of the cosines over the whole image.
    """

    attention_scale: float = field(default=10.0, kw_only=True)
    image_scale: float = field(default=10.0, kw_only=True)

    def needs(self, depth: int) -> Needs:
        return Needs.of(outputs=[depth - 1], projections=[depth])

    def tokens(self, encoded: EncodedWindows, window: Window) -> Tensor:
        block, p = encoded.last, encoded.projections(encoded.depth)
        ordinary = block.merge_heads(attend(p.query, p.key, p.value)).float()
        heads = F.normalize(ordinary.unflatten(-1, (p.value.shape[1], -1)).transpose(1, 2), dim=-1)
        scores = self.attention_scale * heads @ heads.transpose(-1, -2)
        weights = scores.masked_fill_(scores < 0, -torch.inf).softmax(-1)  # a token resembles itself
        x = block.finish(encoded.output(encoded.depth - 1), weights.to(p.value.dtype) @ p.value, True, True)
        return encoded.on_grid(encoded.patches(encoded.norm(x)))

    def whole(self, features: Tensor) -> Tensor:
        rows = features.flatten(1, 2)
        return torch.stack([aggregated(one, self.image_scale) for one in rows]).view_as(features)


def aggregated(features: Tensor, scale: float) -> Tensor:
    """Average alike features: ``softmax(scale (C - mean C)) F`` over the entries that are not negative; N x D float32.

    It runs over blocks of rows, so memory grows with N alone. The mean of all N^2 cosines C needs none of them: it is
    the squared length of the mean unit vector.
    """
    unit = F.normalize(features.float(), dim=-1)
    mean = unit.mean(0).square().sum()
    step = max(1, _MOST_CELLS // len(unit))
    found = torch.empty_like(unit)
    for first in range(0, len(unit), step):
        scores = scale * (unit[first : first + step] @ unit.T - mean)
        scores.diagonal(first).clamp_(min=0)  # in an image of one colour, rounding could drop every entry
        weights = scores.masked_fill_(scores < 0, -torch.inf).softmax(-1)
        torch.mm(weights, features.float(), out=found[first : first + step])
    return found
