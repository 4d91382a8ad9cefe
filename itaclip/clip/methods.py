"""The methods: one attention recipe each, and what else changes in the last block.

A new method is one entry of `METHODS`; nothing else needs to know of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from itaclip.clip import attention
from itaclip.clip.attention import Recipe
from itaclip.errors import ItaclipError, did_you_mean

Positions: TypeAlias = Literal["scale", "size", "antialias"]

_PUBLISHED_BLOCKS = 12
"""Blocks of ViT-B, for which the middle layers were chosen."""


@dataclass(frozen=True)
class Method:
    """How the last block(s) of CLIP's image tower are read for dense features.

    Attributes:
        recipe: what the attention of a modified block returns.
        residual: keep ``x +`` around the attention.
        feed_forward: keep the feed-forward network and its residual.
        middle_layers: blocks, counted from 1, whose maps are averaged and fused half
            and half with the last block's.
        depth: how many of the last blocks get a modified stream beside the ordinary
            one; each adds its update to it.
        positions: how positional embeddings are resampled to another token grid:
            "scale" with the factor (n + 0.1) / table, which every published code but
            GEM's uses; "size" to the exact size; "antialias" as GEM does.
    """

    recipe: Recipe
    residual: bool
    feed_forward: bool
    middle_layers: tuple[int, ...] = ()
    depth: int = 1
    positions: Positions = "scale"


METHODS: dict[str, Method] = {
    "clip": Method(attention.query_key, residual=True, feed_forward=True),
    "maskclip": Method(attention.value_only, residual=True, feed_forward=True),
    "sclip": Method(attention.self_self, residual=True, feed_forward=True),
    "clearclip": Method(attention.query_query, residual=False, feed_forward=False),
    "naclip": Method(attention.neighbour(std=5.0), residual=False, feed_forward=False),
    "gem": Method(attention.generalised, residual=True, feed_forward=False, depth=6, positions="antialias"),
    # What ClearCLIP's repository computes for these three by default: its switch drops the
    # residual, and with it the feed-forward network.
    "maskclip_bare": Method(attention.value_only, residual=False, feed_forward=False),
    "sclip_bare": Method(attention.self_self, residual=False, feed_forward=False),
    "gem_bare": Method(attention.generalised, residual=False, feed_forward=False, depth=6, positions="antialias"),
    # NACLIP's ablation without its Gaussian window.
    "kk": Method(attention.key_key, residual=False, feed_forward=False),
    # Residual kept: the published table was made with it, although the design as first
    # described had none. `residual=False` in the settings switches it off.
    "itaclip": Method(attention.self_self, residual=True, feed_forward=False, middle_layers=(7, 8, 10)),
}


def get_method(
    name: str,
    *,
    residual: bool | None = None,
    feed_forward: bool | None = None,
    recipe: Recipe | None = None,
    middle_layers: tuple[int, ...] | None = None,
    positions: Positions | None = None,
    blocks: int = _PUBLISHED_BLOCKS,
) -> Method:
    """Look up a method and apply the switches of a configuration; None keeps the method's own.

    Args:
        name: a key of `METHODS`.
        residual: keep ``x +`` around the attention.
        feed_forward: keep the feed-forward network.
        recipe: the attention.
        middle_layers: blocks to fuse, as they are.
        positions: how positional embeddings are resampled.
        blocks: of the model. The method's own middle layers belong to 12; for another depth
            they are scaled in proportion, which no publication has tested.

    Raises:
        ItaclipError: an unknown name.
    """
    if name not in METHODS:
        known = ", ".join(METHODS)
        raise ItaclipError(f"method {name!r} is unknown; there are: {known}.{did_you_mean(name, METHODS)}")
    method = METHODS[name]
    if middle_layers is None and method.middle_layers and blocks != _PUBLISHED_BLOCKS:
        middle_layers = scaled_layers(method.middle_layers, blocks)
    changes: dict[str, Any] = {"residual": residual, "feed_forward": feed_forward, "recipe": recipe,
               "middle_layers": middle_layers, "positions": positions}  # fmt: skip
    return replace(method, **{field: value for field, value in changes.items() if value is not None})


def scaled_layers(layers: tuple[int, ...], blocks: int) -> tuple[int, ...]:
    """Layers of a 12-block model at the same relative depth of another: ``round(l * blocks / 12)``.

    They stay before the last block; layers that fall together count once.
    """
    scaled = (round(layer * blocks / _PUBLISHED_BLOCKS) for layer in layers)
    return tuple(sorted({layer for layer in scaled if 1 <= layer < blocks}))
