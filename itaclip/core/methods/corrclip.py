"""CorrCLIP: attention within regions, by a second encoder's similarity (Zhang et al., ICCV 2025, first version).

Shapes: B windows; N patches of CLIP on r x c; M positions of the second encoder on H x W; R
regions, of which 0 is "unsegmented"; D width, h heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.core.clip.blocks import Projections
from itaclip.core.clip.encoded import EncodedWindows, Needs
from itaclip.core.clip.towers import TowerBlock
from itaclip.core.methods.method import FeatureKind, Method, Window, scaled_layers
from itaclip.core.methods.proxyclip import required, resized_values

Own = TypeVar("Own", bound="CorrCLIP")

_MOST_CELLS = 2**21
"""Entries of a map that are computed at a time: 8 MiB, of which a few exist."""


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

    reads_regions: ClassVar[bool] = True

    @property
    def reads_features(self) -> FeatureKind:
        return "query_key"

    def needs(self, depth: int) -> Needs:
        first, last = self.spatial_layers
        return Needs.of(outputs=[0, *range(first, last + 1)], projections=range(1, depth + 1))

    def tokens(self, encoded: EncodedWindows, window: Window) -> Tensor:
        features = required(window.features, "features of a second encoder")
        regions = self.merged(features, required(window.regions, "region masks"), window.region_count)

        first, end = self.spatial_layers
        mean = torch.stack([encoded.output(layer) for layer in range(first, end + 1)]).mean(0)

        # the regions on CLIP's grid, and their tokens back on the second encoder's grid
        on_patches = nearest(regions, encoded.grid)
        ordinary = [encoded.projections(number) for number in range(1, encoded.depth + 1)]
        tokens = region_tokens(encoded.blocks, encoded.output(0), ordinary, on_patches.flatten(1), window.region_count)
        return self.combined(encoded, features, regions, mean, on_places(tokens, on_patches, features.shape[2:]))

    def merged(self, features: Tensor, regions: Tensor, count: int) -> Tensor:
        """Merge similar regions: B x H x W ids below `count` on the grid of B x C x H x W unit features."""
        return merge_regions(features.flatten(2).mT, regions.flatten(1), count, self.merging).view_as(regions)

    def combined(
        self, encoded: EncodedWindows, features: Tensor, regions: Tensor, spatial: Tensor, semantic: Tensor
    ) -> Tensor:
        """Normalise and add the three branches, and map them into the joint space: B x H x W x E.

        For the arguments see `attended`; `semantic` is B x H x W x D, the region tokens.
        """
        main, second = self.attended(encoded, features, regions, spatial)
        named = encoded.norm(semantic.flatten(1, 2).float())
        normed = encoded.norm(main) + encoded.norm(second) + self.semantic_weight * named
        return encoded.joint(normed).unflatten(1, features.shape[2:])

    def attended(
        self, encoded: EncodedWindows, features: Tensor, regions: Tensor, spatial: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Read the last block's values with attention within the scope: main and spatial branch.

        Args:
            encoded: provides the last block, and its values for the main branch.
            features: B x C x H x W, unit norm over C.
            regions: B x H x W, merged.
            spatial: B x (P + N) x D, the last block's input in the spatial branch.

        Returns:
            Two times B x HW x D float32.
        """
        last, target = encoded.last, features.shape[2:]
        values = [encoded.projections(encoded.depth).value, last.project(spatial).value]
        resized = torch.cat([resized_values(value, encoded.grid, target) for value in values], dim=-1)
        mixed = attended_in_scope(features.flatten(2).mT, regions.flatten(1), self.scale, resized)
        main, second = (last.output(part.to(values[0].dtype)).float() for part in mixed.chunk(2, dim=-1))
        return main, second

    def for_depth(self: Own, depth: int) -> Own:
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


def attended_in_scope(features: Tensor, regions: Tensor, scale: float, values: Tensor) -> Tensor:
    """Apply the softmax of scaled cosines within the scope to values: B x M x D.

    Rows are taken in blocks, so that the M x M map is never stored. The mean of all cosines is the
    squared length of the mean feature.

    Args:
        features: B x M x C, unit rows.
        regions: B x M int64, 0 "unsegmented".
        scale: inverse temperature.
        values: B x M x D.
    """
    batch, count, _ = features.shape
    mean = features.mean(1).square().sum(1)[:, None, None]
    step = max(1, _MOST_CELLS // (batch * count))
    itself = torch.arange(count, device=features.device)
    found = torch.empty_like(values)
    for start in range(0, count, step):
        rows = slice(start, start + step)
        similarity = features[:, rows] @ features.mT
        allowed = scope(similarity, mean, regions[:, rows], regions) | (itself[rows, None] == itself)
        # every position attends to itself, so that no row is empty
        found[:, rows] = similarity.mul_(scale).masked_fill_(~allowed, -torch.inf).softmax(-1) @ values
    return found


def scope(similarity: Tensor, mean: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Determine which positions may attend to which: B x R x M bool.

    These are the positions of one region or, if one of the two is unsegmented, similar ones.

    Args:
        similarity: B x R x M cosines.
        mean: B x 1 x 1, the mean cosine of all pairs.
        rows: B x R, regions of those that attend.
        columns: B x M, regions of those that are attended to.
    """
    either = (rows == 0)[:, :, None] | (columns == 0)[:, None]
    return torch.where(either, similarity > mean, rows[:, :, None] == columns[:, None])


class RegionTokens:
    """Copies of the class token, each attending to the class token and one region's patches.

    They pass through the blocks beside the ordinary tokens, which do not attend to them and
    need not run again. In a tower without a class token, a region's token starts as the mean of
    the region's patches.

    Args:
        embedded: B x (P + N) x D, tokens before the first block.
        regions: B x N int64, region ids of the patches.
        count: R.

    Attributes:
        x: B x R x D after the last block taken.
    """

    def __init__(self, embedded: Tensor, regions: Tensor, count: int) -> None:
        member = F.one_hot(regions, count).transpose(1, 2).bool()  # B x R x N
        prefix = embedded.shape[1] - regions.shape[1]
        if prefix:
            self.x = embedded[:, :1].expand(-1, count, -1)
            self._seen = F.pad(member, (prefix, 0), value=True)[:, None]
        else:
            weights = member.to(embedded.dtype)
            self.x = weights @ embedded / weights.sum(2, keepdim=True).clamp(min=1)
            # a region without patches sees all of them; its result is not used
            self._seen = (member | ~member.any(2, keepdim=True))[:, None]

    def take(self, block: TowerBlock, p: Projections) -> None:
        """Pass through a block, given its projections of the ordinary tokens."""
        heads = F.scaled_dot_product_attention(block.query_of(self.x), p.key, p.value, attn_mask=self._seen)
        x = self.x + block.merge_heads(heads).to(self.x.dtype)
        self.x = x + block.feed_forward(x)


def region_tokens(
    blocks: Sequence[TowerBlock], embedded: Tensor, projections: Sequence[Projections], regions: Tensor, count: int
) -> Tensor:
    """Run `RegionTokens` through blocks whose projections are all at hand: B x R x D."""
    tokens = RegionTokens(embedded, regions, count)
    for block, p in zip(blocks, projections, strict=True):
        tokens.take(block, p)
    return tokens.x


def on_places(tokens: Tensor, regions: Tensor, target: Sequence[int]) -> Tensor:
    """Give every place of a grid the token of its region.

    Args:
        tokens: B x R x D.
        regions: B x r x c, below R.
        target: H x W, to which the regions are resized.

    Returns:
        B x H x W x D.
    """
    index = nearest(regions, target).flatten(1)[..., None].expand(-1, -1, tokens.shape[-1])
    return tokens.gather(1, index).unflatten(1, tuple(target))


def _first(reach: Tensor) -> Tensor:
    """Find the smallest id that every region reaches: B x R."""
    count = reach.shape[-1]
    ids = torch.arange(count, device=reach.device).expand_as(reach)
    return torch.where(reach > 0, ids, count).amin(2)


def nearest(ids: Tensor, size: Sequence[int]) -> Tensor:
    """Resize B x H x W ids by nearest neighbour."""
    rows, columns = (torch.arange(want, device=ids.device) * have // want
                     for want, have in zip(size, ids.shape[1:], strict=True))  # fmt: skip
    return ids[:, rows[:, None], columns]
