"""Full disks under every writer, and folders segmented by processes that are killed."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from distributed_helpers import finish, killed_at_the_end
from mmengine.structures import PixelData
from mmseg.datasets import BaseSegDataset
from mmseg.structures import SegDataSample
from PIL import Image

from itaclip.command.main import main as program
from itaclip.comparison.cells import Cell, Result
from itaclip.comparison.report import write_report
from itaclip.demo.dataset import ensure_demo_dataset
from itaclip.errors import ItaclipError
from itaclip.evaluation.journal import Entry, Journal
from itaclip.evaluation.loop import Pictures
from itaclip.files import write_json, write_text
from itaclip.preparation.masks import write_label_map
from itaclip.text.cache import TextCache

LIMIT = 300  # bytes of a file; all that is written here is larger


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond `LIMIT`; nothing may be printed meanwhile, for output goes to a file, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def noise(*shape: int) -> Any:
    return np.random.default_rng(0).integers(0, 20, shape, dtype=np.uint8)


def pictures(kind: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        image = folder.parent / "image.jpg"
        sample = SegDataSample(metainfo={"img_path": str(image)})
        sample.gt_sem_seg = PixelData(data=torch.zeros(1, 30, 40, dtype=torch.int64))
        metainfo = {"classes": [f"class {i}" for i in range(20)], "palette": [[i, i, i] for i in range(20)]}
        dataset = BaseSegDataset(metainfo=metainfo, data_prefix={"img_path": str(image.parent)}, lazy_init=True,
                                 pipeline=[{"type": "LoadImageFromFile"}])  # fmt: skip
        Pictures(**{kind: folder}).write(sample, noise(30, 40).astype(np.int64), dataset)

    return write


RESULT = Result(Cell("configs/cfg_demo.py", "clip", "common", "off"), "DemoDataset", False, error="x" * 400)

WRITERS: dict[str, Callable[[Path], Any]] = {
    "text": lambda folder: write_text(folder / "text.txt", "x" * 1000),
    "json": lambda folder: write_json(folder / "metrics.json", list(range(1000))),
    "label map": lambda folder: write_label_map(folder / "map.png", noise(30, 40)),
    "mask of an evaluation": pictures("masks"),
    "overlay of an evaluation": pictures("overlays"),
    "report of a comparison": lambda folder: write_report([RESULT], folder / "results"),
    "journal": lambda folder: Journal(folder, {}).write("b", Entry(["x.jpg"], [list(range(1000))], 0.0)),
    "demo": lambda folder: ensure_demo_dataset(folder / "demo", scenes=1),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_an_error_that_names_the_file(writer: str, tmp_path: Path) -> None:
    """And no file stands half written under its final name, or beside it."""
    Image.fromarray(noise(30, 40, 3)).save(tmp_path / "image.jpg")
    folder = tmp_path / "out"
    with (
        full_disk(),
        pytest.raises(ItaclipError, match=rf"{folder}.*cannot be written \((File too large|no space left)\)"),
    ):
        WRITERS[writer](folder)
    left = [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []
    if writer == "journal":  # it is made to be torn; the next run passes over the line
        assert Journal(folder, {}).restore(["b"]) == ({}, set())
    else:
        assert left == []


def test_a_full_disk_costs_the_text_cache_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = TextCache(tmp_path)
    with full_disk():
        cache.put({"key": torch.ones(500)})
    assert "not kept for the next start" in caplog.text
    assert list(cache.get(["key"])) == ["key"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def options(photos: Path, out: Path) -> list[str]:
    return ["segment", str(photos), "--out", str(out), "--model", "demo", "--classes", "grass; wood; fire",
            "--no-overlays", "--batch", "1", "--device", "cpu",
            "--set", "img_engineering=False", "slide_stride=112", "pamr_steps=0"]  # fmt: skip


def start_two(photos: Path, out: Path) -> subprocess.Popen[str]:
    """`itaclip segment` under torchrun, a shard for each of two processes."""
    script = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1",
              "--nproc-per-node", "2", "-m", "itaclip", *options(photos, out)]  # fmt: skip
    return subprocess.Popen(script, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, cwd=ROOT,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def masks(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "masks").rglob("*.png")}


def lines(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in out.glob("results*.jsonl"))


def test_a_folder_is_the_same_whatever_the_processes_and_the_deaths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two processes, one killed in the middle; one process ends it. Another folder: one process alone."""
    photos = ensure_demo_dataset(tmp_path / "demo", 24) / "JPEGImages"
    two, one = tmp_path / "two", tmp_path / "one"
    with killed_at_the_end(running := start_two(photos, two)):
        deadline = time.monotonic() + 90
        while lines(two) < 4:
            assert running.poll() is None, running.communicate()[1][-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        status, _, errors = finish(running, 60)
    assert status != 0
    assert "exitcode  : -9" in errors
    before = masks(two)
    assert 4 <= len(before) < 24
    assert program(options(photos, two)) == 0
    assert "kept from an earlier run" in capsys.readouterr().out
    assert program(options(photos, one)) == 0
    assert masks(two) == masks(one)
    assert before.items() <= masks(two).items()
    assert json.loads((two / "index.json").read_text())["images"] == 24
