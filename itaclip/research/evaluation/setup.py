"""Build the data set and the model of a configuration file, and check both."""

from __future__ import annotations

import itaclip.research.openmmlab  # noqa: F401 - first: it makes mmseg importable, or says what to install

# isort: split

import argparse
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS

from itaclip.common.demo.dataset import ensure_demo_dataset
from itaclip.core.text import ClassNames, read_texts
from itaclip.core.text.class_names import plain_name
from itaclip.errors import ItaclipError
from itaclip.formats.configuration import read_config, weights_and_settings
from itaclip.research.evaluation.checks import check_images, check_settings
from itaclip.research.evaluation.checks import check_labels as check_labels
from itaclip.research.openmmlab import ITACLIPSegmentor


def load_config(path: str | Path) -> Config:
    """Read an MMEngine configuration. It is Python code: load only files that you trust.

    Raises:
        ItaclipError: no such file, an error in it, or missing parts.
    """
    config = read_config(path)
    _require_parts(config, path)
    init_default_scope(config.get("default_scope", "mmseg"))
    return config


def _require_parts(config: Config, source: str | Path) -> None:
    for *outer, part in (["model"], ["test_dataloader"], ["test_dataloader", "dataset"]):
        holder = config[outer[0]] if outer else config
        if not isinstance(holder.get(part), dict):
            raise ItaclipError(f"{source}: {'.'.join([*outer, part])} is missing or not a dict.")


class ConfigOptions(DictAction):
    """`--cfg-options KEY=VALUE ...` for a parser; malformed options are usage errors."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        """Parse the options; called by argparse."""
        try:
            super().__call__(parser, *rest)
        except (ValueError, AssertionError) as error:
            parser.error(f"argument --cfg-options: expected KEY=VALUE, such as model.pamr_steps=0 ({error})")


def change_config(config: Config, options: dict[str, Any]) -> None:
    """Change entries of a configuration in place.

    Raises:
        ItaclipError: an option that does not fit the configuration.
    """
    try:
        config.merge_from_dict(options)
    except Exception as error:  # MMEngine raises many types
        reason = f"{type(error).__name__}: {error}"
        raise ItaclipError(
            f"--cfg-options {' '.join(options)}: cannot be applied to the configuration ({reason})."
        ) from error
    _require_parts(config, f"--cfg-options {' '.join(options)}")


def build_dataset(config: Config) -> Any:
    """Build the test data set; draw the demo's if it does not exist yet.

    Raises:
        ItaclipError: bad classes or a bad palette, a folder or list file that does not exist, or a data set without
            images.
    """
    settings = config.test_dataloader.dataset
    check_settings(config)
    root = Path(settings.get("data_root") or "")
    if settings.type == "DemoDataset":
        ensure_demo_dataset(root)
    prefix = settings.get("data_prefix", {})
    needed = [(root, "data_root")]
    needed += [(root / folder, f"data_prefix.{key}") for key, folder in prefix.items() if folder]
    if settings.get("ann_file"):
        needed.append((root / settings.ann_file, "ann_file"))
    for path, name in needed:
        if not path.exists():
            raise ItaclipError(
                f"{path}: does not exist ({name} of the data set {settings.type}). Pass the folder that contains "
                f"{', '.join(str(v) for v in prefix.values())} with --data-root; docs/datasets.md shows the layout."
            )
    check_images(config)
    try:
        dataset = DATASETS.build(settings)
    except ItaclipError:
        raise
    except Exception as error:  # data sets and transforms raise all kinds of exceptions
        raise ItaclipError(
            f"test_dataloader.dataset: {settings.type} cannot be built ({type(error).__name__}: {error})."
        ) from error
    if not len(dataset):
        raise ItaclipError(f"{root}: contains no image of the data set {settings.type}.")
    return dataset


def build_model(config: Config) -> ITACLIPSegmentor:
    """Build the segmentor that a configuration describes.

    Raises:
        ItaclipError: another type of model, or bad settings.
    """
    check_model(config)
    options = {key: value for key, value in config.model.items() if key != "type"}
    segmentor: ITACLIPSegmentor = MODELS.get("ITACLIPSegmentor")(**options)
    return segmentor


def check_model(config: Config) -> ClassNames:
    """Check everything about a configuration's model that can be known before its weights are loaded.

    Returns:
        Its classes.

    Raises:
        ItaclipError: another type of model, bad settings, a bad class file or bad texts.
    """
    if config.model.get("type") not in ("ITACLIPSegmentor", "ITACLIP_Segmentor"):
        raise ItaclipError(f"model.type {config.model.get('type')!r}: expected 'ITACLIPSegmentor'.")
    if "name_path" not in config.model:
        raise ItaclipError("model.name_path is missing; set it to the class file, with one class per line.")
    _, settings = weights_and_settings(config.model)
    classes, _ = read_texts(config.model.name_path, config.model.get("auxiliary_text_path"), settings.background)
    return classes


# --- checks before a long run ------------------------------------------------


def check_classes(classes: ClassNames, dataset: Any) -> None:
    """Check that the class file has the data set's classes in the same order.

    Words may differ on purpose ("ship" for "boat"), so this reports only certain mistakes: a
    different number of classes, or the name of a class on another class's line.

    Raises:
        ItaclipError: the class file is wrong; the message names the file, the line and both classes.
    """
    expected = dataset.metainfo["classes"]
    kind = type(dataset).__name__
    if len(classes) != len(expected):
        raise ItaclipError(
            f"{classes.source}: has {len(classes)} classes, but {kind} has {len(expected)}; "
            "write one line per class, in the data set's order."
        )
    line_of = {plain_name(word): i for i, words in reversed(list(enumerate(classes.synonyms))) for word in words[:1]}
    for i, name in enumerate(expected):
        found = line_of.get(plain_name(name), i)
        if found != i and plain_name(name) not in {plain_name(word) for word in classes.synonyms[i]}:
            raise ItaclipError(
                f"{classes.source}, line {found + 1}: {classes.names[found]!r} is class {i} of {kind} and belongs on "
                f"line {i + 1}, which has {classes.names[i]!r}."
            )
