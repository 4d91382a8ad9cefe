"""Masks whose colours or grey values stand for classes, converted to masks of class ids."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from preparation_helpers import ROOT, fails_clearly, lines, read, run_script, visible, write_image

from itaclip.errors import ItaclipError
from itaclip.research.preparation import recoding
from itaclip.research.preparation.coding import coding_of, read_entries, value_coding, voc_color
from itaclip.research.preparation.commands.convert_masks import main
from itaclip.research.preparation.commands.new_dataset import main as new_dataset
from itaclip.research.preparation.masks import write_label_map
from itaclip.research.preparation.recoding import RECORD

ROAD, WATER, HOUSE = (128, 64, 128), (0, 0, 255), (200, 10, 10)


def paint(path: Path, ids: NDArray[np.int64], colors: list[tuple[int, int, int]], mode: str = "RGB") -> Path:
    """Write a mask in colours, pixel by pixel: the plain oracle of the conversion."""
    height, width = ids.shape
    image = Image.new("RGB", (width, height))
    for y in range(height):
        for x in range(width):
            image.putpixel((x, y), colors[ids[y, x]])
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if mode == "RGB" else image.convert(mode)).save(path)
    return path


def some_ids(seed: int, classes: int, shape: tuple[int, int] = (9, 14)) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, classes, shape)


def convert(masks: Path, out: Path, *options: str) -> int:
    return main([str(masks), "--out", str(out), "--workers", "1", *options])


FILES = {
    "labelmap.txt": "# label:color_rgb:parts:actions\nwater:0,0,255::\nbackground:0,0,0::\nstreet lamp:9,8,7:a,b:c\n",
    "plain.txt": "0 0 0 background\n0 0 255\twater\n# comment\n\n9, 8, 7, street lamp\n",
    "object.json": '{"background": [0, 0, 0], "water": "#0000ff", "street lamp": [9, 8, 7]}',
    "list.json": '[{"name": "water", "id": 7, "color": "#0000FF", "attributes": []}, {"name": "background",'
                 ' "color": "#000000"}, {"name": "street lamp", "color": "#090807"}]',
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_of_colours(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The background is 0 wherever it stands; the others keep their order."""
    colors = tmp_path / name
    colors.write_text(FILES[name])
    truth = [some_ids(seed, 3) for seed in range(3)]
    for number, ids in enumerate(truth):
        paint(tmp_path / f"masks/{number}.png", ids, [(0, 0, 0), WATER, (9, 8, 7)], ("RGB", "RGBA", "RGB")[number])
    assert convert(tmp_path / "masks", tmp_path / "out", "--colors", str(colors)) == 0
    for number, ids in enumerate(truth):
        found = read(tmp_path / f"out/{number}.png")
        assert found.dtype == np.uint8
        assert np.array_equal(found, ids)
    assert lines(tmp_path / "out/classes.txt") == ["background", "water", "street lamp"]
    assert "--background" in capsys.readouterr().out


def test_the_result_can_be_set_up_at_once(tmp_path: Path) -> None:
    (tmp_path / "labelmap.txt").write_text("road:128,64,128::\nhouse:200,10,10::\nvoid:1,1,1::\n")
    for number in range(3):
        ids = some_ids(number, 3, (8, 8))
        paint(tmp_path / f"data/colors/{number}.png", ids, [ROAD, HOUSE, (1, 1, 1)])
        write_image(tmp_path / f"data/images/{number}.jpg", 8, 8)
    assert convert(tmp_path / "data/colors", tmp_path / "data/ids", "--colors", str(tmp_path / "labelmap.txt")) == 0
    assert set(np.unique(read(tmp_path / "data/ids/0.png"))) == {0, 1, 255}  # void is ignored
    arguments = [str(tmp_path / "data/images"), str(tmp_path / "data/ids"), "--classes",
                 str(tmp_path / "data/ids/classes.txt"), "--name", "town", "--out", str(tmp_path / "set")]  # fmt: skip
    assert new_dataset(ROOT / "configs/base.py", arguments) == 0


def test_a_label_map_without_colours_has_vocs_in_order(tmp_path: Path) -> None:
    """As Datumaro paints them; the first colours of VOC's published list are the oracle."""
    published = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128),
                 (128, 128, 128), (64, 0, 0)]  # fmt: skip
    assert [voc_color(number) for number in range(9)] == published
    assert voc_color(20) == (0, 64, 128)
    assert voc_color(255) == (224, 224, 192)
    (tmp_path / "labelmap.txt").write_text("background:::\nsky:::\nroad surface:::\n")
    assert read_entries(tmp_path / "labelmap.txt") == [
        ("background", (0, 0, 0)), ("sky", (128, 0, 0)), ("road surface", (0, 128, 0)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "colors", "expected"),
    [
        ("voc", [(0, 0, 0), (128, 0, 0), (0, 64, 128), (224, 224, 192)], [0, 1, 20, 255]),
        ("cityscapes", [(128, 64, 128), (119, 11, 32), (0, 0, 0), (150, 120, 90)], [0, 18, 255, 255]),
        ("ade20k", [(0, 0, 0), (120, 120, 120), (6, 230, 230), (92, 0, 255)], [0, 1, 3, 150]),
        ("uavid", [(0, 0, 0), (192, 0, 192), (64, 0, 128), (64, 64, 0)], [0, 3, 3, 6]),
        ("udd5", [(0, 0, 0), (107, 142, 35), (128, 64, 128), (0, 0, 142)], [0, 1, 3, 4]),
    ],
)
def test_colours_of_benchmarks(
    name: str, colors: list[tuple[int, int, int]], expected: list[int], tmp_path: Path
) -> None:
    ids = some_ids(0, 4)
    paint(tmp_path / "masks/a.png", ids, colors)
    assert convert(tmp_path / "masks", tmp_path / "out", "--colors", name) == 0
    assert np.array_equal(read(tmp_path / "out/a.png"), np.array(expected)[ids])


def test_a_colour_that_two_classes_share_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ADE20K's list of colours has one twice."""
    paint(tmp_path / "masks/a.png", some_ids(0, 2), [(140, 140, 140), (120, 120, 120)])
    assert convert(tmp_path / "masks", tmp_path / "out", "--colors", "ade20k") == 1
    assert "road or skyscraper" in capsys.readouterr().out


# --- grey values -------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_binary_masks(mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = some_ids(5, 2)
    paint(tmp_path / "masks/a.png", ids, [(0, 0, 0), (255, 255, 255)], mode)
    if mode == "P":  # white first, as some programs write it
        image = Image.fromarray((1 - ids).astype(np.uint8), "P")
        image.putpalette([255, 255, 255, 0, 0, 0])
        image.save(tmp_path / "masks/a.png")
    assert convert(tmp_path / "masks", tmp_path / "out", "--colors", "binary") == 0
    assert np.array_equal(read(tmp_path / "out/a.png"), ids)
    assert not (tmp_path / "out/classes.txt").exists()
    assert "Write a class file" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "ids"),
    [([0, 255], [0, 1]), ([0, 127, 254], [0, 1, 2]), ([7, 11, 26, 255], [1, 0, 2, 255]), ([0, 60000], [0, 3])],
)
def test_values(values: list[int], ids: list[int], tmp_path: Path) -> None:
    """8 and 16 bits."""
    which = some_ids(1, len(values))
    stored = np.array(values)[which].astype(np.uint16 if max(values) > 255 else np.uint8)
    (tmp_path / "masks").mkdir()
    Image.fromarray(stored).save(tmp_path / "masks/a.png")
    pairs = [f"{value}={number}" for value, number in zip(values, ids, strict=True)]
    assert convert(tmp_path / "masks", tmp_path / "out", "--values", *pairs) == 0
    assert np.array_equal(read(tmp_path / "out/a.png"), np.array(ids)[which])


def test_more_than_255_classes_take_16_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = 300
    colors = [(number % 251, number // 251, 77) for number in range(count)]
    (tmp_path / "c.txt").write_text("".join(f"{r} {g} {b} class {i}\n" for i, (r, g, b) in enumerate(colors)))
    ids = np.arange(count).reshape(15, 20)
    paint(tmp_path / "masks/a.png", ids, colors)
    assert convert(tmp_path / "masks", tmp_path / "out", "--colors", str(tmp_path / "c.txt")) == 0
    found = read(tmp_path / "out/a.png")
    assert np.array_equal(found, ids)
    assert found.max() > 255
    assert "16 bits" in capsys.readouterr().out
    for classes, deep in ((255, False), (256, True)):
        (tmp_path / "c.txt").write_text("".join(f"{i} 0 0 class {i}\n" for i in range(classes)))
        coding = coding_of(str(tmp_path / "c.txt")) if classes < 256 else value_coding([f"{i}={i}" for i in range(257)])
        assert coding.deep == deep


# --- what cannot be converted ------------------------------------------------


def test_one_bad_mask_ends_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown colour, a damaged file and a JPEG beside two good masks."""
    colors = tmp_path / "c.txt"
    colors.write_text("128 64 128 road\n0 0 255 water\n")
    for name in ("a", "b"):
        paint(tmp_path / f"masks/{name}.png", some_ids(1, 2), [ROAD, WATER])
    odd = paint(tmp_path / "masks/odd.png", some_ids(2, 2), [ROAD, WATER])
    with Image.open(odd) as image:
        ImageDraw.Draw(image).rectangle((0, 0, 2, 1), (130, 64, 128))
        image.save(odd)
    (tmp_path / "masks/damaged.png").write_bytes(b"no image")
    paint(tmp_path / "masks/lossy.jpg", some_ids(3, 2), [ROAD, WATER])
    assert convert(tmp_path / "masks", tmp_path / "out", "--colors", str(colors)) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "2 written, 0 kept, 3 failed" in told
    assert "export the masks as PNG" in told
    assert "damaged.png: cannot be decoded" in told
    assert "130,64,128 │ 6 │ 1 │ road │ 2" in told
    assert [name for name in visible(tmp_path / "out") if name.endswith(".png")] == ["a.png", "b.png"]

    (tmp_path / "masks/damaged.png").unlink()
    (tmp_path / "masks/lossy.jpg").unlink()
    before = (tmp_path / "out/a.png").stat().st_mtime_ns
    assert convert(tmp_path / "masks", tmp_path / "out", "--colors", str(colors), "--ignore-unknown") == 0
    assert "1 written, 2 kept, 0 failed" in capsys.readouterr().out
    assert (tmp_path / "out/a.png").stat().st_mtime_ns == before
    assert (read(tmp_path / "out/odd.png")[:2, :3] == 255).all()


@pytest.mark.parametrize("how", ["jpeg", "smooth", "resized"])
def test_blended_colours_are_recognised(how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """PNG files that went through lossy compression, smoothing or resizing."""
    path = paint(tmp_path / "masks/a.png", some_ids(0, 3, (12, 16)), [ROAD, WATER, HOUSE])
    with Image.open(path) as image:
        large = image.resize((160, 120), Image.Resampling.NEAREST)
    if how == "jpeg":
        large.save(tmp_path / "a.jpg", quality=90)
        with Image.open(tmp_path / "a.jpg") as again:
            again.save(path)
    else:
        size = (80, 60) if how == "smooth" else (333, 251)
        large.resize(size, Image.Resampling.BICUBIC).save(path)
    (tmp_path / "c.txt").write_text("128 64 128 road\n0 0 255 water\n200 10 10 house\n")
    assert convert(tmp_path / "masks", tmp_path / "out", "--colors", str(tmp_path / "c.txt")) == 1
    told = capsys.readouterr().out
    assert "compressed with loss, resized or smoothed" in " ".join(told.split())
    assert not list((tmp_path / "out").glob("*.png"))


@pytest.mark.parametrize("kind", ["voc palette", "grey", "bilevel"])
def test_ids_are_not_converted_twice(kind: str, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for number in range(3):
        ids = some_ids(number, 2 if kind == "bilevel" else 5).astype(np.uint8)
        image = Image.fromarray(ids)
        if kind == "voc palette":
            image = Image.fromarray(ids, "P")
            image.putpalette([part for color in map(voc_color, range(256)) for part in color])
        if kind == "bilevel":
            image = Image.fromarray(ids.astype(bool))
        image.save(tmp_path / f"masks/{number}.png")
    with pytest.raises(ItaclipError, match="are class ids already"):
        convert(tmp_path / "masks", tmp_path / "out", "--colors", "binary" if kind == "bilevel" else "voc")
    assert not (tmp_path / "out").exists()


def test_palettes_in_another_order_are_read_by_colour(tmp_path: Path) -> None:
    """Every file with a palette of its own, as programs that save space write them."""
    truth = some_ids(0, 3)
    colors = [ROAD, WATER, HOUSE]
    (tmp_path / "masks").mkdir()
    for number, order in enumerate(([2, 0, 1], [1, 2, 0], [0, 2, 1])):
        image = Image.fromarray(np.argsort(order)[truth].astype(np.uint8), "P")
        image.putpalette([part for label in order for part in colors[label]])
        image.save(tmp_path / f"masks/{number}.png")
    (tmp_path / "c.txt").write_text("128 64 128 road\n0 0 255 water\n200 10 10 house\n")
    assert convert(tmp_path / "masks", tmp_path / "out", "--colors", str(tmp_path / "c.txt")) == 0
    assert all(np.array_equal(read(tmp_path / f"out/{number}.png"), truth) for number in range(3))


# --- places ------------------------------------------------------------------


@pytest.mark.parametrize("out", ["masks", "masks/ids", ".", "link", "other", "file.png"])
def test_nothing_else_is_overwritten(out: str, tmp_path: Path) -> None:
    paint(tmp_path / "masks/a.png", some_ids(0, 2), [ROAD, WATER])
    (tmp_path / "link").symlink_to(tmp_path / "masks")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/a.png").write_bytes(b"somebody's")
    (tmp_path / "file.png").write_bytes(b"somebody's")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ItaclipError, match="--out"):
        convert(tmp_path / "masks", tmp_path / out, "--values", "0=0", "1=1")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_two_conversions_never_mix(tmp_path: Path) -> None:
    paint(tmp_path / "masks/a.png", some_ids(0, 2), [(0, 0, 0), (255, 255, 255)], "L")
    assert convert(tmp_path / "masks", tmp_path / "out", "--values", "0=0", "255=1") == 0
    with pytest.raises(ItaclipError, match="another conversion"):
        convert(tmp_path / "masks", tmp_path / "out", "--values", "0=1", "255=0")
    first = read(tmp_path / "out/a.png")
    assert convert(tmp_path / "masks", tmp_path / "out", "--values", "0=1", "255=0", "--force") == 0
    assert np.array_equal(read(tmp_path / "out/a.png"), 1 - first)
    paint(tmp_path / "more/b.png", some_ids(0, 2), [(0, 0, 0), (255, 255, 255)], "L")
    with pytest.raises(ItaclipError, match="masks of another folder"):
        convert(tmp_path / "more", tmp_path / "out", "--values", "0=1", "255=0", "--force")
    assert json.loads((tmp_path / "out" / RECORD).read_text())["ids"] == {"0": 1, "255": 0}


def test_a_class_file_with_synonyms_is_kept(tmp_path: Path) -> None:
    paint(tmp_path / "masks/a.png", some_ids(0, 2), [ROAD, WATER])
    (tmp_path / "c.txt").write_text("128 64 128 road\n0 0 255 water\n")
    options = (tmp_path / "masks", tmp_path / "out", "--colors", str(tmp_path / "c.txt"))
    assert convert(*options) == 0
    (tmp_path / "out/classes.txt").write_text("road, street\nwater, lake\n")
    assert convert(*options) == convert(*options, "--force") == 0
    assert lines(tmp_path / "out/classes.txt") == ["road, street", "water, lake"]
    (tmp_path / "c.txt").write_text("0 0 255 water\n128 64 128 road\n")
    assert convert(*options, "--force") == 0
    assert lines(tmp_path / "out/classes.txt") == ["water", "road"]


def test_an_interrupted_conversion_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that was forced to other ids: no mask of the earlier conversion is kept."""
    truth = [some_ids(number, 2) for number in range(4)]
    for number, ids in enumerate(truth):
        paint(tmp_path / f"masks/{number}.png", ids, [(0, 0, 0), (255, 255, 255)], "L")
    assert convert(tmp_path / "masks", tmp_path / "out", "--colors", "binary") == 0
    options = ("--values", "0=4", "255=2", "--force")
    written: list[Path] = []

    def stop_after_two(path: Path, labels: NDArray[np.uint8]) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write_label_map(path, labels)

    monkeypatch.setattr(recoding, "write_label_map", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "masks", tmp_path / "out", *options)
    monkeypatch.undo()
    kept = {path: path.stat().st_mtime_ns for path in written}
    assert convert(tmp_path / "masks", tmp_path / "out", *options[:3]) == 0
    for number, ids in enumerate(truth):
        assert np.array_equal(read(tmp_path / f"out/{number}.png"), np.array([4, 2])[ids])
    assert {path: path.stat().st_mtime_ns for path in written} == kept


def test_subfolders_and_names_that_meet(tmp_path: Path) -> None:
    for name in ("north/a.png", "south/a.png", "south/b.bmp"):
        paint(tmp_path / "masks" / name, some_ids(len(name), 2), [ROAD, WATER])
    (tmp_path / "c.txt").write_text("128 64 128 road\n0 0 255 water\n")
    done = run_script("tools/convert_masks.py", tmp_path / "masks", "--colors", tmp_path / "c.txt", "--out",
                      tmp_path / "out", "--workers", 2)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [n for n in visible(tmp_path / "out") if n.endswith(".png")] == ["north/a.png", "south/a.png", "south/b.png"]
    paint(tmp_path / "masks/south/b.png", some_ids(0, 2), [ROAD, WATER])
    fails_clearly(run_script("tools/convert_masks.py", tmp_path / "masks", "--colors", tmp_path / "c.txt", "--out",
                             tmp_path / "out"), "both would become")  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("road:1,2::\n", r"line 1: colour '1,2'; expected three numbers"),
        ("1 2 300 road\n", r"line 1: colour '1,2,300'"),
        ("# only\n\n", "contains no colour"),
        ("1 2 3 road\n1 2 3 way\n", "'road' and 'way' both have the colour 1,2,3"),
        ("1 2 3 road\n1 2 4 road\n", "'road' occurs twice"),
        ("road:1,2,3::\nsky:::\n", "'sky' has no colour"),
        ("road\n", "line 1: 'road'; expected"),
        ("{", "cannot be read as JSON"),
        ('{"road": [1, 2]}', r"entry 0 \(road\): colour '1,2'"),
        ('{"road": "red"}', "colour 'red'"),
        ('{"a": [1, 2, 3], "a": [1, 2, 4]}', "'a' occurs twice"),
        ("[1]", "entry 0: expected"),
        ("void:1,2,3::\n", "contains no class"),
    ],
)
def test_bad_files_of_colours(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text(content)
    with pytest.raises(ItaclipError, match=message):
        coding_of(str(tmp_path / "c.txt"))


def test_bad_usage(tmp_path: Path) -> None:
    for pairs, message in ((["255"], "expected VALUE=ID"), (["1=2", "1=3"], "already has"), (["1=70000"], "0..65535")):
        with pytest.raises(ItaclipError, match=message):
            value_coding(pairs)
    (tmp_path / "masks/SegmentationClass").mkdir(parents=True)
    with pytest.raises(ItaclipError, match="whole archive; pass the folder of its masks"):
        convert(tmp_path / "masks", tmp_path / "out", "--colors", "voc")
    with pytest.raises(ItaclipError, match="contains no image"):
        convert(tmp_path / "masks/SegmentationClass", tmp_path / "out", "--colors", "voc")
    with pytest.raises(ItaclipError, match="expected voc, cityscapes, ade20k, uavid, udd5, binary, or a file"):
        convert(tmp_path / "masks", tmp_path / "out", "--colors", "vok")
