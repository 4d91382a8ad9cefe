"""Adapters for those image towers of open_clip and timm that can be read densely."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.layers import PatchEmbed
from timm.models import eva, vision_transformer

from itaclip.core.clip.towers.open_clip_vit import CoCaTower, OpenClipTower
from itaclip.core.clip.towers.timm_eva import EvaTower
from itaclip.core.clip.towers.timm_vit import TimmTower
from itaclip.core.clip.towers.tower import Tower
from itaclip.errors import ItaclipError


def wrap(visual: Any) -> Tower:
    """Wrap an image tower built by open_clip in the adapter of its family.

    Raises:
        ItaclipError: a tower without patch tokens in pre-norm blocks. The message names its type.
    """
    if isinstance(visual, VisionTransformer):
        if visual.attn_pool is None:
            if visual.pool_type == "none":
                raise ItaclipError("an image tower that does not pool its tokens has no features in the joint space.")
            return OpenClipTower(visual)
        if visual.attn_pool_contrastive is None:
            return CoCaTower(visual)
        raise ItaclipError("attention pooling of type 'parallel' or 'cascade' does not give dense features.")
    trunk = getattr(visual, "trunk", None)
    if not isinstance(visual, TimmModel) or trunk is None:
        raise ItaclipError(f"a convolutional image tower ({type(visual).__name__}): it has no patch tokens to read.")
    if isinstance(trunk, vision_transformer.VisionTransformer):
        adapter: type[TimmTower] = TimmTower
        fine = all(type(b) is vision_transformer.Block and _plain(b.attn) for b in trunk.blocks)
    elif isinstance(trunk, eva.Eva):
        adapter = EvaTower
        fine = all(type(b) in (eva.EvaBlock, eva.EvaBlockPostNorm) and _plain(b.attn) for b in trunk.blocks)
        fine &= trunk.rope is None or not trunk.rope_mixed
    else:
        raise _no_plain_transformer(type(trunk).__name__)
    if not fine or trunk.global_pool not in ("token", "avg", "map"):
        raise ItaclipError(
            f"timm's {type(trunk).__name__} in an unsupported variant: "
            f"{type(trunk.blocks[0]).__name__}, pooled by {trunk.global_pool!r}."
        )
    if type(trunk.patch_embed) is not PatchEmbed:
        raise ItaclipError(
            f"its patches are made by {type(trunk.patch_embed).__name__}, "
            "a convolutional stem, so they are not independent of each other."
        )
    return adapter(visual)


def refusal(vision: Mapping[str, Any]) -> str:
    """Explain why an image tower in open_clip's configurations has no dense features; empty if it may have.

    Args:
        vision: ``vision_cfg`` of the configuration.
    """
    if isinstance(vision.get("layers"), list):
        return "a convolutional image tower (ResNet): it has no patch tokens to read."
    name = vision.get("timm_model_name")
    if name and timm.is_model(name):
        module = timm.model_entrypoint(name).__module__
        if module.startswith("timm.") and module not in (vision_transformer.__name__, eva.__name__):
            return str(_no_plain_transformer(name))
    return ""


def _no_plain_transformer(kind: str) -> ItaclipError:
    """Create the error for one of timm's models that is not supported."""
    return ItaclipError(
        f"timm's {kind} is not a plain vision transformer, but convolutional, windowed or a mixture: "
        "it has no patch tokens that attend to each other everywhere."
    )


def _plain(attention: Any) -> bool:
    """Tell whether attention has no gates, and as many key heads as query heads."""
    gated = getattr(attention, "gate", None) is not None
    return not gated and getattr(attention, "num_kv_heads", attention.num_heads) == attention.num_heads
