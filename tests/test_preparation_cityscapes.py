"""Conversion of Cityscapes annotations to its 19 classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from preparation_helpers import fails_clearly, read, run_script, visible, write_mask
from rich.console import Console

from itaclip.errors import ItaclipError
from itaclip.research.preparation.cityscapes import convert_cityscapes
from itaclip.research.preparation.conversion import RunOptions

OPTIONS = RunOptions(Console(quiet=True))
CITY = "gtFine/val/lindau"
NAME = "lindau_000000_000019_gtFine"

# official ids of the evaluated classes, in the order of their labels 0..18
EVALUATED = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


def square(label: str, left: int, top: int, right: int, bottom: int, **more: Any) -> dict[str, Any]:
    return {"label": label, "polygon": [[left, top], [right, top], [right, bottom], [left, bottom]], **more}


def write_polygons(root: Path, objects: list[dict[str, Any]], width: int = 8, height: int = 6) -> Path:
    path = root / CITY / f"{NAME}_polygons.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"imgWidth": width, "imgHeight": height, "objects": objects}))
    return path


def test_label_ids(tmp_path: Path) -> None:
    write_mask(tmp_path / CITY / f"{NAME}_labelIds.png", [list(range(34)), [255] * 34])
    assert convert_cityscapes(tmp_path, None, OPTIONS) == 1
    result = read(tmp_path / CITY / f"{NAME}_labelTrainIds.png")
    expected = [EVALUATED.index(number) if number in EVALUATED else 255 for number in range(34)]
    assert result.tolist() == [expected, [255] * 34]


def test_polygons_where_label_ids_are_missing(tmp_path: Path) -> None:
    write_polygons(
        tmp_path,
        [
            square("road", 0, 0, 7, 5),
            square("car", 0, 0, 1, 1),
            square("persongroup", 4, 0, 5, 1),  # a group counts as its members' class
            square("license plate", 0, 0, 0, 0),  # never drawn
            square("sky", 2, 2, 3, 3, deleted=1),
            square("polegroup", 6, 4, 7, 5),  # not evaluated
        ],
    )
    assert convert_cityscapes(tmp_path, None, OPTIONS) == 1
    result = read(tmp_path / CITY / f"{NAME}_labelTrainIds.png")
    expected = [[0] * 8 for _ in range(6)]
    for y in (0, 1):
        expected[y][0:2] = [13, 13]
        expected[y][4:6] = [11, 11]
        expected[y + 4][6:8] = [255, 255]
    assert result.tolist() == expected


def test_label_ids_come_first_and_out_folder(tmp_path: Path) -> None:
    write_polygons(tmp_path / "in", [square("sky", 0, 0, 7, 5)])
    write_mask(tmp_path / "in" / CITY / f"{NAME}_labelIds.png", [[7]])
    write_mask(tmp_path / "in" / CITY / f"{NAME}_instanceIds.png", [[7]])
    done = run_script("datasets/cvt_cityscapes.py", tmp_path / "in", "-o", tmp_path / "out", "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert visible(tmp_path / "out") == [f"{CITY}/{NAME}_labelTrainIds.png"]
    assert read(tmp_path / "out" / CITY / f"{NAME}_labelTrainIds.png").tolist() == [[0]]


def test_missing_annotations(tmp_path: Path) -> None:
    fails_clearly(run_script("datasets/cvt_cityscapes.py", tmp_path), "gtFine_trainvaltest.zip")
    (tmp_path / CITY).mkdir(parents=True)
    with pytest.raises(ItaclipError, match="contains neither"):
        convert_cityscapes(tmp_path, None, OPTIONS)


def test_truncated_json(tmp_path: Path) -> None:
    path = write_polygons(tmp_path, [square("road", 0, 0, 7, 5)])
    path.write_text(path.read_text()[:50])
    fails_clearly(run_script("datasets/cvt_cityscapes.py", tmp_path, "--workers", 2), str(path), "JSON")
    assert visible(tmp_path) == [f"{CITY}/{NAME}_polygons.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"imgWidth": 8, "imgHeight": 6, "objects": [square("unicorn", 0, 0, 1, 1)]}, "object 0: 'unicorn'"),
        ({"imgWidth": 8, "objects": []}, "imgHeight"),
        ([], "not in gtFine format"),
        ({"imgWidth": 8, "imgHeight": 6, "objects": [{"label": "road", "polygon": [1, 2]}]}, "not in gtFine format"),
    ],
)
def test_malformed_json(tmp_path: Path, content: Any, message: str) -> None:
    write_polygons(tmp_path, []).write_text(json.dumps(content))
    with pytest.raises(ItaclipError, match=message):
        convert_cityscapes(tmp_path, None, OPTIONS)


def test_invalid_id(tmp_path: Path) -> None:
    write_mask(tmp_path / CITY / f"{NAME}_labelIds.png", [[34]])
    with pytest.raises(ItaclipError, match="contains value 34"):
        convert_cityscapes(tmp_path, None, OPTIONS)


@pytest.mark.parametrize("kind", ["label ids", "shifted", "blank"])
def test_kept_masks_are_compared_with_their_sources(tmp_path: Path, kind: str) -> None:
    for number in range(3):
        ids = [list(range(number, 34))]
        write_mask(tmp_path / CITY / f"{number}_gtFine_labelIds.png", ids)
        train = [EVALUATED.index(i) if i in EVALUATED else 255 for i in ids[0]]
        content = {"label ids": ids, "shifted": [[(i + 1) % 256 for i in train]], "blank": [[0] * len(train)]}[kind]
        write_mask(tmp_path / CITY / f"{number}_gtFine_labelTrainIds.png", content)
    with pytest.raises(ItaclipError, match="3 of 3 existing masks") as caught:
        convert_cityscapes(tmp_path, None, OPTIONS)
    assert ("unconverted" in str(caught.value)) == (kind == "label ids")


@pytest.mark.parametrize(("values", "refused"), [(range(19), True), (range(34), False), (range(5), False)])
def test_masks_of_the_19_classes_under_the_name_of_label_ids(tmp_path: Path, values: range, refused: bool) -> None:
    """The test set's annotations have only the first ids, and they are no such masks."""
    for number in range(9):
        write_mask(tmp_path / CITY / f"{number}_gtFine_labelIds.png", [[*values, 255]])
    if refused:
        with pytest.raises(ItaclipError, match="look like masks of the 19 classes under another name"):
            convert_cityscapes(tmp_path, None, OPTIONS)
    else:
        assert convert_cityscapes(tmp_path, None, OPTIONS) == 9
