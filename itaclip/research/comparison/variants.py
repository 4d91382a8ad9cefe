"""The ablations of the paper: variants of a configuration that change one aspect each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from itaclip.core.methods import COMPARED, LastBlock, OVStitcher
from itaclip.core.settings import Settings
from itaclip.errors import ItaclipError, did_you_mean
from itaclip.research.evaluation.presets import PAMR_STEPS

_OF_THE_LAST_BLOCK = ("attention", "residual", "feed-forward network", "middle layers")


@dataclass(frozen=True)
class Variant:
    """One row of an ablation.

    Attributes:
        group: the aspect that varies, a key of `GROUPS`.
        name: its value.
        settings: the configuration's settings with this value.
    """

    group: str
    name: str
    settings: Settings


def make_variants(base: Settings, blocks: int, texts: bool, groups: list[str] | None = None) -> list[Variant]:
    """Make the variants of a configuration, group by group in the paper's order.

    Args:
        base: settings of the configuration.
        blocks: number of blocks of the image tower.
        texts: whether there are auxiliary texts; without them, their weight cannot vary.
        groups: keys of `GROUPS`, case-insensitive; None selects all that apply except the methods
            with ITACLIP's parts, which need the weights of a second encoder.

    Raises:
        ItaclipError: an unknown group, or one that does not apply.
    """
    known = {group.lower(): group for group in GROUPS}
    for group in groups or ():
        if group.lower() not in known:
            raise ItaclipError(
                f"unknown ablation {group!r}; expected one of {', '.join(GROUPS)}.{did_you_mean(group, GROUPS)}"
            )
    asked = [known[group.lower()] for group in groups or ()]
    last_block = isinstance(base.resolved_method(blocks), LastBlock)
    applies = {
        "auxiliary text": (texts, "auxiliary texts (model.auxiliary_text_path)"),
        "probability threshold": (base.background, "a background class"),
        "area threshold": (base.background, "a background class"),
        STITCHER_PARTS: (isinstance(base.resolved_method(blocks), OVStitcher), "the method ovstitcher"),
        **dict.fromkeys(_OF_THE_LAST_BLOCK, (last_block, "a method that changes the attention of the last block")),
    }
    for group in asked:
        holds, needed = applies.get(group, (True, ""))
        if not holds:
            raise ItaclipError(f"ablation {group!r} needs {needed}, which the configuration does not have.")
    chosen = asked or [group for group in GROUPS if group != METHODS_AND_PARTS and applies.get(group, (True, ""))[0]]
    return [
        Variant(group, name, settings)
        for group in chosen
        for name, settings in GROUPS[group](base, blocks)
    ]  # fmt: skip


_Named = Iterator[tuple[str, Settings]]


def _attention(base: Settings, blocks: int) -> _Named:
    for name in ("qk", "kk", "vv", "qq", "qq+vv", "qq+kk+vv", "qq+kk"):
        yield name, base.changed(attention=name, attn_self=True)


def _residual(base: Settings, blocks: int) -> _Named:
    yield "dropped", base.changed(residual=False)
    yield "kept", base.changed(residual=True)


def _feed_forward(base: Settings, blocks: int) -> _Named:
    yield "kept", base.changed(feed_forward=True)
    yield "dropped", base.changed(feed_forward=False)


def _middle_layers(base: Settings, blocks: int) -> _Named:
    own: tuple[int, ...] = getattr(base.resolved_method(blocks), "middle_layers", ())
    choices = dict.fromkeys([(), *((layer,) for layer in own), own])
    for layers in choices:
        yield ", ".join(map(str, layers)) or "none", base.changed(middle_layers=layers)


def _image_engineering(base: Settings, blocks: int) -> _Named:
    """Use the same five views throughout: weights 1 and 0 each select one kind."""
    weight = base.img_eng_coefficient
    yield "none", base.changed(img_engineering=False)
    yield "flips alone", base.changed(img_engineering=True, img_eng_coefficient=0.0)
    yield "plain, grey and blurred alone", base.changed(img_engineering=True, img_eng_coefficient=1.0)
    yield f"both, weight {weight:g}", base.changed(img_engineering=True)


def _texts(base: Settings, blocks: int) -> _Named:
    for weight in sorted({0.0, 0.05, 0.1, 0.15, 0.2, 0.3, base.def_coefficient}):
        yield f"{weight:g}", base.changed(def_coefficient=weight)


def _pamr(base: Settings, blocks: int) -> _Named:
    yield "off", base.changed(pamr_steps=0)
    yield "on", base.changed(pamr_steps=base.pamr_steps or PAMR_STEPS)


def _temperature(base: Settings, blocks: int) -> _Named:
    for scale in sorted({20, 40, 60, 80, 100, base.logit_scale}):
        yield f"{scale:g}", base.changed(logit_scale=scale)


def _probability(base: Settings, blocks: int) -> _Named:
    for threshold in sorted({0.0, 0.05, 0.1, 0.2, 0.3, base.prob_thd}):
        yield f"{threshold:g}", base.changed(prob_thd=threshold)


def _area(base: Settings, blocks: int) -> _Named:
    yield "none", base.changed(area_thd=None)
    for threshold in sorted({0.02, 0.05, 0.1, 0.2, base.area_thd or 0.1}):
        yield f"{threshold:g}", base.changed(area_thd=threshold)


def _stitcher_parts(base: Settings, blocks: int) -> _Named:
    """Switch off the parts of OV-Stitcher one at a time, and what it stitches altogether."""
    options = dict(base.method_options)
    features, spatial = dict(stitched_features=False), dict(stitched_spatial=False)
    yield "all", base
    yield "no stitched features", base.changed(method_options=options | features)
    yield "no stitched spatial branch", base.changed(method_options=options | spatial)
    yield "neither", base.changed(method_options=options | features | spatial)
    if base.class_prompts:
        yield "no class-biased prompts", base.changed(class_prompts=None)
    if base.map_correction:
        yield "no map correction", base.changed(map_correction=False)


def _methods_and_parts(base: Settings, blocks: int) -> _Named:
    """Add ITACLIP's parts to every method, one at a time and all together."""
    weight, steps = base.def_coefficient, base.pamr_steps or PAMR_STEPS
    plain = dict(img_engineering=False, def_coefficient=0.0, pamr_steps=0, closing=False, area_thd=None,
                 map_correction=False)  # fmt: skip
    own = dict(attention=None, attn_self=True, residual=None, feed_forward=None, middle_layers=None,
               pos_interpolation=None, method_options=())  # fmt: skip
    parts: dict[str, dict[str, Any]] = {
        "plain": {},
        "+ views": dict(img_engineering=True),
        "+ texts": dict(def_coefficient=weight),
        "+ PAMR": dict(pamr_steps=steps),
        "+ closing": dict(closing=True),
        "+ area rule": dict(area_thd=base.area_thd or 0.01),
        "+ map correction": dict(map_correction=True),
        "+ PAMR + map correction": dict(pamr_steps=steps, map_correction=True),
        "all of ITACLIP's": dict(img_engineering=True, def_coefficient=weight, pamr_steps=steps, closing=True),
        "all + map correction": dict(img_engineering=True, def_coefficient=weight, pamr_steps=steps, closing=True,
                                     map_correction=True),
    }  # fmt: skip
    for method in COMPARED:
        for name, changes in parts.items():
            if base.background or "area_thd" not in changes:
                yield f"{method}, {name}", base.changed(**own, **plain | changes, method=method)


METHODS_AND_PARTS = "methods with ITACLIP's parts"
STITCHER_PARTS = "OV-Stitcher's parts"

GROUPS: dict[str, Callable[[Settings, int], _Named]] = {
    "attention": _attention,
    "residual": _residual,
    "feed-forward network": _feed_forward,
    "middle layers": _middle_layers,
    "image engineering": _image_engineering,
    "auxiliary text": _texts,
    "PAMR": _pamr,
    "logit scale": _temperature,
    "probability threshold": _probability,
    "area threshold": _area,
    STITCHER_PARTS: _stitcher_parts,
    METHODS_AND_PARTS: _methods_and_parts,
}
"""Ablations, ITACLIP's in its paper's order; each function yields names and settings."""
