"""Many files: names, batches, resuming after any crash, bad files, videos."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from itaclip import ItaclipError, Segmenter
from itaclip.labelling.folder import find_items, read_lines, segment_folder
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


def cli(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "itaclip", *map(str, arguments)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


QUICK = ("--model", "demo", "--quality", "fast", "--set", "pamr_steps=0", "--classes", "car; cloud; tree")


def test_killed_at_any_moment_nothing_is_lost(demo_root: Path, tmp_path: Path) -> None:
    """After SIGKILL half-way, everything recorded as done is complete, and the next run finishes."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(40):
        shutil.copy(demo_root / f"JPEGImages/scene_00{i % 4}.jpg", photos / f"{i:02d}.jpg")
    out = tmp_path / "out"
    running = cli("segment", photos, "--out", out, *QUICK, "--batch", "2", "--no-overlays")
    deadline = time.monotonic() + 120
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
        assert process.wait() == 2
        assert process.stderr is not None
        assert "in use by another process" in process.stderr.read()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_folder(quick, words, items, tmp_path / "out", advance=second)


def test_a_full_disk_stops_the_run_and_leaves_no_partial_file(photos: Path, tmp_path: Path) -> None:
    """Files are limited to 3,000 bytes, so the overlay cannot be written."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    big = tmp_path / "big"
    big.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)).save(big / "x.png")
    process = cli("segment", big, "--out", tmp_path / "out", *QUICK, "--no-text-cache", preexec_fn=limit)
    _, errors = process.communicate()
    assert process.returncode == 2, errors
    assert "cannot be written" in errors
    assert "Traceback" not in errors
    assert not list((tmp_path / "out").rglob("*.jpg"))
    assert not list((tmp_path / "out").rglob(".*"))
    assert read_lines(tmp_path / "out") == {}


def test_memory_stays_flat(demo_root: Path, tmp_path: Path) -> None:
    """Fifty images need no more memory than ten."""
    program = """
import resource, sys
from itaclip import Segmenter
from itaclip.labelling.folder import Item, segment_folder
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
    found = subprocess.run(
        [sys.executable, "-c", program, str(demo_root / "JPEGImages/scene_000.jpg"), str(tmp_path / "out")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
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


def test_a_file_that_is_not_a_video(quick: Segmenter, words: Vocabulary, tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"nothing to see")
    report = segment_folder(quick, words, find_items([tmp_path / "no.mp4"]), tmp_path / "out")
    assert "no readable frame" in report.failed["no.mp4"]
