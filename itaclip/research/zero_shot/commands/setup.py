"""Shared by the programs: options, configuration, checks before a long run."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmseg.registry import DATASETS

from itaclip.errors import ItaclipError
from itaclip.research.evaluation.options import add_changes, add_launcher
from itaclip.research.openmmlab.configuration import change_config, load_config
from itaclip.research.preparation.checks import check_labels
from itaclip.research.preparation.layout import require_paths

_LOG = logging.getLogger(__name__)


def options(description: str) -> argparse.ArgumentParser:
    """Declare the options that all programs share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="configuration, such as configs/zero_shot/clip_rc_voc_inductive.py")
    add_changes(parser)
    parser.add_argument("--work-dir", type=Path, help="output folder (default: work_dirs/<config>)")
    parser.add_argument("--amp", action="store_true", help="compute in bfloat16 where that is safe")
    add_launcher(parser)
    return parser


def configure(args: argparse.Namespace) -> Config:
    """Load the configuration that the options describe; `--cfg-options` override the other options.

    Raises:
        ItaclipError: bad input.
    """
    config = load_config(args.config, weights=args.weights)
    if config.model.get("type") != "ZeroShotSegmentor":
        raise ItaclipError(f"{args.config}: model.type {config.model.get('type')!r}; expected 'ZeroShotSegmentor'.")
    if args.amp:
        config.model.precision = "bf16"
    if args.data_root:
        for loader in ("train_dataloader", "test_dataloader"):
            for dataset in _plain_datasets(config.get(loader, {}).get("dataset", {})):
                dataset.data_root = args.data_root
    change_config(config, args.cfg_options)
    config.work_dir = str(args.work_dir or Path("work_dirs") / args.config.stem)
    config.launcher = args.launcher
    return config


def _plain_datasets(dataset: Any) -> list[Any]:
    """Return the data sets inside wrappers and concatenations."""
    if "datasets" in dataset:
        return [plain for part in dataset.datasets for plain in _plain_datasets(part)]
    return _plain_datasets(dataset.dataset) if "dataset" in dataset else [dataset] if dataset else []


def build_checked(config: Any, classes: Sequence[str]) -> Any:
    """Build a data set and check its classes and first masks.

    Args:
        config: configuration of the data set, wrapped or not.
        classes: the model's classes.

    Raises:
        ItaclipError: a missing folder or list, no images, different classes or another order, or
            masks with invalid labels.
    """
    for plain in _plain_datasets(config):
        if not plain.type.startswith("Demo"):  # missing demo scenes are drawn later
            require_paths(plain)
    dataset = DATASETS.build(config)
    found = tuple(dataset.metainfo["classes"])
    if found != tuple(classes):
        shorter = min(len(found), len(classes))
        k = next((k for k in range(shorter) if found[k] != classes[k]), shorter)
        raise ItaclipError(
            f"model.classes: {len(classes)} classes, but the data set has {len(found)}; they differ at label {k}: "
            f"{classes[k] if k < len(classes) else 'nothing'!r} in the model, "
            f"{found[k] if k < len(found) else 'nothing'!r} in the data set. Names and order must be the same."
        )
    if not len(dataset):
        raise ItaclipError(f"{_plain_datasets(config)[0].get('data_root')}: contains no images.")
    inner = getattr(dataset, "inner", dataset)
    for plain in getattr(inner, "datasets", [inner]):
        for note in check_labels(plain):
            _LOG.warning("%s", note)
    return dataset
