"""Conversions that are killed, resumed, run twice at once, or run out of disk space."""

from __future__ import annotations

import os
import signal
import time
import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pool_jobs import die, double
from preparation_helpers import ROOT, environment, fails_clearly, read, run_script, write_mask
from processes import limit_files, start_python
from rich.console import Console

from itaclip.errors import ItaclipError
from itaclip.research.preparation.coco import COCO_STUFF, convert_coco
from itaclip.research.preparation.conversion import Conversion, RunOptions, convert
from itaclip.research.preparation.jobs import run_jobs
from itaclip.research.preparation.masks import LabelMap

SCRIPT = str(ROOT / "datasets/cvt_coco_stuff.py")
COUNT = 120


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Enough maps to interrupt a run half-way: a single file, linked many times."""
    root = tmp_path / "coco"
    raw = np.random.default_rng(0).integers(0, 11, (320, 480))
    first = write_mask(root / "annotations/val2017/000000.png", raw)
    for number in range(1, COUNT):
        os.link(first, first.with_name(f"{number:06}.png"))
    return root


def results(root: Path) -> list[Path]:
    return sorted((root / "annotations/val2017").glob("[!.]*_labelTrainIds.png"))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes as Linux shows them")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_and_resumed(many: Path, how: signal.Signals) -> None:
    process = start_python(SCRIPT, many, "--workers", "2", env=environment())
    deadline = time.monotonic() + 400
    while len(results(many)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = children(process.pid)
    process.send_signal(how)
    _, stderr = process.communicate(timeout=400)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "Traceback" not in stderr
    deadline = time.monotonic() + 100
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers
    assert not any(alive(pid) for pid in workers), "workers outlive a killed parent"

    kept = {path: path.stat().st_mtime_ns for path in results(many)}
    assert 2 <= len(kept) < COUNT
    expected = COCO_STUFF.table[read(many / "annotations/val2017/000000.png")]
    for path in kept:
        assert np.array_equal(read(path), expected)
    assert convert_coco(many, None, COCO_STUFF, RunOptions(Console(quiet=True))) == COUNT - len(kept)
    assert len(results(many)) == COUNT
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())


def test_two_runs_at_once(many: Path) -> None:
    runs = [start_python(SCRIPT, many, "--force", "--workers", "1", env=environment()) for _ in range(2)]
    assert [run.communicate(timeout=400)[1] for run in runs] == ["", ""]
    assert [run.returncode for run in runs] == [0, 0]
    expected = COCO_STUFF.table[read(many / "annotations/val2017/000000.png")]
    assert len(results(many)) == COUNT
    assert all(np.array_equal(read(path), expected) for path in results(many)[::20])
    assert not list(many.rglob(".*"))


@pytest.mark.parametrize("workers", [1, 2])
def test_disk_full(many: Path, workers: int) -> None:
    done = run_script(
        "datasets/cvt_coco_stuff.py", many, "--workers", workers,
        before=partial(limit_files, 4096),
    )  # fmt: skip
    fails_clearly(done, "cannot be written", "File too large")
    assert results(many) == []
    assert not list(many.rglob(".*"))


def test_unwritable_out(many: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where a folder should be")
    fails_clearly(run_script("datasets/cvt_coco_stuff.py", many, "-o", tmp_path / "out"), "cannot be written")


# --- the pool ----------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_results_in_order_and_first_error(workers: int) -> None:
    assert list(run_jobs(double, range(13), workers)) == list(range(0, 26, 2))
    with pytest.raises(ItaclipError, match="thirteen"):
        list(run_jobs(double, range(20), workers))


def test_jobs_are_read_as_they_finish() -> None:
    drawn = 0

    def jobs() -> Iterator[int]:
        nonlocal drawn
        for _ in range(500):
            drawn += 1
            yield 1

    results = run_jobs(double, jobs(), 2)
    for done in range(1, 20):
        next(results)
        assert drawn <= done + 2 * 8
    results.close()  # type: ignore[attr-defined]


def test_killed_worker() -> None:
    with pytest.raises(ItaclipError, match="fewer --workers"):
        list(run_jobs(die, range(3), 2))
    with pytest.raises(ItaclipError, match="--workers 0"):
        list(run_jobs(double, range(3), 0))


def blank(_: int) -> LabelMap:
    return np.zeros((1, 1), np.uint8)


def test_memory_does_not_grow_with_the_number(tmp_path: Path) -> None:
    Image.fromarray(blank(0)).save(tmp_path / "done.png")

    def find(count: int) -> Iterator[Conversion[int]]:
        return (Conversion(number, tmp_path / "done.png") for number in range(count))

    convert(partial(find, 1), blank, RunOptions(Console(quiet=True)), "masks")  # imports what it needs
    tracemalloc.start()
    try:
        assert convert(partial(find, 20_000), blank, RunOptions(Console(quiet=True)), "masks") == 0
        assert tracemalloc.get_traced_memory()[1] < 5e5  # 20 bytes a job would be too many
    finally:
        tracemalloc.stop()
