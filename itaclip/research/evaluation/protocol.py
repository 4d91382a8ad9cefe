"""Apply a method, a preset and a refinement to a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias

from mmengine.config import Config

from itaclip.core.concepts.options import CONCEPTS, is_concept_model
from itaclip.core.methods import METHODS
from itaclip.core.text import read_class_names
from itaclip.core.text.class_names import read_lines
from itaclip.errors import ItaclipError, did_you_mean
from itaclip.files import write_text
from itaclip.research.evaluation.presets import PAMR_STEPS, PRESETS, Preset, common, published, tipsv2

Switch: TypeAlias = Literal["on", "off"]


def apply_protocol(config: Config, folder: Path, method: str | None = None, preset: str | None = None,
                   pamr: Switch | None = None) -> str | None:  # fmt: skip
    """Change a configuration in place; None keeps its values.

    Args:
        config: a complete configuration.
        folder: receives the class file if the preset uses other class words.
        method: a key of `itaclip.core.methods.METHODS`; without a preset it changes nothing else. Or "sam3",
            a model of its own: it takes CLIP's place, and needs a preset.
        preset: one of `PRESETS`, see `itaclip.research.evaluation.presets`.
        pamr: switches refinement "on" or "off", overriding the preset; "on" keeps the number of
            iterations, or uses the published 10 if it is 0.

    Returns:
        Source of the preset's settings; None without a preset.

    Raises:
        ItaclipError: an unknown method, no published settings for this pair, or a
            configuration to which the preset does not apply.
    """
    model = config.model
    if method is not None:
        known = (*METHODS, *CONCEPTS)
        if method not in known:
            raise ItaclipError(f"--method {method}: expected one of {', '.join(known)}.{did_you_mean(method, known)}")
        model.method = method
        if method in CONCEPTS:
            if preset is None:
                raise ItaclipError(
                    f"--method {method}: add --preset {' or '.join(PRESETS)}; the configuration's settings are CLIP's."
                )
            if not is_concept_model(model.get("model_name", "")):
                model.update(model_name=method, pretrained=None, quick_gelu=None)
    source = None
    if preset is not None:
        dataset = config.test_dataloader.dataset
        name = model.get("method", "itaclip")
        if preset == "tipsv2" and name in CONCEPTS:
            raise ItaclipError(f"--preset tipsv2: for the models of TIPSv2, not for {name}.")
        if preset == "tipsv2":
            chosen = tipsv2()
            model.method = method or chosen.method
        elif preset == "published":
            chosen = published(name, dataset.type)
        else:
            chosen = common(dataset.type, model.get("background", False), name)
        _apply_preset(config, chosen, folder)
        source = chosen.source
    if pamr is not None:
        model.pamr_steps = 0 if pamr == "off" else model.get("pamr_steps") or PAMR_STEPS
    return source


def _apply_preset(config: Config, preset: Preset, folder: Path) -> None:
    model = config.model
    if preset.texts and not model.get("auxiliary_text_path"):
        raise ItaclipError(
            "the published settings use auxiliary texts, but model.auxiliary_text_path is not set; "
            "set it to a file (see llm_texts/), or use --preset common."
        )
    if not preset.texts:
        model.auxiliary_text_path = None
    model.update(dict(preset.settings))
    if preset.short_side is not None:
        _resize(config.test_dataloader.dataset)["scale"] = (preset.long_side, preset.short_side)
    if preset.words:
        lines = read_lines(model.name_path)
        first = read_class_names(model.name_path, model.get("background", False)).first_line
        for number, words in preset.words.items():
            lines[number + first - 1] = words
        path = folder / Path(model.name_path).name
        write_text(path, "\n".join(lines) + "\n")
        read_class_names(path, model.get("background", False))
        model.name_path = str(path)


def _resize(dataset: Any) -> Any:
    """Return the Resize step of the test pipeline."""
    steps = [step for step in dataset.get("pipeline", []) if step.get("type") == "Resize"]
    if len(steps) != 1:
        raise ItaclipError(f"the test pipeline has {len(steps)} Resize steps; a preset requires exactly one.")
    return steps[0]
