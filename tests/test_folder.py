"""Many files: names, batches, resuming after any crash, bad files, videos."""

from __future__ import annotations

import contextlib
import glob
import io
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from processes import Program, limit_files, run_python, start_python
from pycocotools.coco import COCO

from itaclip import ItaclipError, Segmenter
from itaclip.apps.folders.batches import write_behind
from itaclip.apps.folders.finding import find_items
from itaclip.apps.folders.folder import segment_folder
from itaclip.apps.folders.journal import read_lines
from itaclip.vocabulary import Vocabulary


@pytest.fixture(scope="session")
def words(quick: Segmenter) -> Vocabulary:
    return quick.prepare(["car, taxi", "cloud", "tree"])


@pytest.fixture
def photos(tmp_path: Path, demo_root: Path) -> Path:
    """Seven small images in two folders, some with problematic names."""
    rng = np.random.default_rng(0)
    root = tmp_path / "photos"
    for name in ("a.jpg", "a.png", "b c.jpg", "ünï.png", "sub/a.jpg", "sub/d.PNG", "[x].jpg"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)).save(path)
    (root / "notes.txt").write_text("no image")
    return root


def contents(out: Path) -> dict[str, Any]:
    """Masks and lines, by name."""
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted((out / "masks").rglob("*.png"))} | read_lines(out)


def test_every_file_gets_a_unique_name(photos: Path) -> None:
    items = find_items([photos])
    names = [item.name for item in items]
    assert names == ["[x].jpg", "a.jpg", "a.png", "b c.jpg", "sub/a.jpg", "sub/d.PNG", "ünï.png"]
    assert [item.stem for item in items] == ["[x]", "a", "a.png", "b c", "sub/a", "sub/d", "ünï"]
    assert [item.name for item in find_items([photos / "*.png"])] == ["a.png", "ünï.png"]
    assert [item.name for item in find_items([photos / "[x].jpg"])] == ["[x].jpg"]  # not a pattern
    assert len(find_items([photos, photos / "a.jpg"])) == 7  # listed twice, processed once


# --- names and results of earlier runs -----------------------------------------


def hub_cache(root: Path) -> Path:
    """Names that link to files named by a hash, two of them to the same one."""
    blobs, snapshot = root / "hub/blobs", root / "hub/snapshots/1f"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(blobs / "0a1b", "PNG")
    for name in ("cat.png", "dog.png"):
        (snapshot / name).symlink_to("../../blobs/0a1b")
    return snapshot


def linked_folder(root: Path) -> Path:
    """A folder under another name."""
    (root / "disk/1").mkdir(parents=True)
    for name in ("cat.png", "dog.png"):
        Image.new("RGB", (9, 9)).save(root / "disk/1" / name)
    (root / "photos").symlink_to("disk/1", target_is_directory=True)
    return root / "photos"


def hard_links(root: Path) -> Path:
    """Two names of one file."""
    (root / "photos").mkdir()
    Image.new("RGB", (9, 9)).save(root / "photos/cat.png")
    (root / "photos/dog.png").hardlink_to(root / "photos/cat.png")
    return root / "photos"


@pytest.mark.parametrize("layout", [hub_cache, linked_folder, hard_links])
def test_names_are_those_given_whatever_they_link_to(
    layout: Callable[[Path], Path], quick: Segmenter, words: Vocabulary, tmp_path: Path
) -> None:
    folder = layout(tmp_path)
    items = find_items([folder])
    assert [(item.name, item.stem) for item in items] == [("cat.png", "cat"), ("dog.png", "dog")]
    assert [item.name for item in find_items([f"{folder}/*.png"])] == ["cat.png", "dog.png"]
    real = folder.resolve()
    twice = [folder, folder / "cat.png", real / "dog.png", real / ".." / real.name / "cat.png"]
    assert [item.path.name for item in find_items(twice)] == ["cat.png", "dog.png"]  # one path in four spellings
    segment_folder(quick, words, items, tmp_path / "out")
    assert set(read_lines(tmp_path / "out")) == {"cat.png", "dog.png"}


def test_a_broken_link_is_reported(quick: Segmenter, words: Vocabulary, photos: Path, tmp_path: Path) -> None:
    (photos / "gone.jpg").symlink_to("nowhere.jpg")
    report = segment_folder(quick, words, find_items([photos]), tmp_path / "out", overlays=False)
    assert "gone.jpg: no such file" in report.failed["gone.jpg"]
    assert report.done == 7


@pytest.mark.parametrize("out", ["labelled", "sub/deep/out", "."])
def test_the_same_command_again_takes_no_results(
    out: str, quick: Segmenter, words: Vocabulary, photos: Path, video: Path
) -> None:
    """Masks, overlays and overlay videos of this and of earlier runs, below the source or beside its images."""
    shutil.move(video, photos / "clip.avi")
    first = find_items([photos])
    assert len(first) == 8
    segment_folder(quick, words, first, photos / out, every=3)
    segment_folder(quick, words, first[:2], photos / "sub/earlier", every=3)  # another run's
    told: list[str] = []
    assert find_items([photos], told.append) == first
    assert all(line.startswith("skipped: ") and line.endswith("(results of an earlier run)") for line in told)
    assert {line.split()[1] for line in told} == {
        str(photos / folder / kind) for folder in (out, "sub/earlier") for kind in ("masks", "overlays")
    }
    for pattern in ("**/*.jpg", "**/*.png", "**/*.mp4"):
        found = glob.glob(f"{photos}/{pattern}", recursive=True)  # noqa: PTH207
        assert len(found) > len([item for item in first if Path(item.name).match(pattern)])
        if pattern != "**/*.mp4":
            assert {item.path for item in find_items([f"{photos}/{pattern}"])} <= {item.path for item in first}
    report = segment_folder(quick, words, find_items([photos]), photos / out, every=3)
    assert (report.kept, report.done) == (8, 0)


@pytest.mark.parametrize("entry", ["out/masks", "out/overlays", "out/**/*.png", "out/masks/a.png", "link"])
def test_nothing_but_results(entry: str, quick: Segmenter, words: Vocabulary, photos: Path, tmp_path: Path) -> None:
    segment_folder(quick, words, find_items([photos]), tmp_path / "out")
    (tmp_path / "link").symlink_to("out/masks", target_is_directory=True)
    with pytest.raises(ItaclipError, match=r"holds nothing but results of an earlier run \(.*out/(masks|overlays)"):
        find_items([tmp_path / entry])
    with pytest.raises(ItaclipError, match=r"nowhere: no file or folder matches"):
        find_items([tmp_path, tmp_path / "nowhere"])
    shutil.copytree(tmp_path / "out/masks", tmp_path / "copied/masks")  # a folder of the user's, not a run's
    assert len(find_items([tmp_path / "copied"])) == 7


def test_hidden_files_are_no_images(photos: Path) -> None:
    for name in ("._a.jpg", "__MACOSX/a.jpg", ".ipynb_checkpoints/a-checkpoint.png", "sub/@eaDir/a.jpg"):
        (photos / name).parent.mkdir(exist_ok=True)
        shutil.copy(photos / "a.jpg", photos / name)
    assert len(find_items([photos])) == 7
    assert len(find_items([f"{photos}/**/*.jpg"])) == 4
    assert [item.name for item in find_items([photos / "._a.jpg"])] == ["._a.jpg"]  # named


@pytest.mark.parametrize(
    ("entry", "message"),
    [("nowhere", "no file or folder matches"), ("*.gif", "no file or folder matches"), ("empty", "no image or video")],
)
def test_inputs_that_match_nothing(tmp_path: Path, entry: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ItaclipError, match=message):
        find_items([tmp_path / entry])


def test_masks_equal_the_api_s_and_one_bad_file_does_not_stop_the_run(
    quick: Segmenter, words: Vocabulary, photos: Path, tmp_path: Path
) -> None:
    (photos / "broken.jpg").write_bytes((photos / "a.jpg").read_bytes()[:300])
    items = find_items([photos])
    report = segment_folder(quick, words, items, tmp_path / "out", batch=3)
    assert (report.done, report.kept, list(report.failed)) == (7, 0, ["broken.jpg"])
    lines = read_lines(tmp_path / "out")
    assert "damaged" in lines["broken.jpg"]["error"]
    for item in items:
        if item.name != "broken.jpg":
            with Image.open(tmp_path / "out/masks" / f"{item.stem}.png") as mask:
                np.testing.assert_array_equal(np.asarray(mask), quick(item.path, words).labels)
            assert (tmp_path / "out" / lines[item.name]["overlay"]).is_file()
            assert sum(lines[item.name]["areas"].values()) == pytest.approx(1, abs=1e-4)

    Image.new("RGB", (30, 30)).save(photos / "broken.jpg")  # repaired: only this one is processed
    again = segment_folder(quick, words, items, tmp_path / "out", batch=3)
    assert (again.done, again.kept, again.failed) == (1, 7, {})
    assert "error" not in read_lines(tmp_path / "out")["broken.jpg"]


def test_an_interrupted_run_resumes(quick: Segmenter, words: Vocabulary, photos: Path, tmp_path: Path) -> None:
    items = find_items([photos])
    segment_folder(quick, words, items, tmp_path / "whole", batch=2)
    seen = 0

    def interrupt(count: int) -> None:
        nonlocal seen
        seen += count
        if seen >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_folder(quick, words, items, tmp_path / "out", batch=2, advance=interrupt)
    with (tmp_path / "out/results.jsonl").open("ab") as file:
        file.write('{"image": "ü'.encode()[:-1])  # cut in the middle of a character
    report = segment_folder(quick, words, items, tmp_path / "out", batch=2)
    assert (report.kept, report.done) == (4, 3)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not list((tmp_path / "out").rglob(".*"))  # no leftovers


def test_a_batch_is_written_while_the_next_is_made() -> None:
    """The second batch is made only once the first is being written: one after the other, neither would end."""
    writing, made = threading.Event(), threading.Event()

    def batches() -> Iterator[tuple[list[str], list[int]]]:
        yield ["a", "b"], [1, 2]
        assert writing.wait(20)
        made.set()
        yield ["c"], [3]

    def write(name: str, number: int) -> str:
        writing.set()
        assert made.wait(20)
        return f"{name}{number}"

    assert list(write_behind(write, batches())) == [(["a", "b"], ["a1", "b2"]), (["c"], ["c3"])]


def test_what_writing_raises_ends_the_run_and_the_rest_is_not_written() -> None:
    written: list[int] = []

    def write(name: str, number: int) -> None:
        if number == 2:
            raise ItaclipError("no space left")
        written.append(number)

    batches = ((["a", "b", "c"], [first, first + 1, first + 2]) for first in range(1, 30, 3))
    with pytest.raises(ItaclipError, match="no space left"):
        list(write_behind(write, batches))
    assert 1 in written
    assert len(written) < 10


def test_a_deleted_mask_is_created_again(quick: Segmenter, words: Vocabulary, photos: Path, tmp_path: Path) -> None:
    items = find_items([photos])
    segment_folder(quick, words, items, tmp_path / "out")
    (tmp_path / "out/masks/sub/a.png").unlink()
    assert segment_folder(quick, words, items, tmp_path / "out").done == 1
    assert (tmp_path / "out/masks/sub/a.png").is_file()
    assert len((tmp_path / "out/results.jsonl").read_text().splitlines()) == 7


def test_different_settings_never_mix(quick: Segmenter, words: Vocabulary, photos: Path, tmp_path: Path) -> None:
    items = find_items([photos])
    segment_folder(quick, words, items, tmp_path / "out")
    other = quick.prepare(["car"])
    with pytest.raises(ItaclipError, match=r"results of another run \(different classes\)"):
        segment_folder(quick, other, items, tmp_path / "out")
    assert segment_folder(quick, other, items, tmp_path / "out", overwrite=True).done == 7
    assert set(read_lines(tmp_path / "out")["a.jpg"]["areas"]) <= {"background", "car"}


def cli(*arguments: str | Path, **options: Any) -> Program:
    return start_python("-m", "itaclip", *arguments, **options)


QUICK = ("--model", "demo", "--quality", "fast", "--set", "pamr_steps=0", "--classes", "car; cloud; tree")


def test_killed_at_any_moment_nothing_is_lost(demo_root: Path, tmp_path: Path) -> None:
    """After SIGKILL half-way, everything recorded as done is complete, and the next run finishes."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(40):
        shutil.copy(demo_root / f"JPEGImages/scene_00{i % 4}.jpg", photos / f"{i:02d}.jpg")
    out = tmp_path / "out"
    running = cli("segment", photos, "--out", out, *QUICK, "--batch", "2", "--no-overlays")
    deadline = time.monotonic() + 400
    while len(read_lines(out) if out.exists() else ()) < 6 and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    done = read_lines(out)
    assert 6 <= len(done) < 40
    for line in done.values():
        with Image.open(out / line["mask"]) as mask:
            mask.load()
    # at most one batch of masks lacks its lines
    assert len(list((out / "masks").glob("[0-9]*.png"))) - len(done) <= 2
    finishing = cli("segment", photos, "--out", out, *QUICK, "--batch", "2", "--no-overlays", "--json")
    printed, _ = finishing.communicate()
    assert finishing.returncode == 0
    summary = json.loads(printed)
    assert summary["kept"] == len(done)
    assert summary["done"] == 40 - len(done)


def test_two_processes_cannot_write_the_same_folder(
    quick: Segmenter, words: Vocabulary, photos: Path, tmp_path: Path
) -> None:
    items = find_items([photos])

    def second(_: int) -> None:
        process = cli("segment", photos, "--out", tmp_path / "out", *QUICK)
        _, errors = process.communicate()
        assert process.returncode == 2
        assert "in use by another process" in errors
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_folder(quick, words, items, tmp_path / "out", advance=second)


def test_a_full_disk_stops_the_run_and_leaves_no_partial_file(photos: Path, tmp_path: Path) -> None:
    """Files are limited to 3,000 bytes, so the overlay cannot be written."""
    big = tmp_path / "big"
    big.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)).save(big / "x.png")
    process = cli(
        "segment", big, "--out", tmp_path / "out", *QUICK, "--no-text-cache", before=partial(limit_files, 3000)
    )
    _, errors = process.communicate()
    assert process.returncode == 2, errors
    assert "cannot be written" in errors
    assert "Traceback" not in errors
    assert not list((tmp_path / "out").rglob("*.jpg"))
    assert not list((tmp_path / "out").rglob(".*"))
    assert read_lines(tmp_path / "out") == {}


@pytest.mark.slow
def test_memory_stays_flat(demo_root: Path, tmp_path: Path) -> None:
    """Fifty images need no more memory than ten."""
    program = """
import resource, sys
from itaclip import Segmenter
from itaclip.apps.folders.finding import Item
from itaclip.apps.folders.folder import segment_folder
from pathlib import Path
segmenter = Segmenter("demo", "fast", pamr_steps=0)
vocabulary = segmenter.prepare(["tartan", "clouds"])
path = Path(sys.argv[1])
peaks = []
for count in (10, 40):
    items = [Item(path, f"{count}_{i}.jpg", f"{count}_{i}") for i in range(count)]
    segment_folder(segmenter, vocabulary, items, Path(sys.argv[2]), overlays=False)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(*peaks)
"""
    found = run_python("-c", program, demo_root / "JPEGImages/scene_000.jpg", tmp_path / "out")
    first, second = map(int, found.stdout.split())
    assert second < first * 1.05


# --- videos ------------------------------------------------------------------


@pytest.fixture
def video(tmp_path: Path, demo_root: Path) -> Path:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    frame = cv2.imread(str(demo_root / "JPEGImages/scene_002.jpg"))
    for i in range(7):
        writer.write(np.ascontiguousarray(frame[i : i + 64, i : i + 96]))
    writer.release()
    return path


def test_a_video_gets_a_mask_per_frame_and_an_overlay(
    quick: Segmenter, words: Vocabulary, video: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    report = segment_folder(quick, words, find_items([video]), out, every=2, batch=3)
    assert report.done == 1
    line = read_lines(out)["clip.avi"]
    assert (line["frames"], line["height"], line["width"]) == (4, 64, 96)
    masks = sorted((out / line["mask"]).iterdir())
    assert [mask.name for mask in masks] == ["000000.png", "000002.png", "000004.png", "000006.png"]
    capture = cv2.VideoCapture(str(out / line["overlay"]))
    frames = 0
    while capture.read()[0]:
        frames += 1
    assert frames == 4

    # on resuming, only the missing frame is segmented
    os.truncate(out / "results.jsonl", 0)
    masks[1].unlink()
    times = {mask: mask.stat().st_mtime_ns for mask in masks if mask.exists()}
    segment_folder(quick, words, find_items([video]), out, every=2, batch=3)
    assert all(mask.stat().st_mtime_ns == then for mask, then in times.items())
    assert masks[1].is_file()


def recorded(path: Path, codec: str, frames: int = 60) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 15, (96, 64))
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    for i in range(frames):
        writer.write(np.roll(noise, i, axis=1))
    writer.release()
    return path


def with_index_first(path: Path) -> Path:
    """An MP4 or MOV file as servers send it: the index before the frames, with its offsets moved."""
    content = path.read_bytes()
    at = content.index(b"moov") - 4
    size = int.from_bytes(content[at : at + 4], "big")
    index, begin = bytearray(content[at : at + size]), content.index(b"mdat") - 4
    table = index.index(b"stco") + 8
    for n in range(int.from_bytes(index[table : table + 4], "big")):
        where = table + 4 + 4 * n
        moved = int.from_bytes(index[where : where + 4], "big") + size
        index[where : where + 4] = moved.to_bytes(4, "big")
    path.write_bytes(content[:begin] + index + content[begin:at] + content[at + size :])
    return path


def with_hidden_frames(path: Path) -> Path:
    """An MP4 file whose edit list shows its first third, as telephones trim videos."""
    content = bytearray(path.read_bytes())
    at = content.index(b"elst") + 12
    content[at : at + 4] = (int.from_bytes(content[at : at + 4], "big") // 3).to_bytes(4, "big")
    path.write_bytes(content)
    return path


CONTAINERS = [("a.avi", "MJPG"), ("b.avi", "XVID"), ("c.mkv", "mp4v"), ("d.webm", "VP80"), ("e.mp4", "mp4v"),
              ("f.mov", "mp4v")]  # fmt: skip


@pytest.mark.parametrize(("name", "codec"), CONTAINERS)
@pytest.mark.parametrize("share", [0.45, 0.9])
def test_a_video_that_is_cut_off_is_kept_and_reported(
    name: str, codec: str, share: float, quick: Segmenter, words: Vocabulary, tmp_path: Path
) -> None:
    path = recorded(tmp_path / name, codec)
    whole = (with_index_first(path) if name in ("e.mp4", "f.mov") else path).read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    capture = cv2.VideoCapture(str(path))
    frames = 0
    while capture.read()[0]:
        frames += 1
    assert 0 < frames < 60
    items, out = find_items([path]), tmp_path / "out"
    for _ in range(2):  # the second run does not keep it silently
        report = segment_folder(quick, words, items, out, every=20, overlays=False)
        assert (report.done, report.kept) == (0, 0)
        assert f"cut off after {frames} frames" in report.failed[name]
        line = read_lines(out)[name]
        assert line["missing"] == pytest.approx(60 - frames, abs=1)
        assert line["frames"] == len(list((out / "masks" / name).iterdir())) == len(range(0, frames, 20))
    first = (out / "masks" / name / "000000.png").stat().st_mtime_ns
    path.write_bytes(whole)  # downloaded again
    report = segment_folder(quick, words, items, out, every=20, overlays=False)
    assert (report.done, report.failed) == (1, {})
    line = read_lines(out)[name]
    assert (line["frames"], "missing" in line, "error" in line) == (3, False, False)
    assert (out / "masks" / name / "000000.png").stat().st_mtime_ns > first  # of the new file
    assert segment_folder(quick, words, items, out, every=20, overlays=False).kept == 1


@pytest.mark.parametrize(("name", "codec"), [*CONTAINERS, ("edited.mp4", "mp4v"), ("short.avi", "MJPG")])
def test_whole_videos_raise_no_alarm(
    name: str, codec: str, quick: Segmenter, words: Vocabulary, tmp_path: Path
) -> None:
    path = recorded(tmp_path / name, codec, 1 if name == "short.avi" else 60)
    if name == "edited.mp4":
        with_hidden_frames(path)
    with path.open("ab") as file:
        file.write(b"appended by some camera" * 5)
    report = segment_folder(quick, words, find_items([path]), tmp_path / "out", every=30, overlays=False)
    assert (report.done, report.failed) == (1, {})
    assert "missing" not in read_lines(tmp_path / "out")[name]


def test_a_download_that_reserved_its_space_is_cut_off(quick: Segmenter, words: Vocabulary, tmp_path: Path) -> None:
    path = with_index_first(recorded(tmp_path / "a.mp4", "mp4v"))
    size = path.stat().st_size
    os.truncate(path, size // 2)
    os.truncate(path, size)
    report = segment_folder(quick, words, find_items([path]), tmp_path / "out", every=20, overlays=False)
    assert "cut off after" in report.failed["a.mp4"]


def test_a_file_that_is_not_a_video(quick: Segmenter, words: Vocabulary, tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"nothing to see")
    report = segment_folder(quick, words, find_items([tmp_path / "no.mp4"]), tmp_path / "out")
    assert "no readable frame" in report.failed["no.mp4"]


# --- one COCO file ---------------------------------------------------------------


def loaded(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def check_coco(path: Path, out: Path, names: tuple[str, ...], expected: set[str]) -> None:
    """Every mask belongs to its image and class, as pycocotools reads the file."""
    found = loaded(path)
    assert len(found.anns) == len(found.dataset["annotations"])  # ids are unique
    assert {image["file_name"] for image in found.imgs.values()} == expected
    for number, image in found.imgs.items():
        file = image["file_name"]
        stem = read_lines(out)[file]["mask"] if file in read_lines(out) else f"masks/{file}"
        with Image.open(out / stem) as opened:
            labels = np.asarray(opened)
        assert labels.shape == (image["height"], image["width"])
        again = np.zeros_like(labels)
        for annotation in found.loadAnns(found.getAnnIds([number])):
            again[found.annToMask(annotation) == 1] = annotation["category_id"] - 1
            assert found.cats[annotation["category_id"]]["name"] == names[annotation["category_id"] - 1]
        np.testing.assert_array_equal(again, labels)


def test_one_coco_file_of_a_whole_run(
    quick: Segmenter, words: Vocabulary, photos: Path, video: Path, tmp_path: Path
) -> None:
    """Images, frames, a damaged file, and a run that is interrupted and then resumed."""
    shutil.move(video, photos / "clip.avi")
    (photos / "broken.jpg").write_bytes(b"no image")
    items, out, coco = find_items([photos]), tmp_path / "out", tmp_path / "coco.json"

    def interrupt(count: int) -> None:
        if (out / "masks/a.png").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_folder(quick, words, items, out, batch=1, every=3, coco=coco, advance=interrupt)
    assert not coco.exists()
    segment_folder(quick, words, items, out, every=3, coco=coco)
    names = {item.name for item in items} - {"broken.jpg", "clip.avi"}
    frames = {f"clip.avi/{number:06d}.png" for number in (0, 3, 6)}
    check_coco(coco, out, words.names, names | frames)
    assert not list(tmp_path.glob(".*"))
    first = coco.read_bytes()
    report = segment_folder(quick, words, items, out, every=3, coco=coco)  # everything is kept, the file too
    assert report.done == 0
    assert coco.read_bytes() == first
    scores = {a["category_id"]: a["score"] for a in loaded(coco).imgToAnns[1]}
    result = quick(items[0].path, words, scores="full")
    for category, score in scores.items():
        mask = result.mask(category - 1)
        assert score == pytest.approx(float(result.score_map(category - 1)[mask].mean()), abs=1e-5)

    segment_folder(quick, words, items, out, every=3, coco=coco, coco_skip=["background"])
    found = loaded(coco)
    assert [category["name"] for category in found.loadCats(found.getCatIds())] == list(words.names[1:])
    assert all(annotation["category_id"] > 1 for annotation in found.anns.values())
    with pytest.raises(ItaclipError, match=r"skip: no class 'clod'\. Did you mean 'cloud'"):
        segment_folder(quick, words, items, out, every=3, coco=coco, coco_skip=["clod"])


@pytest.mark.parametrize("background", [True, False])
def test_the_command_writes_one_coco_file(background: bool, photos: Path, tmp_path: Path) -> None:
    coco = tmp_path / "results/coco.json"
    given = ("--background", "yes" if background else "no", "--coco", coco, "--coco-skip", "background; tree")
    process = cli("segment", photos, "--out", tmp_path / "out", *QUICK, *given, "--no-overlays")
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    assert f"COCO in {coco}" in printed.replace("\n", "")
    found = loaded(coco)
    assert len(found.imgs) == 7
    first = 2 if background else 1  # the value in the label map plus 1
    assert {number: category["name"] for number, category in found.cats.items()} == {
        first: "car", first + 1: "cloud"
    }  # fmt: skip
    process = cli("segment", photos, "--out", tmp_path / "out", *QUICK, "--coco-skip", "tree")
    assert process.wait() == 2
