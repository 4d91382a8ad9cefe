"""Checks of a data set before a run: its files, and the values of its masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from itaclip.errors import ItaclipError
from itaclip.research.openmmlab.datasets import BaseSegDataset
from itaclip.research.preparation import diagnosis, files
from itaclip.research.preparation.inspection import (
    PALETTES,
    SAMPLE,
    Inspection,
    Look,
    Pair,
    Palettes,
    Tree,
    find_pairs,
    inspect_mask,
    inspect_tree,
)
from itaclip.research.preparation.layout import BENCHMARKS, describe, missing_parts, registered, tree_of
from itaclip.research.preparation.masks import ignored_label
from itaclip.research.preparation.settings import check_settings, named

_MASKS_LOADED = 5


def check_images(config: Config) -> None:
    """Check that a data set whose files MMSegmentation lists by itself has at least one image.

    Raises:
        ItaclipError: it has none; the message says what its folder holds and which setting to change. Or it
            cannot be built.
    """
    settings = config.test_dataloader.dataset
    kind = registered(settings.type)
    if not _lists_itself(kind) or settings.get("backend_args"):
        return
    tree = describe(config)
    if next(find_pairs(tree), None) is None:
        raise ItaclipError(f"{named(config)}{files.no_image(tree, Path(settings.get('data_root') or '.'))}")


def _lists_itself(kind: Any) -> bool:
    """Tell whether a type of data set finds its files as MMSegmentation does."""
    if not isinstance(kind, type) or not issubclass(kind, BaseSegDataset):
        return False
    found: Any = kind  # a class of a package without types
    return found.load_data_list is BaseSegDataset.load_data_list


def check_dataset(config: Config, full: bool = False, workers: int = 1) -> tuple[Inspection, Tree | None]:
    """Check the files of a configuration's data set.

    Args:
        config: a configuration with ``test_dataloader.dataset``.
        full: whether to decode all images and masks instead of a sample.
        workers: number of decoding processes.

    Returns:
        The findings, and the layout; None if folders are missing and nothing could be read.

    Raises:
        ItaclipError: a data set type that is not registered or cannot be built, bad classes or a bad palette.
    """
    check_settings(config)
    dataset = config.test_dataloader.dataset
    findings = missing_parts(config)
    if findings:
        return Inspection(findings=findings), None
    tree = describe(config)
    inspection = inspect_tree(tree, full, workers)
    diagnosis.conclude(inspection, tree, Path(dataset.get("data_root") or "."))
    benchmark = BENCHMARKS.get(dataset.type)
    if benchmark and inspection.pairs and inspection.pairs not in benchmark.images:
        inspection.findings.add(
            f"{inspection.pairs} images, but {dataset.type} has {benchmark.images[0]}", "Results would not be "
            "comparable; complete the images and the list from the official archives.", str(tree.names or tree.images)
        )  # fmt: skip
    return inspection, tree


# --- masks -------------------------------------------------------------------


def check_labels(dataset: Any) -> list[str]:
    """Check before a run that masks exist and contain class ids of the data set and the ignored label.

    Without this check, wrong masks would show only as an mIoU near zero. Reads up to 50 masks, spread over
    the data set.

    Returns:
        Notes on what looks wrong, but may be right.

    Raises:
        ItaclipError: no mask exists, or the masks are certainly not those of the data set.
    """
    if not _lists_itself(type(dataset)) or dataset.backend_args or not _loads_plainly(dataset):
        _check_loaded(dataset)
        return []
    tree = tree_of(dataset)
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    pairs = [Pair(Path(info["img_path"]), Path(info["seg_map_path"])) for info in infos]
    root = Path(dataset.data_root or ".")
    missing = [pair for pair in pairs if not pair.mask.is_file()]
    if len(missing) == len(pairs):
        raise ItaclipError(files.missing_masks(missing, len(pairs), tree, root))
    notes = []
    if missing:
        notes.append(f"{files.missing_masks(missing, len(pairs), tree, root)} Their images will be skipped.")
    if left_out := files.other_images(tree):
        notes.append(left_out)
    gone = set(missing)
    return notes + _check_values([pair.mask for pair in pairs if pair not in gone], tree, type(dataset).__name__)


def _check_values(masks: Sequence[Path], tree: Tree, kind: str) -> list[str]:
    sample = masks[:: -(-len(masks) // SAMPLE)]
    looks = [Look(mask) for mask in sample]
    readable = [look for look in looks if inspect_mask(tree, look) is not None]
    if not readable:
        _, remedy, where = looks[0].problems[0]
        raise ItaclipError(f"none of {len(sample)} masks can be read: {where} {remedy}")
    pixels = np.sum([look.pixels for look in readable], axis=0)
    if wrong := [look for look in readable if look.problems]:
        value, allowed = tree.foreign(wrong[0].pixels)[0], tree.stored_labels()
        raise ItaclipError(
            f"{wrong[0].mask}: contains label {value}, but {kind} has labels {allowed[0]}..{allowed[-1]} and "
            f"{tree.ignored} (ignored); so do {len(wrong)} of {len(readable)} masks. "
            f"{diagnosis.foreign_values(pixels, tree)}"
        )
    for look_at in (diagnosis.only_zero_and_ignored, diagnosis.nothing_labelled):
        if seen := look_at(pixels, tree, masks):
            raise ItaclipError(str(seen))
    notes = []
    if suspected := diagnosis.suspected_kind(pixels, len(readable), tree):
        notes.append(str(suspected))
    unreadable = len(sample) - len(readable)
    if unreadable:
        first = next(look for look in looks if look not in readable)
        notes.append(f"{unreadable} of {len(sample)} masks cannot be read, and their images will be skipped: "
                     f"{first.problems[0][2]} {first.problems[0][1]}")  # fmt: skip
    palettes = Palettes()
    if contradictions := [told for look in readable if (told := palettes.contradiction(look))]:
        notes.append(f"{contradictions[0]} has two colours. {PALETTES}")
    return notes


def _loads_plainly(dataset: BaseSegDataset) -> bool:
    return any(
        type(step).__name__ in ("LoadAnnotations", "ITACLIPLoadAnnotations") for step in dataset.pipeline.transforms
    )


def _check_loaded(dataset: Any) -> None:
    """Check the same for data sets that load masks by themselves: the first masks, as they are loaded."""
    classes = len(dataset.metainfo["classes"])
    for i in range(min(_MASKS_LOADED, len(dataset))):
        try:
            sample = dataset[i]["data_samples"]
        except Exception:  # reported when the image is due
            continue
        values = np.unique(sample.gt_sem_seg.data.numpy())
        ignored = ignored_label(classes)
        invalid = [int(v) for v in values if v >= classes and v != ignored]
        if invalid:
            raise ItaclipError(
                f"{sample.seg_map_path}: contains label {invalid[0]}, but {type(dataset).__name__} has labels "
                f"0..{classes - 1} and {ignored} (ignored). Are these the converted masks? See docs/datasets.md."
            )
