"""Build the data set and the model of a configuration file, and check both."""

from __future__ import annotations

import itaclip.research.openmmlab  # noqa: F401 - first: it makes mmseg importable, or says what to install

# isort: split

from dataclasses import replace
from typing import Any

from mmengine.config import Config
from mmseg.registry import DATASETS, MODELS

from itaclip.core.text import ClassNames, ConfiguredClasses
from itaclip.core.text.class_names import plain_name
from itaclip.errors import ItaclipError
from itaclip.formats.configuration import weights_and_settings
from itaclip.research.openmmlab import ITACLIPSegmentor
from itaclip.research.preparation.checks import check_images
from itaclip.research.preparation.layout import draw_demo, require_paths
from itaclip.research.preparation.settings import check_settings


def build_dataset(config: Config) -> Any:
    """Build the test data set; draw the demo's if it does not exist yet.

    Raises:
        ItaclipError: bad classes or a bad palette, a folder or list file that does not exist, or a data set without
            images.
    """
    settings = config.test_dataloader.dataset
    check_settings(config)
    draw_demo(settings)
    require_paths(settings)
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
        raise ItaclipError(f"{settings.get('data_root')}: contains no image of the data set {settings.type}.")
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
        The classes of its class file.

    Raises:
        ItaclipError: another type of model, bad settings, a bad class file or bad texts.
    """
    if config.model.get("type") not in ("ITACLIPSegmentor", "ITACLIP_Segmentor"):
        raise ItaclipError(f"model.type {config.model.get('type')!r}: expected 'ITACLIPSegmentor'.")
    if "name_path" not in config.model:
        raise ItaclipError("model.name_path is missing; set it to the class file, with one class per line.")
    _, settings = weights_and_settings(config.model)
    configured = ConfiguredClasses.of(config.model, settings.background)
    classes, _ = configured.read()
    return replace(classes, synonyms=classes.synonyms[: len(classes) - len(configured.distractors)])


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
                f"{classes.source}, line {found + classes.first_line}: {classes.names[found]!r} is class {i} of {kind} "
                f"and belongs on line {i + classes.first_line}, which has {classes.names[i]!r}."
            )
