"""CorrCLIP: attention within regions, by a second encoder's similarity (Zhang et al., ICCV 2025, first version).

Shapes: B windows; N patches of CLIP on r x c; M positions of the second encoder on H x W; R
regions, of which 0 is "unsegmented"; D width, h heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.core.clip.blocks import Projections
from itaclip.core.clip.towers import TowerBlock
from itaclip.core.clip.trunk import Needs, Trunk
from itaclip.core.methods.method import FeatureKind, Method, Window, scaled_layers
from itaclip.core.methods.proxyclip import attended, cosines, masked_softmax, required


@dataclass(frozen=True)
class CorrCLIP(Method):
    """Attention with reconstructed scope, value and semantics.

    Attributes:
        merging: regions whose mean features are closer than this are merged. The distance is
            measured from the largest cosine.
        scale: inverse temperature of the attention.
        spatial_layers: first and last block of the range whose mean is the spatial branch.
        semantic_weight: weight of the region tokens' branch.
    """

    merging: float = 0.2
    scale: float = 4.0
    spatial_layers: tuple[int, int] = (6, 10)
    semantic_weight: float = 0.5

    reads_features: ClassVar[FeatureKind | None] = "query_key"
    reads_regions: ClassVar[bool] = True

    def needs(self, depth: int) -> Needs:
        first, last = self.spatial_layers
        return Needs.of(outputs=[0, *range(first, last + 1)], projections=range(1, depth + 1))

    def tokens(self, trunk: Trunk, window: Window) -> Tensor:
        features = required(window.features, "features of a second encoder")
        regions, count = required(window.regions, "region masks").flatten(1), window.region_count
        target = features.shape[2:]
        similarity = cosines(features)
        regions = merge_regions(features.flatten(2).transpose(1, 2), regions, count, self.merging)
        attention = masked_softmax(self.scale * similarity, scope(similarity, regions))

        last, p = trunk.last, trunk.projections(trunk.depth)
        first, end = self.spatial_layers
        mean = sum(trunk.output(layer) for layer in range(first, end + 1)) / (end - first + 1)
        main = attended(last, attention, p, trunk.grid, target)
        spatial = attended(last, attention, last.project(torch.as_tensor(mean)), trunk.grid, target)

        # the regions on CLIP's grid, and their tokens back on the second encoder's grid
        on_patches = _nearest(regions.unflatten(1, target), trunk.grid).flatten(1)
        ordinary = [trunk.projections(number) for number in range(1, trunk.depth + 1)]
        tokens = region_tokens(trunk.blocks, trunk.output(0), ordinary, on_patches, count)
        on_places = _nearest(on_patches.unflatten(1, trunk.grid), target).flatten(1)
        semantic = tokens.gather(1, on_places[..., None].expand(-1, -1, tokens.shape[-1]))

        normed = trunk.norm(main) + trunk.norm(spatial) + self.semantic_weight * trunk.norm(semantic.float())
        return trunk.joint(normed).unflatten(1, target)

    def for_depth(self, depth: int) -> CorrCLIP:
        published = {12: self.spatial_layers, 24: (11, 22), 32: (3, 30)}
        layers = scaled_layers(self.spatial_layers, depth)
        return replace(self, spatial_layers=published.get(depth, (layers[0], layers[-1])) if layers else (1, 1))


def merge_regions(features: Tensor, regions: Tensor, count: int, distance: float) -> Tensor:
    """Merge similar regions; 0 stays 0.

    DBSCAN with one sample per cluster merges regions that are connected by steps of at most
    `distance`, measured from the largest cosine. Repeated squaring of the adjacency matrix
    finds them for all windows at once.

    Args:
        features: B x M x C, unit rows.
        regions: B x M int64, 0 to `count` - 1.
        count: R.
        distance: largest step.

    Returns:
        B x M int64. A merged region has the smallest id of its parts.
    """
    if count <= 2:
        return regions
    member = F.one_hot(regions, count).to(features.dtype)  # B x M x R
    there = F.pad(member.amax(1)[:, 1:], (1, 0))  # unsegmented positions are not merged
    means = member.transpose(1, 2) @ features / member.sum(1).clamp(min=1)[..., None]
    unit_means = F.normalize(means, dim=-1)
    similarity = unit_means @ unit_means.transpose(1, 2)
    pairs = (there[:, :, None] * there[:, None]).bool()
    largest = similarity.masked_fill(~pairs, -torch.inf).amax((1, 2), keepdim=True)
    reach = (pairs & (largest - similarity <= distance)).float()
    reach = torch.maximum(reach, torch.eye(count, device=reach.device))
    for _ in range(max(1, (count - 1).bit_length())):
        reach = (reach @ reach).clamp(max=1)
    return _first(reach).gather(1, regions)


def scope(similarity: Tensor, regions: Tensor) -> Tensor:
    """Determine which positions may attend to each other: B x M x M bool.

    These are the positions of one region or, if one of the two is unsegmented, similar ones.
    """
    unsegmented = regions == 0
    either = unsegmented[:, :, None] | unsegmented[:, None]
    alike = similarity > similarity.mean((1, 2), keepdim=True)
    return torch.where(either, alike, regions[:, :, None] == regions[:, None])


def region_tokens(
    blocks: Sequence[TowerBlock], embedded: Tensor, projections: Sequence[Projections], regions: Tensor, count: int
) -> Tensor:
    """Run copies of the class token, each attending to the class token and one region's patches.

    The ordinary tokens do not attend to them, so the ordinary blocks need not run again. In a
    tower without a class token, a region's token starts as the mean of the region's patches.

    Args:
        blocks: all blocks of the tower.
        embedded: B x (P + N) x D, tokens before the first block.
        projections: projections of the ordinary tokens, block by block.
        regions: B x N int64, region ids of the patches.
        count: R.

    Returns:
        B x R x D after the last block.
    """
    member = F.one_hot(regions, count).transpose(1, 2).bool()  # B x R x N
    prefix = embedded.shape[1] - regions.shape[1]
    if prefix:
        x = embedded[:, :1].expand(-1, count, -1)
        seen = F.pad(member, (prefix, 0), value=True)[:, None]
    else:
        weights = member.to(embedded.dtype)
        x = weights @ embedded / weights.sum(2, keepdim=True).clamp(min=1)
        seen = (member | ~member.any(2, keepdim=True))[:, None]  # a region without patches, whose result is not used
    for block, p in zip(blocks, projections, strict=True):
        heads = F.scaled_dot_product_attention(block.query_of(x), p.key, p.value, attn_mask=seen)
        x = x + block.merge_heads(heads).to(x.dtype)
        x = x + block.feed_forward(x)
    return x


def _first(reach: Tensor) -> Tensor:
    """Find the smallest id that every region reaches: B x R."""
    count = reach.shape[-1]
    ids = torch.arange(count, device=reach.device).expand_as(reach)
    return torch.where(reach > 0, ids, count).amin(2)


def _nearest(ids: Tensor, size: Sequence[int]) -> Tensor:
    """Resize B x H x W ids by nearest neighbour."""
    rows, columns = (torch.arange(want, device=ids.device) * have // want
                     for want, have in zip(size, ids.shape[1:], strict=True))  # fmt: skip
    return ids[:, rows[:, None], columns]
