"""Conversion of Pascal Context annotations to 59 classes and a background."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from preparation_helpers import fails_clearly, lines, read, run_script, visible
from rich.console import Console
from scipy.io import savemat

from itaclip.errors import ItaclipError
from itaclip.research.openmmlab import PascalContext60Dataset
from itaclip.research.preparation.context import CLASSES, LISTS, MASKS, convert_json, convert_mats
from itaclip.research.preparation.conversion import RunOptions
from itaclip.research.preparation.rle import decode_mask

OPTIONS = RunOptions(Console(quiet=True))
HEIGHT, WIDTH = 4, 5
# ids with gaps and not in alphabetical order, including classes that are not evaluated
IDS = {name: 3 * (58 - i) + 2 for i, name in enumerate(CLASSES)} | {"accordion": 1, "zebra": 400}
LABEL = {name: i for i, name in enumerate(CLASSES, 1)}


def square(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def merged(**changes: Any) -> dict[str, Any]:
    """Two images in the format of trainval_merged.json, with run lengths and polygons."""
    content = {
        "info": {"year": 2010},
        "images": [
            {"image_id": 2008000002, "file_name": "2008_000002.jpg", "phase": "val", "height": HEIGHT, "width": WIDTH},
            {"image_id": 2008000003, "file_name": "2008_000003.jpg", "phase": "train", "height": 2, "width": 2},
        ],
        "categories": [
            {"category_id": number, "name": name, "parts": [{"name": "arm"}]} for name, number in IDS.items()
        ],
        "annos_segmentation": [
            # runs go down the columns: the first two columns of four pixels are sky
            {"id": 1, "image_id": 2008000002, "category_id": IDS["sky"], "parts": [{"segmentation": [1]}],
             "segmentation": {"size": [HEIGHT, WIDTH], "counts": [0, 8, 12]}},
            {"id": 2, "image_id": 2008000002, "category_id": IDS["aeroplane"], "segmentation": square(3, 2, 5, 4)},
            {"id": 3, "image_id": 2008000002, "category_id": IDS["zebra"], "segmentation": square(0, 0, 1, 1)},
            {"id": 4, "image_id": 2008000003, "category_id": IDS["wood"],
             "segmentation": {"size": [2, 2], "counts": "04"}},
        ],
    }  # fmt: skip
    return content | changes


EXPECTED = [
    [0, LABEL["sky"], 0, 0, 0],
    [LABEL["sky"], LABEL["sky"], 0, 0, 0],
    [LABEL["sky"], LABEL["sky"], 0, LABEL["aeroplane"], LABEL["aeroplane"]],
    [LABEL["sky"], LABEL["sky"], 0, LABEL["aeroplane"], LABEL["aeroplane"]],
]


def write_merged(folder: Path, **changes: Any) -> Path:
    path = folder / "trainval_merged.json"
    path.write_text(json.dumps(merged(**changes)))
    return path


def test_classes_are_mmsegs() -> None:
    assert PascalContext60Dataset.METAINFO["classes"] == ("background", *CLASSES)


def test_merged_json(tmp_path: Path) -> None:
    annotations = write_merged(tmp_path)
    root = tmp_path / "VOCdevkit/VOC2010"
    root.mkdir(parents=True)
    done = run_script("datasets/cvt_context.py", tmp_path / "VOCdevkit", annotations, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert read(root / MASKS / "2008_000002.png").tolist() == EXPECTED
    assert read(root / MASKS / "2008_000003.png").tolist() == [[59, 59], [59, 59]]
    assert lines(root / LISTS / "val.txt") == ["2008_000002"]
    assert lines(root / LISTS / "train.txt") == ["2008_000003"]
    assert convert_json(root, annotations, OPTIONS) == 0


def test_ids_named_id(tmp_path: Path) -> None:
    content = merged()
    categories = [{"id": entry["category_id"], "name": entry["name"]} for entry in content["categories"]]
    images = [{("id" if key == "image_id" else key): entry[key] for key in entry} for entry in content["images"]]
    convert_json(tmp_path, write_merged(tmp_path, categories=categories, images=images), OPTIONS)
    assert read(tmp_path / MASKS / "2008_000002.png").tolist() == EXPECTED


def test_compressed_runs() -> None:
    # created with COCO's own tools: rows 5..19 and columns 3..29 of a 30 x 40 mask
    packed = "o2??000000000000000000000000000000000000000000000000000W9"
    expected = np.zeros((30, 40), bool)
    expected[5:20, 3:30] = True
    assert np.array_equal(decode_mask({"size": [30, 40], "counts": packed}, 30, 40), expected)
    for bad in (packed[:-1], packed + "~", "o"):
        with pytest.raises(ValueError, match="run lengths"):
            decode_mask({"size": [30, 40], "counts": bad}, 30, 40)


def test_polygons_are_filled_as_cocos_tools_fill_them() -> None:
    drawn = decode_mask([[1, 0, 4.6, 0, 4.6, 1.7, 1, 1.7], [0, 3, 2, 3, 2, 4, 0, 4]], 4, 5)
    assert drawn.astype(int).tolist() == [[0, 1, 1, 1, 1], [0, 1, 1, 1, 1], [0] * 5, [1, 1, 0, 0, 0]]
    for bad in ([1, 2, 3, 4], [[1, 2, 3, 4, 5, 6, 7]]):
        with pytest.raises(ValueError, match="three corners or more"):
            decode_mask(bad, 4, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": [{"category_id": 1, "name": "sky"}]}, "no class named aeroplane, bag"),
        ({"annos_segmentation": [{"image_id": 2008000002, "category_id": 999, "segmentation": []}]}, "not in the form"),
        ({"annos_segmentation": [{"image_id": 2008000002, "category_id": 2, "segmentation": []}]}, "2008_000002"),
        (
            {"annos_segmentation": [
                {"image_id": 2008000002, "category_id": 2, "segmentation": {"size": [9, 9], "counts": [81]}}]},
            "size",
        ),
        ({"images": []}, "lists no image"),
        ({"images": [{"image_id": 1}]}, "file_name"),
    ],
)  # fmt: skip
def test_malformed_json(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ItaclipError, match=message):
        convert_json(tmp_path, write_merged(tmp_path, **changes), OPTIONS)
    assert visible(tmp_path) == ["trainval_merged.json"]


def test_truncated_json(tmp_path: Path) -> None:
    path = write_merged(tmp_path)
    path.write_text(path.read_text()[:300])
    fails_clearly(run_script("datasets/cvt_context.py", tmp_path, path), str(path), "JSON")
    fails_clearly(run_script("datasets/cvt_context.py", tmp_path, tmp_path / "none.json"), "no such file")
    fails_clearly(run_script("datasets/cvt_context.py", tmp_path, path, "--labels", path), "--labels")
    assert visible(tmp_path) == ["trainval_merged.json"]


# --- .mat files --------------------------------------------------------------


@pytest.fixture
def voc2010(tmp_path: Path) -> Path:
    """VOC2010 with two images, and trainval/*.mat with labels.txt next to that folder."""
    root = tmp_path / "VOC2010"
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/train.txt").write_text("2008_000003\n")
    (root / "ImageSets/Main/val.txt").write_text("2008_000002\n")
    # the website's 59-class list uses other names for three classes
    names = {"table": "diningtable", "bedclothes": "bedcloth", "cloth": "clothes"}
    (tmp_path / "labels.txt").write_text(
        "".join(f"{number}: {names.get(name, name)}\n" for name, number in IDS.items())
    )
    (tmp_path / "trainval").mkdir()
    ids = [[IDS["table"], IDS["cloth"], IDS["bedclothes"]], [IDS["zebra"], 0, IDS["wood"]]]
    savemat(tmp_path / "trainval/2008_000002.mat", {"LabelMap": np.array(ids, np.uint16)})
    savemat(tmp_path / "trainval/2008_000003.mat", {"LabelMap": np.array([[IDS["sky"]]], np.uint16)})
    return root


def test_mats(voc2010: Path) -> None:
    done = run_script("datasets/cvt_context.py", voc2010, voc2010.parent / "trainval", "--workers", 2)
    assert done.returncode == 0, done.stderr
    expected = [[LABEL["table"], LABEL["cloth"], LABEL["bedclothes"]], [0, 0, LABEL["wood"]]]
    assert read(voc2010 / MASKS / "2008_000002.png").tolist() == expected
    assert read(voc2010 / MASKS / "2008_000003.png").tolist() == [[LABEL["sky"]]]
    assert lines(voc2010 / LISTS / "val.txt") == ["2008_000002"]


def test_mats_with_fewer_classes_need_allow_missing(voc2010: Path) -> None:
    few = voc2010 / "33_labels.txt"
    few.write_text("".join(f"{number}: {name}\n" for name, number in IDS.items() if name not in ("wood", "bag")))
    mats = voc2010.parent / "trainval"
    with pytest.raises(ItaclipError, match="no class named bag, wood"):
        convert_mats(voc2010, mats, OPTIONS, few)
    convert_mats(voc2010, mats, OPTIONS, few, allow_missing=True)
    assert read(voc2010 / MASKS / "2008_000002.png")[1].tolist() == [0, 0, 0]


def test_bad_mats(voc2010: Path) -> None:
    mats = voc2010.parent / "trainval"
    good = (mats / "2008_000002.mat").read_bytes()
    for content, message in ((good[:150], "2008_000002.mat"), (b"no mat", "cannot be read")):
        (mats / "2008_000002.mat").write_bytes(content)
        with pytest.raises(ItaclipError, match=message):
            convert_mats(voc2010, mats, OPTIONS)
    for variables, message in (
        ({"Other": np.zeros((2, 2))}, "no variable LabelMap"),
        ({"LabelMap": np.full((2, 2), 460)}, "contains id 460"),
        ({"LabelMap": np.zeros((2, 2, 2))}, "expected H x W"),
    ):
        savemat(mats / "2008_000002.mat", variables)
        with pytest.raises(ItaclipError, match=message):
            convert_mats(voc2010, mats, OPTIONS)
    (mats / "2008_000002.mat").unlink()
    with pytest.raises(ItaclipError, match="1 of 2 listed images"):
        convert_mats(voc2010, mats, OPTIONS)
    assert not (voc2010 / LISTS).exists()


def test_missing_parts(voc2010: Path) -> None:
    mats = voc2010.parent / "trainval"
    (voc2010 / "ImageSets/Main/val.txt").unlink()
    with pytest.raises(ItaclipError, match="VOCtrainval_03-May-2010"):
        convert_mats(voc2010, mats, OPTIONS)
    (voc2010.parent / "labels.txt").write_text("1 sky\n")
    with pytest.raises(ItaclipError, match="line 1"):
        convert_mats(voc2010, mats, OPTIONS)
    (voc2010.parent / "labels.txt").unlink()
    with pytest.raises(ItaclipError, match="--labels"):
        convert_mats(voc2010, mats, OPTIONS)
    with pytest.raises(ItaclipError, match="no such folder"):
        convert_mats(voc2010, mats / "none", OPTIONS)
