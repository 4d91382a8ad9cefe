"""Convert Cityscapes annotations to the 19 evaluated classes (``*_gtFine_labelTrainIds.png``)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from itaclip.errors import ItaclipError
from itaclip.research.preparation.conversion import Conversion, RunOptions, convert
from itaclip.research.preparation.inspection import stored_values
from itaclip.research.preparation.listing import iterate_files, require_folder
from itaclip.research.preparation.masks import IGNORED, LabelMap, lookup_table, read_label_map

SPLITS = ("train", "val", "test")

_EXAMINED, _ENOUGH = 20, 8
_VARIED = 8  # distinct ids; the test set's annotations have only a few

_IDS = "_gtFine_labelIds.png"
_POLYGONS = "_gtFine_polygons.json"
_TRAIN_IDS = "_gtFine_labelTrainIds.png"

# The index is the official id; the license plate has id -1 and is never drawn.
_NAMES = (
    "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "road",
    "sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel", "pole",
    "polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck",
    "bus", "caravan", "trailer", "train", "motorcycle", "bicycle",
)  # fmt: skip
_NEVER_DRAWN = ("license plate",)
_EVALUATED = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip

TABLE = lookup_table({_NAMES.index(name): label for label, name in enumerate(_EVALUATED)}, default=IGNORED)
"""256 entries that map official ids to labels 0..18 or 255."""


def convert_cityscapes(root: Path, out: Path | None, options: RunOptions) -> int:
    """Convert the existing folders among ``gtFine/{train,val,test}`` below `root`.

    The source is ``*_gtFine_labelIds.png``, or ``*_gtFine_polygons.json`` if that is missing.

    Args:
        root: the folder of Cityscapes.
        out: folder for ``gtFine/...``; None writes next to the sources.
        options: console, number of processes, whether to redo.

    Returns:
        The number of masks written.

    Raises:
        ItaclipError: no annotations, or one that cannot be converted.
    """
    require_folder(root / "gtFine", "extract gtFine_trainvaltest.zip into the folder of Cityscapes.")
    written = 0
    found = False
    for split in SPLITS:
        source = root / "gtFine" / split
        find = partial(_find, source, (out or root) / "gtFine" / split)
        if source.is_dir() and any(find()):
            found = True
            _refuse_train_ids(source)
            written += convert(find, _labels, options, f"Cityscapes {split}")
    if not found:
        raise ItaclipError(f"{root / 'gtFine'}: contains neither val/<city>/*{_IDS} nor val/<city>/*{_POLYGONS}.")
    return written


def _find(source: Path, target: Path) -> Iterator[Conversion[Path]]:
    for path in iterate_files(source, recursive=True):
        stem = _stem(path)
        if stem is not None:
            yield Conversion(path, target / path.parent.relative_to(source) / (stem + _TRAIN_IDS))


def _refuse_train_ids(source: Path) -> None:
    """Look at the values of some label ids: masks of the 19 classes may have been given their names.

    Raises:
        ItaclipError: no examined file has an id above 18, as vegetation, sky, persons and cars have.
    """
    ids = (path for path in iterate_files(source, _IDS, recursive=True))
    looks = [values for path in islice(ids, _EXAMINED) if (values := stored_values(path))]
    values = set().union(*looks) - {IGNORED}
    if len(looks) >= _ENOUGH and len(values) >= _VARIED and max(values) < len(_EVALUATED):
        raise ItaclipError(
            f"{source}: {len(looks)} files *{_IDS} contain nothing above {max(values)}: no vegetation (21), no sky "
            f"(23), no car (26). They look like masks of the 19 classes under another name; rename them to "
            f"*{_TRAIN_IDS}, or extract gtFine_trainvaltest.zip again."
        )


def _stem(path: Path) -> str | None:
    """Return the image's name if this file is to be converted, otherwise None."""
    if path.name.endswith(_IDS):
        return path.name[: -len(_IDS)]
    if path.name.endswith(_POLYGONS):
        stem = path.name[: -len(_POLYGONS)]
        return None if path.with_name(stem + _IDS).exists() else stem
    return None


def _labels(path: Path) -> LabelMap:
    if path.suffix == ".json":
        return TABLE[draw_polygons(path)]
    ids = read_label_map(path)
    invalid = ids[(ids >= len(_NAMES)) & (ids != IGNORED)]
    if invalid.size:
        raise ItaclipError(f"{path}: contains value {int(invalid[0])}; Cityscapes ids are 0..{len(_NAMES) - 1}.")
    return TABLE[ids]


def draw_polygons(path: Path) -> LabelMap:
    """Draw a polygon file like the official tools: in order, later objects over earlier ones.

    Returns:
        H x W uint8 official ids; 0 (unlabeled) where nothing is drawn.

    Raises:
        ItaclipError: invalid JSON, missing parts, or an unknown label; the message names file and object.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ItaclipError(f"{path}: cannot be read as JSON ({error}); extract or download it again.") from error
    try:
        canvas = Image.new("L", (int(content["imgWidth"]), int(content["imgHeight"])), 0)
        pen = ImageDraw.Draw(canvas)
        for number, thing in enumerate(content["objects"]):
            name = thing["label"]
            if name not in _NAMES and name.endswith("group"):
                name = name.removesuffix("group")  # a group counts as its members' class
            if thing.get("deleted") or name in _NEVER_DRAWN:
                continue
            if name not in _NAMES:
                raise ItaclipError(f"{path}, object {number}: {name!r} is not a Cityscapes label.")
            pen.polygon([(float(x), float(y)) for x, y in thing["polygon"]], fill=_NAMES.index(name))
    except ItaclipError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ItaclipError(
            f"{path}: not in gtFine format ({type(error).__name__}: {error}); expected imgWidth, imgHeight "
            "and objects with label and polygon."
        ) from error
    return np.array(canvas)
