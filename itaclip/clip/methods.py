"""The methods: one attention recipe each, and what else changes in the last block.

A new method is one entry of `METHODS`; nothing else needs to know of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from itaclip.clip import attention
from itaclip.clip.attention import Recipe
from itaclip.errors import ItaclipError, did_you_mean


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
    positions: Literal["scale", "size", "antialias"] = "scale"


METHODS: dict[str, Method] = {
    "clip": Method(attention.query_key, residual=True, feed_forward=True),
    "maskclip": Method(attention.value_only, residual=True, feed_forward=True),
    "sclip": Method(attention.self_self, residual=True, feed_forward=True),
    "clearclip": Method(attention.query_query, residual=False, feed_forward=False),
    "naclip": Method(attention.neighbour(std=5.0), residual=False, feed_forward=False),
    "gem": Method(attention.generalised, residual=True, feed_forward=False, depth=6, positions="antialias"),
    # Residual kept: the published table was made with it, although the design as first
    # described had none. `residual=False` in the settings switches it off.
    "itaclip": Method(attention.self_self, residual=True, feed_forward=False, middle_layers=(7, 8, 10)),
}


def get_method(name: str, residual: bool | None = None, attn_self: bool = True,
               middle_layers: tuple[int, ...] | None = None) -> Method:  # fmt: skip
    """Look up a method and apply the switches of a configuration.

    Args:
        name: a key of `METHODS`.
        residual: overrides the method's own; None keeps it.
        attn_self: False replaces the recipe by CLIP's own q-k attention.
        middle_layers: overrides the method's own; None keeps them.

    Raises:
        ItaclipError: an unknown name.
    """
    if name not in METHODS:
        known = ", ".join(METHODS)
        raise ItaclipError(f"method {name!r} is unknown; there are: {known}.{did_you_mean(name, METHODS)}")
    method = METHODS[name]
    if residual is not None:
        method = replace(method, residual=residual)
    if not attn_self:
        method = replace(method, recipe=attention.query_key)
    if middle_layers is not None:
        method = replace(method, middle_layers=middle_layers)
    return method
