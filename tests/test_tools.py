"""The programs in tools/, run as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from conftest import ROOT


def run_tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=300)


def test_benchmark_measures_every_stage(tmp_path: Path) -> None:
    done = run_tool("benchmark.py", "--config", "configs/cfg_demo.py", "--size", "90", "100", "--baseline",
                    "--out", str(tmp_path / "figures.json"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    seconds = figures["seconds"]
    parts = seconds["encoder and text product"] + seconds["stitching"] + seconds["PAMR"]
    assert 0 < parts < 3 * seconds["whole image"]
    assert figures["encoder_passes"] == 5 * figures["windows"]
    assert figures["gflops_encoder"] > 0
    assert "of the matrix peak" in done.stdout


def test_check_weights_tells_other_weights_apart() -> None:
    done = run_tool("check_weights.py", "--weights", "demo")
    assert done.returncode == 2
    assert "features of 64 channels" in done.stderr
    assert "Traceback" not in done.stderr


def test_dist_test_without_arguments_says_how() -> None:
    done = subprocess.run(["bash", str(ROOT / "tools/dist_test.sh")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "tools/dist_test.sh CONFIG PROCESSES" in done.stderr


def test_demo_weights_come_from_a_program_that_runs(tmp_path: Path) -> None:
    """Three steps of training: captions only, weights in OpenAI's layout, whole file."""
    out = tmp_path / "w.safetensors"
    done = run_tool("train_demo_clip.py", "--out", str(out), "--steps", "3", "--batch", "4", "--per-class", "1",
                    "--workers", "1", "--device", "cpu", "--whole", "0.4")  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "step      3" in done.stdout
    from itaclip.clip import load_clip

    assert load_clip(str(out)).text_projection.shape == (64, 64)
