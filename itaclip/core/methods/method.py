"""The interface of methods: ways to read CLIP's image tower patch by patch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

from torch import Tensor

from itaclip.core.clip.encoded import EncodedWindows, Needs
from itaclip.core.clip.towers import PatchProjection, Positions

FeatureKind: TypeAlias = Literal["tokens", "query_key", "last_block"]

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
        image: B x E, `Method.image_feature` of the image of each window, for methods with `reads_image`;
            None where the window is the whole image.
        region_tokens: B x H x W x D, the token of the region at every place, for methods that
            read whole images.
    """

    pixels: Tensor
    text: Tensor | None = None
    logit_scale: float = 40.0
    features: Tensor | None = None
    regions: Tensor | None = None
    region_count: int = 1
    image: Tensor | None = None
    region_tokens: Tensor | None = None


@dataclass(frozen=True)
class Method(ABC):
    """How to read dense features from CLIP's image tower; a frozen dataclass of its options.

    `needs` states which blocks a method reads; `tokens` computes features from them. The ordinary
    blocks run once for all methods of a pass.

    Attributes:
        positions: how positional embeddings are resampled to another token grid:
            "scale" by the factor (n + 0.1) / table, as all published code except GEM's
            does; "size" to the exact size; "antialias" as GEM does.
        patch_projection: how patches pass through a pooling head (`itaclip.core.clip.towers.Tower.joint`);
            None uses the head's values.
    """

    positions: Positions = "scale"
    patch_projection: PatchProjection | None = field(default=None, kw_only=True)

    reads_blocks_alone: ClassVar[bool] = False
    """Whether `tokens` ignores the window, so that an engine can run the whole method."""
    reads_head: ClassVar[bool] = False
    """Whether the method reads `itaclip.core.clip.towers.Tower.vision_head`, which only dino.txt has."""
    reads_text: ClassVar[bool] = False
    reads_regions: ClassVar[bool] = False
    returns_logits: ClassVar[bool] = False
    """Whether `tokens` compares the patches with the texts itself, and returns B x rows x columns x Q."""

    @property
    def reads_image(self) -> bool:
        """Whether the method reads a feature of the whole image beside each of its windows."""
        return False

    def image_feature(self, encoded: EncodedWindows) -> Tensor:
        """Compute that feature, B x E, of images that went through the tower as one window each."""
        raise TypeError(f"{type(self).__name__} does not read whole images.")

    @property
    def reads_features(self) -> FeatureKind | None:
        """What the method reads of a second encoder; None if it reads none."""
        return None

    @abstractmethod
    def needs(self, depth: int) -> Needs:
        """State which blocks of a tower with `depth` blocks are read."""

    @abstractmethod
    def tokens(self, encoded: EncodedWindows, window: Window) -> Tensor:
        """Compute the features of the patches before normalisation: B x rows x columns x E."""

    def for_depth(self, depth: int) -> Method:
        """Adapt the method to a tower with another depth than ViT-B's 12 blocks."""
        return self


@dataclass(frozen=True)
class WholeImageMethod(Method):
    """A method whose result is one map of the whole image, put together from its windows."""


@dataclass(frozen=True)
class StitchedBlocks(WholeImageMethod):
    """A method that reads blocks which were stitched from windows (`itaclip.core.whole_image`).

    Three steps replace one. The second encoder's features of all windows are stitched, and
    `merged` decides with them which regions are one. Then CLIP reads the windows: `needs` are
    stitched as they come, and every region has a token of its own. Finally `tokens` reads the
    stitched windows, which have no tokens before its patches.
    """

    reads_regions: ClassVar[bool] = True

    @abstractmethod
    def merged(self, features: Tensor, regions: Tensor, count: int) -> Tensor:
        """Merge regions of whole images.

        Args:
            features: L x C x H x W, unit norm over C.
            regions: L x H x W int64, 0 to `count` - 1; 0 is "unsegmented".
            count: number of regions, 0 included.

        Returns:
            L x H x W int64; a merged region has the id of one of its parts.
        """


@dataclass(frozen=True)
class StitchedFeatures(WholeImageMethod):
    """A method that reads windows one by one, and then once their stitched features.

    `tokens` gives the features of a window, B x r x c x D, before they enter the joint space; `whole` changes those
    of the image, and then every patch enters the joint space.
    """

    @abstractmethod
    def whole(self, features: Tensor) -> Tensor:
        """Change the features of whole images: L x r x c x D to the same shape."""


def scaled_layers(layers: tuple[int, ...], blocks: int) -> tuple[int, ...]:
    """Scale layers of a 12-block model to the same relative depth of another: ``round(l * blocks / 12)``.

    They stay before the last block; layers that coincide count once.
    """
    scaled = (round(layer * blocks / PUBLISHED_BLOCKS) for layer in layers)
    return tuple(sorted({layer for layer in scaled if 1 <= layer < blocks}))
