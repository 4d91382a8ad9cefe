"""Convert COCO-Stuff's pixel maps to the labels of COCO-Stuff-164k (171 classes) or COCO-Object (80 + background).

A raw map stores category id - 1 (0..181), and 255 for unlabelled pixels. Ids 1..91 are things,
eleven of which are unused; 92..182 are stuff. Without the gaps there are 80 thing classes and
171 classes in total.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from itaclip.errors import ItaclipError
from itaclip.files import atomic_path
from itaclip.research.preparation.conversion import Conversion, RunOptions, convert
from itaclip.research.preparation.inspection import stored_values
from itaclip.research.preparation.jobs import run_jobs
from itaclip.research.preparation.listing import iterate_files, require_folder
from itaclip.research.preparation.masks import IGNORED, LabelMap, lookup_table, read_label_map

SPLITS = ("train2017", "val2017")

_EXAMINED = 50

_LAST_THING, _LAST_STUFF = 91, 182
_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
_CATEGORIES = [number for number in range(1, _LAST_STUFF + 1) if number not in _UNUSED]

RAW_VALUES = tuple(category - 1 for category in _CATEGORIES)
"""Values of raw maps, besides 255."""


@dataclass(frozen=True)
class Target:
    """The data set to convert raw maps to.

    Attributes:
        name: shown in messages.
        suffix: replaces ``.png`` in the name of a raw map.
        table: 256 entries that map raw values to labels.
    """

    name: str
    suffix: str
    table: LabelMap


COCO_STUFF = Target(
    "COCO-Stuff",
    "_labelTrainIds.png",
    lookup_table({category - 1: label for label, category in enumerate(_CATEGORIES)}, default=IGNORED),
)
"""Labels 0..170; 255 stays 255."""

COCO_OBJECT = Target(
    "COCO-Object",
    "_instanceTrainIds.png",
    lookup_table(
        {category - 1: label for label, category in enumerate(_CATEGORIES, 1) if category <= _LAST_THING}, default=0
    ),
)
"""Things are 1..80; everything else, including unlabelled pixels, is background (0). Nothing is ignored."""


def convert_coco(root: Path, out: Path | None, target: Target, options: RunOptions) -> int:
    """Convert ``annotations/train2017/*.png`` and ``annotations/val2017/*.png`` below `root`, as far as they exist.

    Args:
        root: the folder of COCO-Stuff-164k.
        out: folder for ``annotations/...``; None writes next to the raw maps.
        target: `COCO_STUFF` or `COCO_OBJECT`.
        options: console, number of processes, whether to redo.

    Returns:
        The number of masks written.

    Raises:
        ItaclipError: no raw maps, or one that cannot be converted.
    """
    require_folder(root, "expected annotations/val2017 with the maps of stuffthingmaps_trainval2017.zip in it.")
    written = 0
    found = False
    for split in SPLITS:
        source = root / "annotations" / split
        if source.is_dir() and any(_raw_maps(source)):
            found = True
            find = partial(_find, source, (out or root) / "annotations" / split, target.suffix)
            written += convert(find, partial(_labels, target), options, f"{target.name} {split}")
    if not found:
        _refuse_renamed(root, target)
        raise ItaclipError(
            f"{root}: contains no raw maps annotations/val2017/*.png. Extract stuffthingmaps_trainval2017.zip; "
            "files with 'TrainIds' in their names are converted masks, not sources."
        )
    return written


def provide_images(root: Path, out: Path, how: str, options: RunOptions) -> None:
    """Make the images available next to masks in another folder.

    Args:
        root: the folder of COCO-Stuff-164k.
        out: the folder with the masks.
        how: "link" creates one symbolic link per split, "copy" copies missing images.
        options: console, number of processes, whether to redo.

    Raises:
        ItaclipError: no images, or a target that exists already or cannot be written.
    """
    splits = [split for split in SPLITS if (root / "images" / split).is_dir()]
    if not splits:
        raise ItaclipError(f"{root}: contains no images/val2017; extract val2017.zip into {root / 'images'}.")
    for split in splits:
        source, target = (root / "images" / split).resolve(), out / "images" / split
        if how == "link":
            _link(source, target)
        else:
            missing = (
                (image, target / image.name)
                for image in iterate_files(source, ".jpg")
                if options.force or not (target / image.name).exists()
            )
            copied = sum(1 for _ in run_jobs(_copy, missing, options.workers))
            options.console.print(f"images {split}: {copied} copied.")


def _find(source: Path, target: Path, suffix: str) -> Iterator[Conversion[Path]]:
    return (Conversion(raw, target / (raw.stem + suffix)) for raw in _raw_maps(source))


def _raw_maps(folder: Path) -> Iterator[Path]:
    return (path for path in iterate_files(folder, ".png") if "TrainIds" not in path.name)


def _refuse_renamed(root: Path, target: Target) -> None:
    """Look at some files with the names of converted masks: raw maps may have been given these names.

    Raises:
        ItaclipError: one contains a value that converted masks do not have.
    """
    allowed = {*target.table.tolist(), IGNORED}
    for folder in (root / "annotations" / split for split in SPLITS):
        if folder.is_dir():
            for path in islice(iterate_files(folder, target.suffix), _EXAMINED):
                foreign = sorted(stored_values(path) - allowed)
                if foreign:
                    raise ItaclipError(
                        f"{path}: contains value {foreign[0]}, which converted masks do not have: a raw map under "
                        f"another name. Rename such maps to {path.name.removesuffix(target.suffix)}.png and convert "
                        "again."
                    )


def _labels(target: Target, raw: Path) -> LabelMap:
    labels = read_label_map(raw)
    unused = np.intersect1d(labels, [category - 1 for category in _UNUSED])
    if unused.size:
        raise ItaclipError(
            f"{raw}: contains value {int(unused[0])}, which raw maps never have (category {int(unused[0]) + 1} is not "
            "used). It looks like a mask that was converted already; use the maps of stuffthingmaps_trainval2017.zip."
        )
    invalid = labels[(labels >= _LAST_STUFF) & (labels != IGNORED)]
    if invalid.size:
        raise ItaclipError(
            f"{raw}: contains value {int(invalid[0])}; COCO-Stuff's raw maps contain 0..{_LAST_STUFF - 1} and 255. "
            "Use the maps of stuffthingmaps_trainval2017.zip."
        )
    return target.table[labels]


def _link(source: Path, target: Path) -> None:
    if target.resolve() == source:
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source, target_is_directory=True)
    except FileExistsError:
        raise ItaclipError(f"{target}: exists and is not a link to {source}; remove it or use --images copy.") from None
    except OSError as error:
        reason = error.strerror or error  # Windows wants a privilege for links
        raise ItaclipError(f"{target}: cannot be linked ({reason}); use --images copy.") from error


def _copy(pair: tuple[Path, Path]) -> None:
    source, target = pair
    with atomic_path(target) as partial_file:
        partial_file.write_bytes(source.read_bytes())
