"""Convert Pascal Context annotations to label maps of 59 classes and a background (0), or of all 459 classes.

There are two possible sources. Both are matched by class *name*, so no table of ids is needed:

* ``trainval_merged.json`` ("PASCAL in Detail"): images, categories and one segmentation
  per class and image, with the split of every image;
* the label maps of the data set's website, one ``.mat`` per image, with ``labels.txt``.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from itaclip.errors import ItaclipError
from itaclip.files import write_text
from itaclip.research.preparation.conversion import Conversion, RunOptions, convert
from itaclip.research.preparation.listing import require_folder
from itaclip.research.preparation.masks import DEEP_IGNORED, LabelMap
from itaclip.research.preparation.rle import decode_mask

CLASSES = (
    "aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book", "bottle", "building", "bus",
    "cabinet", "car", "cat", "ceiling", "chair", "cloth", "computer", "cow", "cup", "curtain", "dog", "door", "fence",
    "floor", "flower", "food", "grass", "ground", "horse", "keyboard", "light", "motorbike", "mountain", "mouse",
    "person", "plate", "platform", "pottedplant", "road", "rock", "sheep", "shelves", "sidewalk", "sign", "sky",
    "snow", "sofa", "table", "track", "train", "tree", "truck", "tvmonitor", "wall", "water", "window", "wood",
)  # fmt: skip
"""The 59 classes; their labels are 1..59."""

# Some published lists use other names for three classes.
_OTHER_NAMES = {"table": "diningtable", "bedclothes": "bedcloth", "cloth": "clothes"}

MASKS = "SegmentationClassContext"
LISTS = "ImageSets/SegmentationContext"
ALL_MASKS = "annotations_detectron2/pc459_val"
ALL_LIST = "pascalcontext_val.txt"
SPLITS = ("train", "val")

# JSON keys to keep: parts, boundaries and keypoints would take several times the memory.
_KEPT = {
    "images", "categories", "annos_segmentation", "image_id", "category_id", "id", "file_name", "phase", "height",
    "width", "name", "segmentation", "size", "counts",
}  # fmt: skip

Table = NDArray[np.uint8]
Labels = TypeVar("Labels", np.uint8, np.uint16)


def label_table(names: Mapping[int, str], source: Path, allow_missing: bool) -> Table:
    """Make a table that maps the annotations' ids to labels 0..59 by class name.

    Raises:
        ItaclipError: one of the 59 classes is missing and `allow_missing` is False.
    """
    number_of = {name.replace(" ", "").lower(): number for number, name in names.items()}
    found = {name: number_of.get(name, number_of.get(_OTHER_NAMES.get(name, name))) for name in CLASSES}
    missing = [name for name, number in found.items() if number is None]
    if missing and not allow_missing:
        raise ItaclipError(
            f"{source}: has no class named {', '.join(missing)}. The benchmark needs all 59; --allow-missing turns "
            "their pixels into background."
        )
    table = np.zeros(max(names, default=0) + 1, np.uint8)
    for label, number in enumerate(found.values(), 1):
        if number is not None:
            table[number] = label
    return table


def write_lists(root: Path, stems: Mapping[str, list[str]]) -> None:
    """Write ``ImageSets/SegmentationContext/{train,val}.txt``, one image name per line, sorted."""
    for split, names in stems.items():
        if names:
            write_text(root / LISTS / f"{split}.txt", "".join(f"{name}\n" for name in sorted(names)))


# --- from the merged JSON ----------------------------------------------------


@dataclass(frozen=True)
class Annotated:
    """An image of the JSON file: size in pixels, and (label, segmentation) pairs in file order."""

    name: str
    height: int
    width: int
    segments: tuple[tuple[int, Any], ...]


def convert_json(root: Path, annotations: Path, options: RunOptions, allow_missing: bool = False) -> int:
    """Convert ``trainval_merged.json``; write the lists once all masks exist.

    The file must contain ``images`` with image_id, file_name, phase ("train" or "val"), height
    and width; ``categories`` with category_id and name; ``annos_segmentation`` with image_id,
    category_id and segmentation (run lengths or polygons). ``id`` replaces a missing image_id or
    category_id. Where segments overlap, the later one wins.

    Returns:
        The number of masks written.

    Raises:
        ItaclipError: invalid JSON, missing parts, or a segment that cannot be decoded.
    """
    content = _read_json(annotations)
    try:
        names = {int(_id(entry, "category_id")): str(entry["name"]) for entry in content["categories"]}
        table = label_table(names, annotations, allow_missing)
        segments: defaultdict[Any, list[tuple[int, Any]]] = defaultdict(list)
        for entry in content["annos_segmentation"]:
            segments[entry["image_id"]].append((int(table[entry["category_id"]]), entry["segmentation"]))
        images = [
            (
                _id(entry, "image_id"),
                Path(entry["file_name"]).stem,
                entry["phase"],
                int(entry["height"]),
                int(entry["width"]),
            )
            for entry in content["images"]
        ]
    except ItaclipError:
        raise
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ItaclipError(
            f"{annotations}: not in the format of trainval_merged.json ({type(error).__name__}: {error}); expected "
            "images, categories and annos_segmentation."
        ) from error
    if not images:
        raise ItaclipError(f"{annotations}: lists no images.")

    def find() -> Iterator[Conversion[Annotated]]:
        for key, name, _, height, width in images:
            yield Conversion(Annotated(name, height, width, tuple(segments[key])), root / MASKS / f"{name}.png")

    written = convert(find, _draw, options, "Pascal Context")
    write_lists(root, {split: [name for _, name, phase, *_ in images if phase == split] for split in SPLITS})
    return written


def _read_json(path: Path) -> Any:
    try:
        with path.open(encoding="utf-8") as file:
            return json.load(file, object_pairs_hook=lambda pairs: {key: value for key, value in pairs if key in _KEPT})
    except FileNotFoundError:
        raise ItaclipError(f"{path}: no such file.") from None
    except (OSError, ValueError) as error:
        raise ItaclipError(f"{path}: cannot be read as JSON ({error}); download it again.") from error


def _id(entry: Mapping[str, Any], key: str) -> Any:
    return entry[key] if key in entry else entry["id"]


def _draw(image: Annotated) -> LabelMap:
    labels = np.zeros((image.height, image.width), np.uint8)
    for label, segmentation in image.segments:
        try:
            labels[decode_mask(segmentation, image.height, image.width)] = label
        except (TypeError, ValueError) as error:
            raise ItaclipError(f"annos_segmentation of {image.name}: {error}.") from error
    return labels


# --- from one .mat per image -------------------------------------------------


def convert_mats(
    root: Path, folder: Path, options: RunOptions, names_file: Path | None = None, allow_missing: bool = False
) -> int:
    """Convert a folder of ``.mat`` label maps for the images of ``ImageSets/Main/{train,val}.txt``.

    Pascal Context uses the split of VOC 2010, whose lists come from the VOC 2010 archive. The
    lists are written once all masks exist.

    Args:
        root: the folder VOC2010.
        folder: folder with one ``.mat`` per image, containing the variable LabelMap (H x W ids).
        options: console, number of processes, whether to redo.
        names_file: file with one ``id: name`` per line; None uses labels.txt in `folder` or its parent.
        allow_missing: whether classes without a name become background.

    Returns:
        The number of masks written.

    Raises:
        ItaclipError: a missing or damaged file, or an id without a name.
    """
    names_file = _names_of(folder, names_file)
    table = label_table(read_label_names(names_file), names_file, allow_missing)
    stems = _stems(root, folder, SPLITS)
    every = [stem for split in SPLITS for stem in stems[split]]

    def find() -> Iterator[Conversion[Path]]:
        return (Conversion(folder / f"{stem}.mat", root / MASKS / f"{stem}.png") for stem in every)

    written = convert(find, partial(_read_mat, table), options, "Pascal Context")
    write_lists(root, stems)
    return written


def convert_all_classes(root: Path, folder: Path, options: RunOptions, names_file: Path | None = None) -> int:
    """Convert ``.mat`` label maps of the validation images to all 459 classes, as `PascalContext459Dataset` reads them.

    Writes ``annotations_detectron2/pc459_val/*.tif``, 16 bits, and ``pascalcontext_val.txt`` once all exist. Ids
    become the lines of ``configs/cls_context459.txt``, counted from 0, by name; id 0 is ignored (65535).

    Args:
        root: the folder VOC2010.
        folder: folder with one ``.mat`` per image, as for `convert_mats`.
        options: console, number of processes, whether to redo.
        names_file: as for `convert_mats`.

    Returns:
        The number of masks written.

    Raises:
        ItaclipError: a missing or damaged file, an id without a name, or a class that `names_file` lacks.
    """
    from itaclip.common.shipped import configuration_folder
    from itaclip.core.text.class_names import read_class_names  # brings PyTorch, which worker processes do not need

    names_file = _names_of(folder, names_file)
    number_of = {name.replace(" ", "").lower(): number for number, name in read_label_names(names_file).items()}
    classes = read_class_names(configuration_folder() / "cls_context459.txt").names
    if missing := [name for name in classes if name not in number_of]:
        raise ItaclipError(
            f"{names_file}: has no class named {', '.join(missing[:5])}; expected the labels.txt of 459 classes."
        )
    table = np.full(max(number_of.values()) + 1, DEEP_IGNORED, np.uint16)
    for label, name in enumerate(classes):
        table[number_of[name]] = label
    stems = _stems(root, folder, ("val",))["val"]

    def find() -> Iterator[Conversion[Path]]:
        return (Conversion(folder / f"{stem}.mat", root / ALL_MASKS / f"{stem}.tif") for stem in stems)

    written = convert(find, partial(_read_mat, table), options, "Pascal Context, 459 classes")
    write_text(root / ALL_LIST, "".join(f"{name}\n" for name in sorted(stems)))
    return written


def _names_of(folder: Path, names_file: Path | None) -> Path:
    """Find the file of class names: the given one, or labels.txt in the folder of .mat files or its parent."""
    require_folder(folder, "expected the .mat files of Pascal Context's trainval.tar.gz in it.")
    if names_file is not None:
        return names_file
    candidates = [parent / "labels.txt" for parent in (folder, folder.parent)]
    return next((path for path in candidates if path.is_file()), candidates[0])


def _stems(root: Path, folder: Path, splits: Sequence[str]) -> dict[str, list[str]]:
    """Read the image names by split from the lists of VOC 2010; every one has a .mat file."""
    stems = {split: _read_split(root / f"ImageSets/Main/{split}.txt") for split in splits}
    if not stems["val"]:
        raise ItaclipError(
            f"{root / 'ImageSets/Main/val.txt'}: missing or empty. It lists the validation images; extract "
            "VOCtrainval_03-May-2010.tar."
        )
    every = [stem for split in splits for stem in stems[split]]
    missing = [stem for stem in every if not (folder / f"{stem}.mat").is_file()]
    if missing:
        raise ItaclipError(
            f"{folder / missing[0]}.mat: no such file; {len(missing)} of {len(every)} listed images have no .mat file. "
            "Extract the archive again."
        )
    return stems


def read_label_names(path: Path) -> dict[int, str]:
    """Read ``id: name`` lines.

    Raises:
        ItaclipError: the file is missing or a line is malformed.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ItaclipError(f"{path}: cannot be read ({error}); pass the file of class names with --labels.") from error
    names = {}
    for number, line in enumerate(lines, 1):
        key, colon, name = line.partition(":")
        if not line.strip():
            continue
        if not colon or not key.strip().isdigit() or not name.strip():
            raise ItaclipError(f"{path}, line {number}: {line!r}; expected 'id: name'.")
        names[int(key)] = name.strip()
    return names


def _read_split(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split() if path.is_file() else []


def _read_mat(table: NDArray[Labels], path: Path) -> NDArray[Labels]:
    try:
        ids = loadmat(path)["LabelMap"]
    except Exception as error:  # SciPy's parser raises many types
        reason = "no variable LabelMap" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise ItaclipError(f"{path}: cannot be read as a label map ({reason}); extract it again.") from error
    if ids.ndim != 2 or ids.dtype.kind not in "iuf" or ids.size == 0:
        raise ItaclipError(f"{path}: LabelMap is {ids.dtype} of shape {ids.shape}; expected H x W ids.")
    if ids.min() < 0 or ids.max() >= len(table):
        raise ItaclipError(f"{path}: contains id {int(ids.max())}, but the last named id is {len(table) - 1}.")
    return table[ids.astype(np.int64)]
