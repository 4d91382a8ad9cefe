"""The interface of methods: ways to read CLIP's image tower patch by patch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

from torch import Tensor

from itaclip.core.clip.towers import PatchReading, Positions
from itaclip.core.clip.trunk import Needs, Trunk

FeatureKind: TypeAlias = Literal["tokens", "query_key"]

PUBLISHED_BLOCKS = 12
"""Blocks of ViT-B, for which the published layers were chosen."""


@dataclass(frozen=True)
class Window:
    """What a method may read besides CLIP's own blocks, for B windows of h x w pixels.

    Attributes:
        pixels: B x 3 x h x w, RGB, normalised for CLIP.
        text: Q x E unit rows, the text bank; for methods with `reads_text`.
        logit_scale: inverse temperature of the softmax over queries.
        features: features of the second encoder, B x C x H x W float32, unit norm over C, for
            methods with `reads_features`.
        regions: B x H x W int64 on the same grid, for methods with `reads_regions`: 0 is the
            smallest value of a window and means "unsegmented"; regions are numbered from 1
            without gaps.
        region_count: the largest number of regions in a window, 0 included.
    """

    pixels: Tensor
    text: Tensor | None = None
    logit_scale: float = 40.0
    features: Tensor | None = None
    regions: Tensor | None = None
    region_count: int = 1


@dataclass(frozen=True)
class Method:
    """How to read dense features from CLIP's image tower; a frozen dataclass of its options.

    `needs` states which blocks a method reads; `tokens` computes features from them. The ordinary
    blocks run once for all methods of a pass.

    Attributes:
        positions: how positional embeddings are resampled to another token grid:
            "scale" by the factor (n + 0.1) / table, as all published code except GEM's
            does; "size" to the exact size; "antialias" as GEM does.
        patch_reading: how patches pass through a pooling head (`itaclip.core.clip.towers.Tower.joint`);
            None uses the head's values.
    """

    positions: Positions = "scale"
    patch_reading: PatchReading | None = field(default=None, kw_only=True)

    reads_trunk_alone: ClassVar[bool] = False
    """Whether `tokens` ignores the window, so that an engine can run the whole method."""
    reads_text: ClassVar[bool] = False
    reads_features: ClassVar[FeatureKind | None] = None
    reads_regions: ClassVar[bool] = False

    def needs(self, depth: int) -> Needs:
        """State which blocks of a tower with `depth` blocks are read."""
        raise TypeError(f"{type(self).__name__} does not say which blocks it reads.")

    def tokens(self, trunk: Trunk, window: Window) -> Tensor:
        """Compute the features of the patches before normalisation: B x rows x columns x E."""
        raise TypeError(f"{type(self).__name__} does not say how tokens are read.")

    def for_depth(self, depth: int) -> Method:
        """Adapt the method to a tower with another depth than ViT-B's 12 blocks."""
        return self


def scaled_layers(layers: tuple[int, ...], blocks: int) -> tuple[int, ...]:
    """Scale layers of a 12-block model to the same relative depth of another: ``round(l * blocks / 12)``.

    They stay before the last block; layers that coincide count once.
    """
    scaled = (round(layer * blocks / PUBLISHED_BLOCKS) for layer in layers)
    return tuple(sorted({layer for layer in scaled if 1 <= layer < blocks}))
