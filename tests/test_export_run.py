"""`itaclip export`: results of `segment` and `label` for other programs, read back by datumaro and supervision."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tracemalloc
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as rle
from test_export import filled

from itaclip import ItaclipError, Segmenter
from itaclip.apps.collection.locations import Location
from itaclip.apps.collection.store import Part, Store, part_bytes, run_digest
from itaclip.apps.collection.units import Unit
from itaclip.apps.command.main import main
from itaclip.apps.export.cvat import run_lengths
from itaclip.apps.export.run import FORMATS, export_run
from itaclip.apps.export.yolo import joined
from itaclip.apps.folders.finding import find_items
from itaclip.apps.folders.folder import segment_folder
from itaclip.common.figures import save_mask
from itaclip.common.figures.palette import palette
from itaclip.formats.polygons import polygons_of

Labels = NDArray[np.int32]


def ring(height: int, width: int, label: int) -> Labels:
    """A ring with a hole, and a second part that lies in the hole."""
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(x - width / 2, y - height / 2)
    labels = np.zeros((height, width), np.int32)
    labels[(distance < height * 0.45) & (distance > height * 0.25)] = label
    labels[distance < height * 0.1] = label
    return labels


def many(classes: int) -> Labels:
    """Every class in a block of its own."""
    return np.repeat(np.repeat(np.arange(classes, dtype=np.int32).reshape(10, -1), 3, axis=0), 4, axis=1)


def noise(seed: int, classes: int, height: int, width: int) -> Labels:
    return np.random.default_rng(seed).integers(0, classes, (height, width)).astype(np.int32)


RUNS: dict[str, tuple[list[str], bool, dict[str, Labels]]] = {
    "rings, with a background": (
        ["background", "wheel", "traffic light"], True,
        {"a.jpg": ring(60, 80, 1), "deep/down/b.png": ring(41, 37, 2), "nothing.png": np.zeros((9, 7), np.int32)},
    ),
    "noise, without a background": (["Straße", "a < b & \"c\""], False, {"x y.webp": noise(0, 2, 20, 31)}),
    "300 classes": ([f"class {i}" for i in range(300)], False, {"all.tif": many(300)}),
    "a row, a column, a pixel": (
        ["background", "line"], True,
        {"row.png": noise(1, 2, 1, 40), "column.png": noise(2, 2, 40, 1), "pixel.png": np.ones((1, 1), np.int32)},
    ),
}  # fmt: skip


def write_segmented(folder: Path, names: list[str], background: bool, images: dict[str, Labels]) -> Path:
    """A folder as `itaclip segment` writes it."""
    lines = []
    for name, labels in images.items():
        mask = Path("masks") / Path(name).with_suffix(".png")
        (folder / mask).parent.mkdir(parents=True, exist_ok=True)
        save_mask(labels, palette(len(names)), folder / mask)
        size = {"height": labels.shape[0], "width": labels.shape[1]}
        lines.append(json.dumps({"image": name, **size, "areas": {}, "mask": mask.as_posix()}))
    (folder / "results.jsonl").write_text("\n".join([*lines, ""]))
    key = {"weights": "", "every": 1, "classes": [[name] for name in names], "background": background}
    (folder / "run.json").write_text(json.dumps(key))
    return folder


def write_labelled(folder: Path, names: list[str], background: bool, images: dict[str, Labels]) -> Path:
    """A folder as `itaclip label` writes it."""
    key = {"classes": [[name] for name in names], "background": background}
    store = Store(Location(str(folder)))
    plan = store.write_plan([Unit("", 0, tuple(name.encode() for name in images), (), len(images))])
    store.write_run(key, plan)
    rows = []
    for name, labels in images.items():
        segments = []
        for label in np.unique(labels).tolist():
            mask = labels == label
            counts = rle.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
            segments.append(dict(id=label, name=names[label], area=int(mask.sum()), share=float(mask.mean()),
                                 score=0.25 + label / 1000, rle=counts))  # fmt: skip
        rows.append(dict(key=name, height=labels.shape[0], width=labels.shape[1], segments=segments, error=None))
    part = store.name_of(Part(0, 0, True), run_digest(key, plan))
    store.write_part(part, part_bytes(rows, json.dumps({"names": names})), None)
    return folder


def datumaro(format: str, folder: Path, out: Path) -> dict[str, NDArray[np.generic]]:
    """What datumaro reads from an export: masks by ``IMAGE|CLASS``, and "classes"."""
    programs = "Scripts" if os.name == "nt" else "bin"
    python = os.environ.get("DATUMARO_PYTHON") or Path(sys.prefix) / "datumaro" / programs / "python"
    if not Path(python).exists():
        pytest.skip("datumaro's environment is missing; `make test` makes it")
    script = Path(__file__).with_name("read_with_datumaro.py")
    command = [str(python), str(script), format, str(folder), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with np.load(out) as found:
        return dict(found)


def expected_masks(run: str) -> dict[str, NDArray[np.bool_]]:
    names, background, images = RUNS[run]
    return {
        f"{Path(name).with_suffix('').as_posix()}|{names[label]}": labels == label
        for name, labels in images.items()
        for label in np.unique(labels).tolist()
        if not (background and label == 0)
    }


def same(found: dict[str, NDArray[np.generic]], expected: dict[str, NDArray[np.bool_]]) -> None:
    found = {name: mask for name, mask in found.items() if name != "classes" and not name.endswith("|background")}
    assert found.keys() == expected.keys()
    for name, mask in expected.items():
        np.testing.assert_array_equal(found[name], mask, err_msg=name)


# --- read back by datumaro ---------------------------------------------------

READERS = {"cvat": "voc_segmentation", "voc": "voc_segmentation", "cvat-images": "cvat", "coco": "coco_instances"}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("format", READERS)
def test_datumaro_reads_every_class_and_pixel(run: str, format: str, tmp_path: Path) -> None:
    names, background, images = RUNS[run]
    export_run(write_segmented(tmp_path / "run", names, background, images), format, tmp_path / "archive.zip")
    with zipfile.ZipFile(tmp_path / "archive.zip") as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "read")
    if format == "coco":  # datumaro asks for COCO's own names
        (tmp_path / "read/annotations").mkdir()
        (tmp_path / "read/annotations.json").rename(tmp_path / "read/annotations/instances_train.json")
    for name, labels in images.items():  # it wants the images beside the annotations
        path = tmp_path / "read/images" / ("train" if format == "coco" else "") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", labels.shape[::-1]).save(path)
    found = datumaro(READERS[format], tmp_path / "read", tmp_path / "found.npz")
    assert set(names[background:]) <= set(found["classes"].tolist())
    same(found, expected_masks(run))


# --- read back otherwise -----------------------------------------------------


@pytest.mark.parametrize("run", list(RUNS)[:3])
@pytest.mark.parametrize("format", ["voc", "cvat-images", "coco"])
def test_segment_and_label_give_the_same_archives(run: str, format: str, tmp_path: Path) -> None:
    for write in (write_segmented, write_labelled):
        folder = write(tmp_path / write.__name__, *RUNS[run])
        export_run(folder, format, tmp_path / f"{write.__name__}.{format}")
    ours, theirs = (
        {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / f"{write.__name__}.{format}" for write in (write_segmented, write_labelled))
    )
    if format == "coco":
        plain, scored = (json.loads(files["annotations.json"]) for files in (ours, theirs))
        scores = [annotation.pop("score") for annotation in scored["annotations"]]
        assert scores
        assert min(scores) >= 0.25
        assert plain == scored
    else:
        assert ours == theirs


@pytest.mark.parametrize("run", RUNS)
def test_voc_masks_hold_class_ids_and_the_colours_of_the_list(run: str, tmp_path: Path) -> None:
    names, background, images = RUNS[run]
    export_run(write_segmented(tmp_path / "run", names, background, images), "voc", tmp_path / "voc")
    lines = (tmp_path / "voc/labelmap.txt").read_text(encoding="utf-8").splitlines()[1:]
    colors = [tuple(map(int, line.split(":")[1].split(","))) for line in lines]
    assert len(set(colors)) == len(names)
    assert (colors[0] == (0, 0, 0)) == background
    for name, labels in images.items():
        with Image.open(tmp_path / "voc/SegmentationClass" / Path(name).with_suffix(".png")) as opened:
            np.testing.assert_array_equal(np.asarray(opened.convert("RGB")), np.array(colors, np.uint8)[labels])
            if len(names) <= 256:
                np.testing.assert_array_equal(np.asarray(opened), labels)


@pytest.mark.parametrize("run", RUNS)
def test_yolo_polygons_fill_the_classes_and_not_their_holes(run: str, tmp_path: Path) -> None:
    names, background, images = RUNS[run]
    folder = write_segmented(tmp_path / "run", names, background, images)
    export_run(folder, "yolo", tmp_path / "yolo", tolerance=0)
    for name, labels in images.items():
        height, width = labels.shape
        seen = np.full((height, width), -1)
        for line in (tmp_path / "yolo/labels" / Path(name).with_suffix(".txt")).read_text().splitlines():
            number, *shares = line.split()
            corners = np.array(shares, float).reshape(-1, 2) * (width, height)
            inside = filled([[corners]], (height, width))
            assert (seen[inside] == -1).all()
            seen[inside] = int(number) + background
        np.testing.assert_array_equal(seen, np.where(background & (labels == 0), -1, labels))


def test_supervision_reads_yolo(tmp_path: Path) -> None:
    import supervision

    names, background, images = RUNS["rings, with a background"]
    export_run(write_segmented(tmp_path / "run", names, background, images), "yolo", tmp_path / "yolo", tolerance=0)
    (tmp_path / "yolo/images").mkdir()
    Image.new("RGB", (80, 60)).save(tmp_path / "yolo/images/a.jpg")
    root = tmp_path / "yolo"
    dataset = supervision.DetectionDataset.from_yolo(
        str(root / "images"), str(root / "labels"), str(root / "data.yaml"), force_masks=True
    )
    assert dataset.classes == ["wheel", "traffic light"]
    ((_, _, found),) = list(dataset)
    mask = np.asarray(found.mask).any(axis=0)
    expected = images["a.jpg"] == 1
    assert (mask ^ expected).mean() < 0.06  # it counts every pixel that an outline touches
    assert not mask[30, 80 // 2 + 10]  # inside the hole
    assert mask[30, 40]  # the part inside the hole


@pytest.mark.parametrize("seed", range(4))
def test_joined_outlines_enclose_the_same_area(seed: int) -> None:
    mask = np.random.default_rng(seed).random((12, 15)) < 0.75
    for polygon in polygons_of(mask, 0):
        x, y = joined(polygon).astype(float).T
        area = float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)
        wanted = sum(cv2.contourArea(corners, oriented=True) for corners in polygon)
        assert area == wanted


@pytest.mark.parametrize("row", ["0110", "1", "0", "1001", "000111"])
def test_run_lengths_start_with_zeros(row: str) -> None:
    mask = np.array([[letter == "1" for letter in row]])
    runs = run_lengths(mask)
    assert "".join(str(i % 2) * length for i, length in enumerate(runs)) == row


@pytest.mark.parametrize("format", FORMATS)
def test_a_run_of_segment_becomes_an_archive(
    format: str, quick: Segmenter, demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vocabulary = quick.prepare(["cloud", "house", "balloon"])
    items = find_items([demo_root / f"JPEGImages/scene_00{n}.jpg" for n in range(2)])
    segment_folder(quick, vocabulary, items, tmp_path / "run", overlays=False)
    assert main(["export", str(tmp_path / "run"), "--format", format, "--out", str(tmp_path / "a.zip"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 2
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    if format == "cvat-images":
        found = ET.fromstring(content["annotations.xml"])
        assert [image.get("name") for image in found.iter("image")] == ["scene_000.jpg", "scene_001.jpg"]
        assert {mask.get("label") for mask in found.iter("mask")} <= {"cloud", "house", "balloon"}
    elif format == "coco":
        assert {one["file_name"] for one in json.loads(content["annotations.json"])["images"]} == {
            "scene_000.jpg", "scene_001.jpg"
        }  # fmt: skip
    else:
        assert sum("scene_00" in name for name in content) == 2


# --- videos, bad input, memory -----------------------------------------------


def test_frames_of_videos_are_images(tmp_path: Path) -> None:
    folder = write_segmented(tmp_path / "run", ["background", "wheel"], True, {"clip.mp4/000000": ring(20, 20, 1)})
    (folder / "masks/clip.mp4/000004.png").write_bytes((folder / "masks/clip.mp4/000000.png").read_bytes())
    line = {"image": "clip.mp4", "frames": 2, "every": 4, "height": 20, "width": 20, "mask": "masks/clip.mp4"}
    (folder / "results.jsonl").write_text(json.dumps(line) + "\n")
    assert export_run(folder, "voc", tmp_path / "voc").images == 2
    assert (tmp_path / "voc/ImageSets/Segmentation/train.txt").read_text().split() == [
        "clip.mp4/000000", "clip.mp4/000004"
    ]  # fmt: skip
    (folder / "masks/clip.mp4/000004.png").unlink()
    report = export_run(folder, "voc", tmp_path / "voc2")
    assert (report.images, report.failed) == (1, {"clip.mp4": "1 masks for 2 frames"})


def break_mask(folder: Path) -> str:
    (folder / "masks/a.png").write_bytes(b"not a png")
    return "cannot be read"


def drop_mask(folder: Path) -> str:
    (folder / "masks/a.png").unlink()
    return "No such file"


def shrink_mask(folder: Path) -> str:
    save_mask(np.zeros((5, 5), np.int32), palette(3), folder / "masks/a.png")
    return r"has shape \(5, 5\), expected 60 x 80"


def foreign_mask(folder: Path) -> str:
    save_mask(np.full((60, 80), 9, np.int32), palette(10), folder / "masks/a.png")
    return "has class 9, but the run has 3 classes"


def failed_line(folder: Path) -> str:
    with (folder / "results.jsonl").open("a") as lines:
        lines.write(json.dumps({"image": "new.jpg", "error": "damaged"}) + "\n")
    return "damaged"


@pytest.mark.parametrize("spoil", [break_mask, drop_mask, shrink_mask, foreign_mask, failed_line])
@pytest.mark.parametrize("format", ["cvat", "yolo", "coco"])
def test_a_bad_image_is_reported_and_the_others_are_exported(
    spoil: Callable[[Path], str], format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_segmented(tmp_path / "run", *RUNS["rings, with a background"])
    reason = spoil(folder)
    images = 3 if spoil is failed_line else 2
    assert main(["export", str(folder), "--format", format, "--out", str(tmp_path / "out")]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{images} images in" in shown
    assert re.search(reason, shown)


@pytest.mark.parametrize(
    ("names", "images", "format", "message"),
    [
        (["a:b"], ["x.jpg"], "cvat", "labelmap.txt cannot hold"),
        (["#a"], ["x.jpg"], "voc", "labelmap.txt cannot hold"),
        (["a"], ["x.jpg", "x.png"], "yolo", None),
        (["a"], ["../x.jpg"], "voc", "contains no image with labels"),
        (["a"], [], "coco", "contains no image with labels"),
    ],
)
def test_what_a_format_cannot_hold(
    names: list[str], images: list[str], format: str, message: str | None, tmp_path: Path
) -> None:
    labels = {name: np.zeros((3, 4), np.int32) for name in images}
    folder = write_labelled(tmp_path / "run", names, False, labels)
    if message is None:
        report = export_run(folder, format, tmp_path / "out")
        assert report.images == 1
        assert "differ only in their extension" in report.failed["x.png"]
        return
    with pytest.raises(ItaclipError, match=message):
        export_run(folder, format, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]  # nothing half-written


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    folder = write_segmented(tmp_path / "run", *RUNS["rings, with a background"])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (tmp_path / "old.zip").write_bytes(b"old")
    for out in (folder, folder / "masks", tmp_path / "old.zip"):
        with pytest.raises(ItaclipError, match="exists already; remove it"):
            export_run(folder, "voc", out)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert (tmp_path / "old.zip").read_bytes() == b"old"


@pytest.mark.parametrize("make", ["nothing", "a file", "results without run.json"])
def test_a_folder_without_results(make: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    if make == "a file":
        folder.write_text("")
    elif make != "nothing":
        folder.mkdir()
        (folder / "results.jsonl").write_text("")
    with pytest.raises(ItaclipError, match=r"no results.*pass the --out of `itaclip segment`"):
        export_run(folder, "voc", tmp_path / "out")


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), -0.001])
def test_a_bad_tolerance(tolerance: float, tmp_path: Path) -> None:
    folder = write_segmented(tmp_path / "run", *RUNS["rings, with a background"])
    with pytest.raises(ItaclipError, match="tolerance = "):
        export_run(folder, "yolo", tmp_path / "out", tolerance)


@pytest.mark.parametrize("format", FORMATS)
def test_memory_does_not_grow_with_the_number_of_images(format: str, tmp_path: Path) -> None:
    labels = ring(300, 400, 1)
    peaks = []
    for count in (3, 3, 30):  # the first time loads modules
        images = {f"{n:04d}.jpg": labels for n in range(count)}
        folder = write_labelled(tmp_path / f"run{len(peaks)}", ["background", "wheel"], True, images)
        tracemalloc.start()
        export_run(folder, format, tmp_path / f"out{len(peaks)}.zip")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + labels.nbytes
