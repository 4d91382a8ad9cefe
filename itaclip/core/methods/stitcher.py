"""OV-Stitcher: CorrCLIP with attention over the whole image (Moon et al., CVPR 2026 Findings, arXiv 2604.08110).

Shapes: L images, or views of one; N patches of CLIP on the image's grid; M positions of the second
encoder on its grid H x W of the image; D width, h heads of d channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from itaclip.core.clip.blocks import attend
from itaclip.core.clip.encoded import EncodedWindows, Needs
from itaclip.core.methods.corrclip import CorrCLIP
from itaclip.core.methods.method import FeatureKind, StitchedBlocks, Window
from itaclip.core.methods.proxyclip import required


@dataclass(frozen=True)
class OVStitcher(CorrCLIP, StitchedBlocks):
    """CorrCLIP's branches on windows that were stitched before they attend to each other.

    In towers without a class token, a region's token starts as the mean of its patches in the
    window; with rotary positions, queries and keys come from the stitched inputs and the
    positions on the image's grid. No publication has tested either.

    Attributes:
        stitched_features: the second encoder's last block reads the whole image. False averages
            CorrCLIP's features, query plus key, of the windows.
        stitched_spatial: the blocks of the spatial branch read the whole image, with a single
            head. False averages their outputs in the windows, as CorrCLIP has them.
    """

    stitched_features: bool = True
    stitched_spatial: bool = True

    @property
    def reads_features(self) -> FeatureKind:
        return "last_block" if self.stitched_features else "query_key"

    def needs(self, depth: int) -> Needs:
        first, last = self.spatial_layers
        if not self.stitched_spatial:
            return Needs.of(outputs=range(first, last + 1), projections=[depth])
        return Needs.of(outputs=range(first - 1, last), projections=[*range(first, last + 1), depth])

    def tokens(self, encoded: EncodedWindows, window: Window) -> Tensor:
        features = required(window.features, "features of a second encoder")
        regions = required(window.regions, "region masks")
        semantic = required(window.region_tokens, "region tokens")
        return self.combined(encoded, features, regions, self.spatial(encoded), semantic)

    def spatial(self, encoded: EncodedWindows) -> Tensor:
        """Compute the mean output of some blocks over the stitched patches: L x N x D."""
        first, last = self.spatial_layers
        if not self.stitched_spatial:
            return torch.stack([encoded.output(number) for number in range(first, last + 1)]).mean(0)
        total: Tensor | float = 0.0
        for number in range(first, last + 1):
            block, x, p = encoded.block(number), encoded.output(number - 1), encoded.projections(number)
            channels = p.query.shape[-1]
            query, key, value = (part.transpose(1, 2).flatten(2)[:, None] for part in (p.query, p.key, p.value))
            # one head over the full width, at the temperature of many
            mixed = attend(query * (query.shape[-1] / channels) ** 0.5, key, value)[:, 0]
            x = x + block.output(mixed).to(x.dtype)
            total = total + x + block.feed_forward(x)
        return torch.as_tensor(total) / (last - first + 1)
