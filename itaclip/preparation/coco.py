"""COCO-Stuff's pixel maps to the labels of COCO-Stuff-164k (171 classes) and COCO-Object (80 + background).

A raw map holds category id - 1 (0..181) and 255 for pixels without a label. The ids 1..91
are things, of which eleven were never used; 92..182 are stuff. Closing the gaps in order
gives 80 things and 171 classes in all.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from itaclip.console import make_console
from itaclip.errors import ItaclipError
from itaclip.files import atomic_path
from itaclip.preparation.conversion import Conversion, Running, add_options, convert
from itaclip.preparation.jobs import run_jobs
from itaclip.preparation.listing import iterate_files, require_folder
from itaclip.preparation.masks import IGNORED, LabelMap, lookup_table, read_label_map

SPLITS = ("train2017", "val2017")

_LAST_THING, _LAST_STUFF = 91, 182
_NEVER_USED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
_CATEGORIES = [number for number in range(1, _LAST_STUFF + 1) if number not in _NEVER_USED]


@dataclass(frozen=True)
class Target:
    """What raw maps are turned into.

    Attributes:
        name: for messages.
        suffix: takes the place of ``.png`` in the name of a raw map.
        table: 256 entries, raw value to label.
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
"""Things are 1..80; all else, pixels without a label too, is background 0, so nothing is ignored."""


def convert_coco(root: Path, out: Path | None, target: Target, running: Running) -> int:
    """Convert ``annotations/{train2017,val2017}/*.png`` below `root`, or those of the two that exist.

    Args:
        root: the folder of COCO-Stuff-164k.
        out: where ``annotations/...`` is written; None: beside the raw maps.
        target: `COCO_STUFF` or `COCO_OBJECT`.
        running: console, number of processes, whether to redo.

    Raises:
        ItaclipError: no raw map, or one that cannot be converted.
    """
    require_folder(root, "it should hold annotations/val2017 with the maps of stuffthingmaps_trainval2017.zip.")
    written = 0
    found = False
    for split in SPLITS:
        source = root / "annotations" / split
        if source.is_dir() and any(_raw_maps(source)):
            found = True
            find = partial(_find, source, (out or root) / "annotations" / split, target.suffix)
            written += convert(find, partial(_labels, target), running, f"{target.name} {split}")
    if not found:
        raise ItaclipError(
            f"{root}: holds no raw map annotations/val2017/*.png. They come from stuffthingmaps_trainval2017.zip; "
            "files with 'TrainIds' in their names are results, not sources."
        )
    return written


def provide_images(root: Path, out: Path, how: str, running: Running) -> None:
    """Put the images beside masks that were written to another folder.

    Args:
        root: the folder of COCO-Stuff-164k.
        out: the other folder.
        how: "link" makes one symbolic link per split, "copy" copies what is missing.
        running: console, number of processes, whether to redo.

    Raises:
        ItaclipError: no images, or a target that is in the way or cannot be written.
    """
    splits = [split for split in SPLITS if (root / "images" / split).is_dir()]
    if not splits:
        raise ItaclipError(f"{root}: holds no images/val2017; extract val2017.zip into {root / 'images'}.")
    for split in splits:
        source, target = (root / "images" / split).resolve(), out / "images" / split
        if how == "link":
            _link(source, target)
        else:
            missing = (
                (image, target / image.name)
                for image in iterate_files(source, ".jpg")
                if running.force or not (target / image.name).exists()
            )
            copied = sum(1 for _ in run_jobs(_copy, missing, running.workers))
            running.console.print(f"images {split}: {copied} copied.")


def _find(source: Path, target: Path, suffix: str) -> Iterator[Conversion[Path]]:
    return (Conversion(raw, target / (raw.stem + suffix)) for raw in _raw_maps(source))


def _raw_maps(folder: Path) -> Iterator[Path]:
    return (path for path in iterate_files(folder, ".png") if "TrainIds" not in path.name)


def _labels(target: Target, raw: Path) -> LabelMap:
    labels = read_label_map(raw)
    strange = labels[(labels >= _LAST_STUFF) & (labels != IGNORED)]
    if strange.size:
        raise ItaclipError(
            f"{raw}: holds value {int(strange[0])}; COCO-Stuff's raw maps hold 0..{_LAST_STUFF - 1} and 255. "
            "Take the maps of stuffthingmaps_trainval2017.zip."
        )
    return target.table[labels]


def _link(source: Path, target: Path) -> None:
    if target.resolve() == source:
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source, target_is_directory=True)
    except FileExistsError:
        raise ItaclipError(f"{target}: exists and is no link to {source}; remove it or use --images copy.") from None
    except OSError as error:
        reason = error.strerror or error  # Windows wants a privilege for links
        raise ItaclipError(f"{target}: cannot be linked ({reason}); use --images copy.") from error


def _copy(pair: tuple[Path, Path]) -> None:
    source, target = pair
    with atomic_path(target) as partial_file:
        partial_file.write_bytes(source.read_bytes())


def main(target: Target, arguments: Sequence[str] | None = None) -> None:
    """The command line of ``datasets/cvt_coco_*.py``.

    Raises:
        ItaclipError: bad input, with its message.
    """
    parser = argparse.ArgumentParser(description=f"COCO-Stuff's pixel maps to {target.name}'s masks.")
    parser.add_argument("coco_path", type=Path, help="folder of COCO-Stuff-164k, with annotations/val2017")
    parser.add_argument("-o", "--out", "--out_dir", type=Path, help="folder to write to (default: beside the maps)")
    parser.add_argument("--images", choices=("link", "copy"), help="with -o: link or copy the images there, too")
    add_options(parser)
    args = parser.parse_args(arguments)
    if args.images and args.out is None:
        raise ItaclipError("--images: only of use with -o; without it masks lie beside the images already.")
    running = Running(make_console(), args.workers, args.force)
    convert_coco(args.coco_path, args.out, target, running)
    if args.images:
        provide_images(args.coco_path, args.out, args.images, running)
