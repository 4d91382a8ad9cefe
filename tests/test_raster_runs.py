"""Rasters in processes of their own: killed at any moment, and on Ray with a worker that is lost."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rasterio")
import rasterio
from conftest import ROOT

from itaclip import RasterOptions, RasterReport, segment_raster
from itaclip.apps.raster import plan as division

pytestmark = pytest.mark.slow
SETTINGS: dict[str, Any] = dict(slide_crop=32, slide_stride=16, pamr_stride=(2, 4), pamr_steps=3, img_engineering=False)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    coarse = np.random.default_rng(5).integers(0, 256, (3, 60, 130)).astype(np.uint8)
    values = np.kron(coarse, np.ones((1, 9, 9), np.uint8))
    path = tmp_path_factory.mktemp("raster") / "town.tif"
    profile = dict(driver="GTiff", count=3, height=540, width=1170, dtype="uint8", crs="EPSG:32631")
    with rasterio.open(path, "w", transform=rasterio.Affine(0.5, 0, 0, 0, -0.5, 0), **profile) as dataset:
        dataset.write(values)
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_command_killed_ten_times_writes_the_same_file(town: Path, tiny_weights: Path, tmp_path: Path) -> None:
    settings = [f"{name}={value}" for name, value in SETTINGS.items()]

    def command(out: str) -> list[str]:
        return [sys.executable, "-m", "itaclip", "raster", str(town), "--classes", "red; green; blue", "--out",
                str(tmp_path / out), "--model", str(tiny_weights), "--set", *settings]  # fmt: skip

    subprocess.run(command("once.tif"), check=True, cwd=ROOT)
    rng, killed = random.Random(0), 0
    while killed < 10:
        process = subprocess.Popen(command("often.tif"), cwd=ROOT)
        try:
            process.wait(timeout=rng.uniform(3, 9))
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
            assert not (tmp_path / "often.tif").exists()
    subprocess.run(command("often.tif"), check=True, cwd=ROOT)
    assert digest(tmp_path / "often.tif") == digest(tmp_path / "once.tif")


def test_workers_write_the_same_file_and_a_lost_one_loses_nothing(
    town: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(division, "_side", lambda size, most: 256)
    monkeypatch.setattr(division, "_WINDOWS", 60)
    killed = []

    def kill_one(report: RasterReport) -> None:
        if report.stage == "encoding" and report.done == 2 and not killed:
            workers = _children("ray::_RemoteWorker")
            os.kill(workers[0], signal.SIGKILL)
            killed.append(workers[0])

    for name, workers, watch in (("one", None, lambda _: None), ("two", 2, kill_one)):
        segment_raster(
            town, ["red", "green", "blue"], tmp_path / f"{name}.tif", watch=watch, model=str(tiny_weights), **SETTINGS,
            options=RasterOptions(workers=workers, threads=1 if workers else None),
        )  # fmt: skip
    assert killed
    assert digest(tmp_path / "one.tif") == digest(tmp_path / "two.tif")


def _children(name: str) -> list[int]:
    """Descendants of this process with a title."""
    parents, titles = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(path.name)] = (path / "cmdline").read_text()
        except OSError:  # gone
            continue
    below = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return [pid for pid in below if name in titles.get(pid, "")]
