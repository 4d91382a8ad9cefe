"""The two methods, with their encoders and heads."""

from __future__ import annotations

from dataclasses import dataclass

from itaclip.research.zero_shot.cascade_encoder import CascadeEncoder
from itaclip.research.zero_shot.cascade_head import CascadeHead
from itaclip.research.zero_shot.encoder import PromptedEncoder
from itaclip.research.zero_shot.region_encoder import RegionEncoder
from itaclip.research.zero_shot.region_head import RegionHead


@dataclass(frozen=True)
class ZeroShotMethod:
    """A trained method.

    Attributes:
        title: name in messages.
        encoder: class of the image encoder.
        head: class of the decode head.
        signature: a parameter in its checkpoints that the other method does not have.
    """

    title: str
    encoder: type[PromptedEncoder]
    head: type[CascadeHead] | type[RegionHead]
    signature: str


METHODS: dict[str, ZeroShotMethod] = {
    "cascade_clip": ZeroShotMethod("Cascade-CLIP", CascadeEncoder, CascadeHead, "backbone.proj_layers"),
    "clip_rc": ZeroShotMethod("CLIP-RC", RegionEncoder, RegionHead, "backbone.region_level_bridge"),
}
