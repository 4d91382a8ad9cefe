"""Checks of a data set before a run: its settings, its files, and the values of its masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from itaclip.errors import ItaclipError, did_you_mean
from itaclip.research.evaluation.confusion import IGNORED_LABEL
from itaclip.research.openmmlab.datasets import BaseSegDataset
from itaclip.research.preparation import diagnosis, files
from itaclip.research.preparation.inspection import PALETTES, Look, Pair, Palettes, Tree, find_pairs, inspect_mask
from itaclip.research.preparation.layout import describe, registered, tree_of

_KEY = "test_dataloader.dataset"
_MASKS_CHECKED = 50
_MASKS_LOADED = 5


# --- settings ----------------------------------------------------------------


def check_settings(config: Config) -> None:
    """Check the data set's type, classes and palette as the configuration writes them.

    Raises:
        ItaclipError: the message names the key, what it holds and what to write.
    """
    settings = config.test_dataloader.dataset
    kind = registered(settings.get("type"))
    declared = dict(getattr(kind, "METAINFO", None) or {})
    given = settings.get("metainfo") or {}
    key = f"{_where(config)}{_KEY}.metainfo"
    if not isinstance(given, dict):
        raise ItaclipError(f"{key} is {given!r}; expected dict(classes=[...]).")
    for holder, source in ((declared, f"{getattr(kind, '__name__', kind)}.METAINFO"), (given, key)):
        if holder.get("classes") is not None:
            _check_names(holder["classes"], f"{source}.classes")
    classes = given.get("classes")
    known = declared.get("classes")
    if known and classes is not None and not isinstance(classes, str):
        for name in classes:
            if name not in known:
                raise ItaclipError(
                    f"{key}.classes: {name!r} is no class of {kind.__name__}, of which it selects some."
                    f"{did_you_mean(name, known)} For classes of your own, set type='BaseSegDataset'."
                )
    colors = given.get("palette")
    if colors is not None and not isinstance(classes, str):
        _check_palette(colors, classes or known, known, f"{key}.palette")


def _where(config: Config) -> str:
    return f"{config.filename}: " if config.filename else ""


def _check_names(classes: Any, source: str) -> None:
    if isinstance(classes, str):
        if Path(classes).is_file():  # MMEngine reads it, one class per line
            return
        names = [name.strip() for name in classes.split(",") if name.strip()]
        raise ItaclipError(
            f"{source} is the text {classes!r}, not a list, and no file; a single class in parentheses is a text "
            f"in Python. Write classes={names!r}."
        )
    if not isinstance(classes, (list, tuple)) or not classes:
        raise ItaclipError(f"{source} is {classes!r}; expected a list of class names.")
    for number, name in enumerate(classes):
        if not isinstance(name, str) or not name.strip():
            raise ItaclipError(f"{source}[{number}] is {name!r}; expected a class name.")
        if classes.index(name) != number:
            raise ItaclipError(f"{source}[{number}]: {name!r} is class {classes.index(name)} already.")


def _check_palette(colors: Any, classes: Sequence[str] | None, known: Sequence[str] | None, source: str) -> None:
    if not isinstance(colors, (list, tuple)):
        raise ItaclipError(f"{source} is {colors!r}; expected one [r, g, b] per class.")
    for number, color in enumerate(colors):
        if (
            not isinstance(color, (list, tuple)) or len(color) != 3
            or not all(isinstance(part, int) and 0 <= part <= 255 for part in color)
        ):  # fmt: skip
            raise ItaclipError(f"{source}[{number}] is {color!r}; expected [r, g, b], each 0..255.")
    expected = {len(names) for names in (classes, known) if names}
    if colors and expected and len(colors) not in expected:
        count = f"{len(colors)} colour{'s' * (len(colors) != 1)}"
        raise ItaclipError(
            f"{source} has {count}, but there are {len(classes or ())} classes; write one colour per class, or leave "
            "out the palette."
        )


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
        raise ItaclipError(f"{_where(config)}{files.no_image(tree, Path(settings.get('data_root') or '.'))}")


def _lists_itself(kind: Any) -> bool:
    """Whether a type of data set finds its files as MMSegmentation does."""
    if not isinstance(kind, type) or not issubclass(kind, BaseSegDataset):
        return False
    found: Any = kind  # a class of a package without types
    return found.load_data_list is BaseSegDataset.load_data_list


# --- masks -------------------------------------------------------------------


def check_labels(dataset: Any) -> list[str]:
    """Check before a run that masks exist and contain class ids of the data set and 255 ("ignore").

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
    sample = masks[:: -(-len(masks) // _MASKS_CHECKED)]
    looks = [Look(mask) for mask in sample]
    readable = [look for look in looks if inspect_mask(tree, look) is not None]
    if not readable:
        _, remedy, where = looks[0].problems[0]
        raise ItaclipError(f"none of {len(sample)} masks can be read: {where} {remedy}")
    pixels = np.sum([look.pixels for look in readable], axis=0)
    allowed = tree.stored_labels()
    wrong = [look for look in readable if look.problems]
    if wrong:
        values = [v for v in np.flatnonzero(wrong[0].pixels).tolist() if v not in allowed and v != IGNORED_LABEL]
        raise ItaclipError(
            f"{wrong[0].mask}: contains label {values[0]}, but {kind} has labels {allowed[0]}..{allowed[-1]} and 255 "
            f"(ignored); so do {len(wrong)} of {len(readable)} masks. {diagnosis.foreign_values(pixels, tree)}"
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
    return any(type(step).__name__ == "LoadAnnotations" for step in dataset.pipeline.transforms)


def _check_loaded(dataset: Any) -> None:
    """The same for data sets that load masks in their own way: the first masks, as they are loaded."""
    classes = len(dataset.metainfo["classes"])
    for i in range(min(_MASKS_LOADED, len(dataset))):
        try:
            sample = dataset[i]["data_samples"]
        except Exception:  # reported when the image is due
            continue
        values = np.unique(sample.gt_sem_seg.data.numpy())
        invalid = [int(v) for v in values if v >= classes and v != IGNORED_LABEL]
        if invalid:
            raise ItaclipError(
                f"{sample.seg_map_path}: contains label {invalid[0]}, but {type(dataset).__name__} has labels "
                f"0..{classes - 1} and 255 (ignored). Are these the converted masks? See docs/datasets.md."
            )
