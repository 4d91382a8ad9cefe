"""The protocol of a score: everything besides method and weights that moves it, with a short hash.

Two scores are comparable only if their protocols are the same; `differences` tells what is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmengine.config import Config

from itaclip.core.settings import Settings
from itaclip.core.text.class_names import ClassNames
from itaclip.core.text.templates import TEMPLATE_SETS
from itaclip.files import sha256_of
from itaclip.research.evaluation.counts import Metrics
from itaclip.research.evaluation.identity import digest
from itaclip.research.preparation.masks import ignored_label

_LENGTH = 8
SETTINGS = {
    "windows": ("slide_crop", "slide_stride", "padding", "tolerance"),
    "views": ("img_engineering", "img_eng_coefficient", "blur_kernel", "blur_sigma"),
    "refinement": ("pamr_steps", "pamr_stride", "map_correction"),
    "thresholds": (
        "logit_scale",
        "prob_thd",
        "area_thd",
        "peak_thd",
        "closing",
        "shortlist",
        "alias_temperature",
        "alias_sharpness",
    ),
}
"""Settings by part of the protocol."""

TEXT_SETTINGS = ("background", "def_coefficient", "templates", "class_prompts")
"""Settings that other parts of the protocol stand for."""

METHOD_AND_RUNNING = (
    "method", "attn_self", "attention", "residual", "middle_layers", "feed_forward", "pos_interpolation",
    "patch_projection", "method_options", "second_encoder", "regions", "batch_crops", "dtype", "agreement", "engine",
    "calibration", "compile", "device",
)  # fmt: skip
"""Settings that are no part of the protocol: the method with its sources, and how it runs."""


def protocol_of(
    config: Config, settings: Settings, classes: ClassNames, dataset: Any, metrics: Metrics, ignored: int, images: int
) -> dict[str, Any]:
    """Describe the protocol of an evaluation.

    Args:
        config: the configuration, with all changes.
        settings: the settings that ran.
        classes: the classes that ran, with the words of the background and the distractors.
        dataset: the data set.
        metrics: the scores. Their pixels per class tell how the labels were converted: masks that another
            converter made have other numbers.
        ignored: number of ignored pixels.
        images: number of evaluated images.

    Returns:
        ``fingerprint``, 8 hexadecimal digits, and the ``parts`` that it depends on, by name; JSON values.
    """
    model, values = config.model, asdict(settings)
    texts = _content(model.get("auxiliary_text_path"))
    steps = [dict(step) for step in config.test_dataloader.dataset.get("pipeline", [])]
    parts: dict[str, Any] = {
        "class file": {
            "classes": len(classes), "queries": len(classes.queries), "words": digest(classes.synonyms),
            "distractors": len(model.get("distractors", ())), "background": settings.background,
        },
        "templates": {"sentences": len(TEMPLATE_SETS[settings.templates]),
                      "content": digest(TEMPLATE_SETS[settings.templates])},
        "auxiliary texts": {"content": texts, "weight": settings.def_coefficient if texts else 0.0},
        "class-biased prompts": {"content": _content(settings.class_prompts)},
        "resizing": {"steps": [step for step in steps if not str(step.get("type")).startswith(("Load", "Pack"))]},
        **{part: {name: values[name] for name in names} for part, names in SETTINGS.items()},
        "label conversion": {
            "classes": digest(dataset.metainfo["classes"]),
            "reduce_zero_label": bool(getattr(dataset, "reduce_zero_label", False)),
            "ignored label": ignored_label(len(metrics.labelled)), "ignored pixels": ignored,
            "pixels per class": digest(metrics.labelled),
        },
        "images": {"count": images},
    }  # fmt: skip
    stored = json.loads(json.dumps(parts, default=str))
    return {"fingerprint": digest(stored)[:_LENGTH], "parts": stored}


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Tell the entries in which the parts of two protocols differ, as ``part, entry: value / value``."""
    found = []
    for part in dict.fromkeys([*one, *other]):
        first, second = dict(_flat(one.get(part))), dict(_flat(other.get(part)))
        for entry in dict.fromkeys([*first, *second]):
            if first.get(entry) != second.get(entry):
                found.append(f"{part}{entry and ', '}{entry}: {first.get(entry)} / {second.get(entry)}")
    return found


def _flat(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif value is not None:
        yield "", value


def _content(path: Any) -> str | None:
    """Return a short hash of a file; None without one."""
    return sha256_of(Path(path).expanduser())[: 2 * _LENGTH] if path else None
