"""The ablations of the paper, as settings that differ from a configuration's in one respect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from itaclip.errors import ItaclipError, did_you_mean
from itaclip.settings import Settings

_PAMR_STEPS = 10


@dataclass(frozen=True)
class Variant:
    """One line of an ablation.

    Attributes:
        group: what is varied, a key of `GROUPS`.
        name: its value.
        settings: the configuration's but for that.
    """

    group: str
    name: str
    settings: Settings


def make_variants(base: Settings, blocks: int, texts: bool, groups: list[str] | None = None) -> list[Variant]:
    """The variants of a configuration, group by group in the paper's order.

    Args:
        base: settings of the configuration.
        blocks: of the image tower.
        texts: auxiliary texts are at hand; without them their weight cannot be varied.
        groups: keys of `GROUPS` in any case; None takes all that apply.

    Raises:
        ItaclipError: an unknown group, or one that does not apply.
    """
    known = {group.lower(): group for group in GROUPS}
    for group in groups or ():
        if group.lower() not in known:
            raise ItaclipError(
                f"ablation {group!r} is unknown; there are: {', '.join(GROUPS)}.{did_you_mean(group, GROUPS)}"
            )
    asked = [known[group.lower()] for group in groups or ()]
    applies = {"auxiliary text": texts, "probability threshold": base.background, "area threshold": base.background}
    missing = [group for group in asked if not applies.get(group, True)]
    if missing:
        needed = (
            "auxiliary texts (model.auxiliary_text_path)" if missing[0] == "auxiliary text" else "a background class"
        )
        raise ItaclipError(f"ablation {missing[0]!r} needs {needed}, which the configuration does not have.")
    chosen = asked or [group for group in GROUPS if applies.get(group, True)]
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
    own = base.resolved_method(blocks).middle_layers
    choices = dict.fromkeys([(), *((layer,) for layer in own), own])
    for layers in choices:
        yield ", ".join(map(str, layers)) or "none", base.changed(middle_layers=layers)


def _image_engineering(base: Settings, blocks: int) -> _Named:
    """All from the same five views: weights 1 and 0 leave one kind alone."""
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
    yield "on", base.changed(pamr_steps=base.pamr_steps or _PAMR_STEPS)


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
}
"""What can be ablated, in the paper's order; each gives names and settings."""
