"""Evaluations in real processes, which tests may kill."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from processes import Program, limit_files, start_python

from itaclip.common.demo.dataset import ensure_demo_dataset
from itaclip.research.evaluation.command import main

SCENES = 32


class Demo:
    """The bundled demo with coarse settings, and its metrics and masks from a single process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "cfg_coarse.py"
        self.data = ensure_demo_dataset(folder / "demo", SCENES)
        self.config.write_text(f"""
_base_ = "{ROOT}/configs/cfg_demo.py"
model = dict(img_engineering=False, slide_stride=56, pamr_steps=0, device="cpu")
test_dataloader = dict(batch_size=5, num_workers=0, dataset=dict(data_root="{self.data}"))
""")
        assert main(["--config", str(self.config), *self.options(folder / "reference")]) == 0
        self.reference = read_metrics(folder / "reference")
        self.masks = read_masks(folder / "reference")

    def options(self, work: Path) -> list[str]:
        """Options of eval.py that write metrics and masks below a folder."""
        return ["--work-dir", str(work), "--out", str(work / "masks")]

    def start(self, work: Path, processes: int = 0, more: Sequence[str] = (), limit_file_size: int | None = None,
              **variables: str) -> Program:  # fmt: skip
        """Start eval.py (processes = 0), or tools/dist_test.sh; the kernel may limit the bytes of a file."""
        work.mkdir(exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, **variables}
        if not processes:
            before = None if limit_file_size is None else partial(limit_files, limit_file_size)
            script = [str(ROOT / "eval.py"), "--config", str(self.config), *self.options(work), *more]
            return start_python(*script, env=environment, cwd=work, before=before)
        script = ["bash", f"{ROOT}/tools/dist_test.sh", str(self.config), str(processes), *self.options(work), *more]
        return subprocess.Popen(
            script, env=environment, text=True, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def assert_same(self, work: Path) -> dict[str, Any]:
        """Compare all numbers and pixels below a folder with those of a single process; returns the metrics."""
        found = read_metrics(work)
        for part in ("mIoU", "mAcc", "aAcc", "per_class", "images", "pixels"):
            assert found[part] == self.reference[part], part
        assert read_masks(work) == self.masks
        assert not (work / "journal").exists()  # finished: nothing is left to resume
        return found


def two_machines(demo: Demo, work: Path, first: int, **variables: str) -> tuple[Program, ...]:
    """Two launchers that know only each other's address: `first` processes on one, one on the other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "LOCAL_ADDR": "127.0.0.1", "PORT": str(port), **variables}
    return tuple(demo.start(work, count, NODE_RANK=str(node), **place) for node, count in enumerate((first, 1)))


def read_metrics(work: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((work / "metrics.json").read_text())
    return content


def read_masks(work: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (work / "masks").iterdir()}


def counted(work: Path) -> int:
    """Number of images in the complete lines of the journals."""
    files = [path.read_bytes().splitlines(keepends=True) for path in (work / "journal").glob("*.jsonl")]
    lines = [json.loads(line[9:]) for file in files for line in file if line.endswith(b"\n")]
    return sum(len(line["counts"]) for line in lines if "counts" in line)


def wait_until_counted(work: Path, images: int, running: Program) -> int:
    """Wait until an evaluation is half-way; returns the number of evaluated images."""
    deadline = time.monotonic() + 400
    while counted(work) < images:
        assert running.poll() is None, running.communicate()[1][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return counted(work)


def ranks_of(launcher: Program) -> list[int]:
    """Process ids of the evaluating processes of a launcher, as listed by the kernel."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    return [int(child) for child in children if b"eval.py" in Path(f"/proc/{child}/cmdline").read_bytes()]


def finish(running: Program, seconds: float = 400) -> tuple[int, str, str]:
    """Wait for the process; returns exit status, output and errors."""
    out, errors = running.communicate(timeout=seconds)
    return running.returncode, out, errors


@contextmanager
def killed_at_the_end(*running: Program) -> Iterator[None]:
    """Kill all remaining processes, whatever a test does."""
    try:
        yield
    finally:
        for process in running:
            kill_all(process)


def kill_all(process: Program) -> None:
    """Send SIGKILL to a launcher and all its descendants, which torchrun puts in separate sessions."""
    for victim in [*(ranks_of(process) if process.poll() is None else []), process.pid]:
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return Demo(tmp_path_factory.mktemp("coarse"))
