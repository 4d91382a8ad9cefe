"""The methods: each computes patch features from CLIP's image tower in its own way.

A method is one entry of `METHODS`, which everything here runs by its name. One that ships with the package is also
listed where the command line completes names (`itaclip.research.evaluation.options`), because help loads no PyTorch.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from itaclip.core.clip.towers import Positions
from itaclip.core.methods import attention
from itaclip.core.methods.attention import Attention
from itaclip.core.methods.corrclip import CorrCLIP
from itaclip.core.methods.gem import GEM
from itaclip.core.methods.last_block import LastBlock
from itaclip.core.methods.method import (
    Method,
    StitchedBlocks,
    StitchedFeatures,
    WholeImageMethod,
    Window,
    scaled_layers,
)
from itaclip.core.methods.proxyclip import ProxyCLIP
from itaclip.core.methods.radseg import RADSeg
from itaclip.core.methods.resclip import ResCLIP
from itaclip.core.methods.rfclip import RFCLIP
from itaclip.core.methods.scclip import SCCLIP
from itaclip.core.methods.stitcher import OVStitcher
from itaclip.core.methods.vip import VIP
from itaclip.errors import ItaclipError, did_you_mean

__all__ = [
    "COMPARED",
    "GEM",
    "METHODS",
    "ON_ANY_TOWER",
    "RFCLIP",
    "SCCLIP",
    "VIP",
    "Attention",
    "CorrCLIP",
    "LastBlock",
    "Method",
    "OVStitcher",
    "Positions",
    "ProxyCLIP",
    "RADSeg",
    "ResCLIP",
    "StitchedBlocks",
    "StitchedFeatures",
    "WholeImageMethod",
    "Window",
    "get_method",
    "scaled_layers",
]

METHODS: dict[str, Method] = {
    "clip": LastBlock(attention=attention.query_key, residual=True, feed_forward=True),
    "maskclip": LastBlock(attention=attention.value_only, residual=True, feed_forward=True),
    "sclip": LastBlock(attention=attention.self_self, residual=True, feed_forward=True),
    "clearclip": LastBlock(attention=attention.query_query, residual=False, feed_forward=False),
    "naclip": LastBlock(attention=attention.neighbour(std=5.0), residual=False, feed_forward=False),
    "gem": GEM(residual=True),
    # What ClearCLIP's repository computes for these three by default: its switch drops the
    # residual, and with it the feed-forward network.
    "maskclip_bare": LastBlock(attention=attention.value_only, residual=False, feed_forward=False),
    "sclip_bare": LastBlock(attention=attention.self_self, residual=False, feed_forward=False),
    "gem_bare": GEM(residual=False),
    # NACLIP's ablation without the Gaussian window.
    "kk": LastBlock(attention=attention.key_key, residual=False, feed_forward=False),
    # Residual kept: the published table was made with it, although the design as first
    # described had none. `residual=False` in the settings switches it off.
    "itaclip": LastBlock(attention=attention.self_self, residual=True, feed_forward=False, middle_layers=(7, 8, 10)),
    "scclip": SCCLIP(),
    "resclip": ResCLIP(base="naclip"),
    "resclip_clearclip": ResCLIP(base="clearclip"),
    "resclip_sclip": ResCLIP(base="sclip"),
    "proxyclip": ProxyCLIP(),
    "corrclip": CorrCLIP(),
    "ovstitcher": OVStitcher(),
    "radseg": RADSeg(),
    "rfclip": RFCLIP(),
    "vip": VIP(),
}

ON_ANY_TOWER = tuple(name for name, method in METHODS.items() if not method.reads_head)
"""The methods that need nothing of an image tower but its blocks."""

COMPARED = ("clip", "maskclip", "sclip", "clearclip", "naclip", "gem", "itaclip", "scclip", "resclip", "proxyclip",
            "corrclip", "ovstitcher", "rfclip")  # fmt: skip
"""The published methods in order of appearance, ITACLIP among its contemporaries."""


def get_method(name: str, *, blocks: int = 12, **options: Any) -> Method:
    """Look up a method and change its options.

    Args:
        name: a key of `METHODS`.
        blocks: number of blocks of the model. The method's layers assume 12. For another depth
            they are scaled in proportion, which no publication has tested, unless an option sets
            them.
        options: fields of the method, such as ``residual=False`` or ``threshold=0.2``.

    Raises:
        ItaclipError: an unknown name, or an option that the method does not have.
    """
    if name not in METHODS:
        known = ", ".join(METHODS)
        raise ItaclipError(f"unknown method {name!r}; available: {known}.{did_you_mean(name, METHODS)}")
    method = METHODS[name].for_depth(blocks)
    own = [field.name for field in fields(method)]
    for option in options:
        if option not in own:
            raise ItaclipError(
                f"method {name!r} has no option {option!r}.{did_you_mean(option, own)} Its options: {', '.join(own)}."
            )
    try:
        return replace(method, **options)
    except TypeError as error:
        raise ItaclipError(f"method {name!r}: {error}.") from error
