"""Reading the model part of an evaluation's configuration without MMSegmentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itaclip.common.images.values import ValueRange, checked_range
from itaclip.common.openmmlab_packages import readable_import_errors
from itaclip.common.shipped import find_configuration
from itaclip.core.settings import Settings, checked_names, implied_background
from itaclip.core.text import ConfiguredClasses, TextEncoder, build_text_bank, read_class_prompts
from itaclip.errors import ItaclipError
from itaclip.vocabulary import Vocabulary

if TYPE_CHECKING:
    from mmengine.config import Config

_NO_SETTINGS = frozenset(
    ("type", "name_path", "model_name", "pretrained", "quick_gelu", "auxiliary_text_path", "text_cache",
     "background_words", "lexicon", "distractors",
     "data_preprocessor", "init_cfg", "dataset_name", "width_chunk_size", "train_cfg", "test_cfg")
)  # fmt: skip
"""Keywords of `ITACLIPSegmentor` that are not fields of `Settings`."""


@dataclass(frozen=True)
class ModelDescription:
    """What a configuration says about its model.

    Attributes:
        weights: name or file, tag and activation, as `itaclip.core.clip.load_clip` takes them.
        settings: settings of the pipeline.
        short_side: short side in pixels that images are resized to.
        classes: class file, texts and words of the background.
        value_range: of the data set's images, see `itaclip.common.images.ValueRange`.
    """

    weights: tuple[str, str | None, bool | None]
    settings: Settings
    short_side: int
    classes: ConfiguredClasses
    value_range: ValueRange = None

    def vocabulary(self, encoder: TextEncoder) -> Vocabulary:
        """Encode the classes.

        Raises:
            ItaclipError: a bad class file, bad texts, a bad lexicon or bad class-biased prompts.
        """
        background = self.settings.background
        classes, texts = self.classes.read()
        classes, choice = self.classes.with_background_words(encoder, classes)
        prompts = read_class_prompts(self.settings.class_prompts, classes)
        weight, templates = self.settings.def_coefficient, self.settings.templates
        bank = build_text_bank(encoder, classes, texts, weight, background, prompts, templates)
        return Vocabulary.of(bank, background, texts, choice)


def read_config(path: str | Path, import_custom_modules: bool = True) -> Config:
    """Read an MMEngine configuration (Python: only run files that you trust).

    Args:
        path: a file, or the name of a shipped configuration, such as ``voc``.
        import_custom_modules: import the modules that it names in ``custom_imports``.

    Raises:
        ItaclipError: no such file, an error inside it, or MMEngine is missing.
    """
    path = find_configuration(path)
    with readable_import_errors("reading a configuration", "mmengine"):
        from mmengine.config import Config
    try:
        return Config.fromfile(path, import_custom_modules=import_custom_modules)
    except Exception as error:  # a configuration is code, so anything can go wrong in it
        raise ItaclipError(f"{path}: cannot be read as a configuration ({type(error).__name__}: {error}).") from error


def read_model(
    path: str | Path, model: str | None = None, changes: Mapping[str, Any] | None = None
) -> ModelDescription:
    """Read the model part of a configuration (Python: only run files that you trust).

    Args:
        path: a file, or the name of a shipped configuration, such as ``voc``.
        model: CLIP's name or weights, see `name_weights`; None takes the configuration's.
        changes: settings that replace the configuration's.

    Raises:
        ItaclipError: no such file, an error inside it, or parts missing.
    """
    # the segmentor that it would register brings all of MMSegmentation
    config = read_config(path, import_custom_modules=False)
    options: dict[str, Any] = config.get("model") or {}
    if "name_path" not in options:
        raise ItaclipError(f"{path}: model.name_path is missing: the class file, one class per line.")
    steps = config.get("test_pipeline") or config.get("test_dataloader", {}).get("dataset", {}).get("pipeline", [])
    scales = [step["scale"] for step in steps if step.get("type") == "Resize" and step.get("keep_ratio")]
    if len(scales) != 1:
        raise ItaclipError(f"{path}: expected one Resize step with keep_ratio in test_pipeline, found {len(scales)}.")
    if model:
        name_weights(options, model)
    weights, settings = weights_and_settings(options, changes)
    ranges = [step.get("value_range") for step in steps if step.get("type") == "ITACLIPLoadImage"]
    return ModelDescription(
        weights, settings, min(scales[0]), ConfiguredClasses.of(options, settings.background),
        checked_range(ranges[0] if ranges else None),
    )  # fmt: skip


def name_weights(options: dict[str, Any], weights: str) -> None:
    """Name other weights in a configuration's model, in place; drop the tag and the activation of the old ones.

    Args:
        options: the model part of a configuration.
        weights: CLIP's name, alone or as ``NAME:TAG``, a file or a folder.
    """
    options["model_name"] = weights
    for stated in ("pretrained", "quick_gelu"):
        options.pop(stated, None)


def weights_and_settings(
    options: Mapping[str, Any], changes: Mapping[str, Any] | None = None
) -> tuple[tuple[str, str | None, bool | None], Settings]:
    """Read the weights and settings of a configuration's model; `changes` replace settings.

    Raises:
        ItaclipError: an unknown setting, or a bad value.
    """
    weights = options.get("model_name", "ViT-B/16"), options.get("pretrained"), options.get("quick_gelu")
    settings = {key: value for key, value in options.items() if key not in _NO_SETTINGS} | dict(changes or {})
    return weights, Settings(**checked_names(implied_background(options.get("dataset_name"), settings)))
