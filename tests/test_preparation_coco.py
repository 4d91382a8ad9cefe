"""Conversion of COCO-Stuff's pixel maps to COCO-Stuff and COCO-Object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from preparation_helpers import fails_clearly, read, run_script, visible, write_image, write_mask
from rich.console import Console

from itaclip.errors import ItaclipError
from itaclip.research.preparation.coco import COCO_OBJECT, COCO_STUFF, Target, convert_coco, provide_images
from itaclip.research.preparation.conversion import RunOptions

# (raw value, COCO-Stuff label, COCO-Object label), from the official category list:
# person is category 1, bicycle 2, stop sign 13 (12 was never used), backpack 27 (26 was not),
# toothbrush 90 is the last thing, banner 92 the first stuff, wood 182 the last.
KNOWN = [
    (0, 0, 1),
    (1, 1, 2),
    (10, 10, 11),  # fire hydrant, category 11
    (12, 11, 12),  # stop sign
    (26, 24, 25),  # backpack
    (89, 79, 80),  # toothbrush
    (91, 80, 0),  # banner
    (181, 170, 0),  # wood
    (255, 255, 0),  # unlabelled
]


@pytest.fixture
def options() -> RunOptions:
    return RunOptions(Console(quiet=True))


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    root = tmp_path / "coco_stuff164k"
    write_mask(root / "annotations/val2017/000000000139.png", [[raw for raw, _, _ in KNOWN]])
    write_image(root / "images/val2017/000000000139.jpg")
    return root


@pytest.mark.parametrize(("target", "column"), [(COCO_STUFF, 1), (COCO_OBJECT, 2)])
def test_known_categories(coco: Path, options: RunOptions, target: Target, column: int) -> None:
    assert convert_coco(coco, None, target, options) == 1
    result = read(coco / f"annotations/val2017/000000000139{target.suffix}")
    assert result.tolist() == [[row[column] for row in KNOWN]]


def test_tables_are_gapless_and_in_order() -> None:
    stuff = COCO_STUFF.table[COCO_STUFF.table != 255]
    assert stuff.tolist() == list(range(171))
    things = COCO_OBJECT.table[COCO_OBJECT.table != 0]
    assert things.tolist() == list(range(1, 81))
    is_thing = COCO_OBJECT.table > 0
    assert np.array_equal(COCO_STUFF.table[is_thing] + 1, COCO_OBJECT.table[is_thing])


def test_converted_masks_are_not_sources(coco: Path, options: RunOptions) -> None:
    convert_coco(coco, None, COCO_STUFF, options)
    convert_coco(coco, None, COCO_OBJECT, options)
    assert convert_coco(coco, None, COCO_OBJECT, options) == 0
    assert [name for name in visible(coco) if name.endswith(".png")] == [
        "annotations/val2017/000000000139.png",
        "annotations/val2017/000000000139_instanceTrainIds.png",
        "annotations/val2017/000000000139_labelTrainIds.png",
    ]


def test_both_splits_and_paletted_maps(coco: Path, options: RunOptions) -> None:
    write_mask(coco / "annotations/train2017/000000000009.png", [[51, 255]], mode="P")
    assert convert_coco(coco, None, COCO_STUFF, options) == 2
    assert read(coco / "annotations/train2017/000000000009_labelTrainIds.png").tolist() == [[46, 255]]


def test_forced(coco: Path, options: RunOptions) -> None:
    convert_coco(coco, None, COCO_STUFF, options)
    target = coco / "annotations/val2017/000000000139_labelTrainIds.png"
    target.write_bytes(b"other")
    with pytest.raises(ItaclipError, match=r"cannot be read as a label map; 1 of 1 .*--force"):
        convert_coco(coco, None, COCO_STUFF, options)
    assert target.read_bytes() == b"other"
    assert convert_coco(coco, None, COCO_STUFF, RunOptions(options.console, force=True)) == 1
    assert read(target).shape == (1, len(KNOWN))


@pytest.mark.parametrize("how", ["link", "copy"])
def test_images_next_to_masks(coco: Path, tmp_path: Path, how: str) -> None:
    out = tmp_path / "coco_object"
    for _ in range(2):
        done = run_script("datasets/cvt_coco_object.py", coco, "-o", out, "--images", how, "--workers", 1)
        assert done.returncode == 0, done.stderr
    assert (out / "annotations/val2017/000000000139_instanceTrainIds.png").is_file()
    assert (out / "images/val2017").is_symlink() == (how == "link")
    image = out / "images/val2017/000000000139.jpg"
    assert image.read_bytes() == (coco / "images/val2017/000000000139.jpg").read_bytes()
    assert not any("instance" in name for name in visible(coco))


def test_link_in_the_way(coco: Path, tmp_path: Path, options: RunOptions) -> None:
    (tmp_path / "out/images/val2017").mkdir(parents=True)
    with pytest.raises(ItaclipError, match="remove it or use --images copy"):
        provide_images(coco, tmp_path / "out", "link", options)


# --- masks of another kind under a converted name -----------------------------


def write_raw(coco: Path, count: int) -> list[Path]:
    """Raw maps of all used values, in shuffled order."""
    values = np.flatnonzero(COCO_OBJECT.table + (COCO_STUFF.table != 255))
    rng = np.random.default_rng(0)
    return [
        write_mask(coco / f"annotations/val2017/{number:012}.png", rng.choice(values, (20, 30)))
        for number in range(1, count + 1)
    ]


@pytest.mark.parametrize("kind", ["raw", "the other target", "of other images", "another size"])
@pytest.mark.parametrize("target", [COCO_STUFF, COCO_OBJECT])
def test_kept_masks_are_compared_with_their_sources(coco: Path, options: RunOptions, target: Target, kind: str) -> None:
    """Names do not tell what a mask contains."""
    raws = write_raw(coco, 6)
    other = COCO_OBJECT if target is COCO_STUFF else COCO_STUFF
    for number, raw in enumerate(raws):
        content = {
            "raw": read(raw), "the other target": other.table[read(raw)],
            "of other images": target.table[read(raws[number - 1])], "another size": target.table[read(raw)][:9],
        }[kind]  # fmt: skip
        write_mask(raw.with_name(raw.stem + target.suffix), content)
    before = {path: path.read_bytes() for path in coco.rglob("*.png")}
    with pytest.raises(ItaclipError, match=r"6 of 6 existing masks .*--force") as caught:
        convert_coco(coco, None, target, options)
    assert ("unconverted" in str(caught.value)) == (kind == "raw")
    assert {path: path.read_bytes() for path in coco.rglob("*.png")} == before
    assert convert_coco(coco, None, target, RunOptions(options.console, force=True)) == 7
    for raw in raws:
        assert np.array_equal(read(raw.with_name(raw.stem + target.suffix)), target.table[read(raw)])


def test_masks_of_other_programs_that_are_right_are_kept(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raws = write_raw(coco, 30)
    for raw in raws:
        write_mask(raw.with_name(raw.stem + COCO_STUFF.suffix), COCO_STUFF.table[read(raw)], "P")
    assert convert_coco(coco, None, COCO_STUFF, RunOptions(Console())) == 1
    assert "1 written, 30 kept (10 of them compared with their sources)" in capsys.readouterr().out


@pytest.mark.parametrize("value", [171, 181, 254])
def test_renamed_raw_maps_without_sources(coco: Path, options: RunOptions, value: int) -> None:
    for raw in (coco / "annotations/val2017").glob("*.png"):
        raw.unlink()
    write_mask(coco / "annotations/val2017/7_labelTrainIds.png", [[0, 3, value]])
    with pytest.raises(ItaclipError, match=rf"contains value {value}, which converted masks do not have.*7\.png"):
        convert_coco(coco, None, COCO_STUFF, options)


@pytest.mark.parametrize("value", [11, 44, 90])
def test_converted_masks_under_raw_names(coco: Path, options: RunOptions, value: int) -> None:
    write_mask(coco / "annotations/val2017/000000000139.png", [[0, value, 255]])
    with pytest.raises(ItaclipError, match=rf"value {value}, which raw maps never have .* converted already"):
        convert_coco(coco, None, COCO_STUFF, options)


# --- bad input ---------------------------------------------------------------


def test_missing_folders(tmp_path: Path) -> None:
    fails_clearly(run_script("datasets/cvt_coco_stuff.py", tmp_path / "none"), str(tmp_path / "none"), "no such folder")
    fails_clearly(run_script("datasets/cvt_coco_stuff.py", tmp_path), "stuffthingmaps_trainval2017.zip")


def test_images_without_out(coco: Path) -> None:
    fails_clearly(run_script("datasets/cvt_coco_object.py", coco, "--images", "link"), "-o")


def test_damaged_png_writes_nothing(coco: Path) -> None:
    whole = coco / "annotations/val2017/000000000139.png"
    write_mask(whole, np.random.default_rng(0).integers(0, 80, (60, 80)))
    whole.write_bytes(whole.read_bytes()[:1500])
    before = visible(coco)
    for workers in (1, 2):
        done = run_script("datasets/cvt_coco_object.py", coco, "--workers", workers)
        fails_clearly(done, str(whole), "cannot be decoded")
        assert visible(coco) == before


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Image.new("RGB", (3, 2)), "mode RGB"),
        (Image.fromarray(np.full((2, 3), 300, np.uint16)), "mode I;16"),
        (Image.fromarray(np.full((2, 3), 200, np.uint8)), "contains value 200"),
    ],
)
def test_invalid_maps(coco: Path, options: RunOptions, picture: Image.Image, message: str) -> None:
    picture.save(coco / "annotations/val2017/000000000139.png")
    with pytest.raises(ItaclipError, match=message):
        convert_coco(coco, None, COCO_STUFF, options)
