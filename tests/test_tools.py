"""The programs in tools/, run as a user does."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from gpu_helpers import needs_pretending
from processes import run_python
from tower_helpers import folder_of

from itaclip.core.clip import load_clip
from itaclip.core.clip.towers.timm_eva import EvaBlock
from itaclip.core.clip.towers.timm_vit import TimmBlock
from itaclip.core.text import TextEncoder


def run_tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_python(ROOT / "tools" / name, *arguments, cwd=ROOT, timeout=300)


def test_benchmark_measures_every_stage_and_gives_the_plain_labels(tmp_path: Path) -> None:
    done = run_tool("benchmark.py", "--config", "configs/cfg_demo.py", "--size", "90", "100", "--baseline",
                    "--out", str(tmp_path / "figures.json"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    (rows,) = (table for title, table in figures["tables"].items() if "image of 90 x 100" in title)
    seconds = {row["stage"]: row["seconds"] for row in rows}
    assert 0 < seconds["encoder"] < seconds["sum of stages"]
    assert seconds["sum of stages"] < 3 * seconds["whole image"]
    assert figures["passes"] % 5 == 0
    assert figures["equal_labels"] > 0.9999
    assert figures["largest_logit_difference"] < 1e-5
    assert all(
        row["peak MiB"] > (1 if figures["machine"]["gpu"] else 100) for row in rows if row["stage"] != "sum of stages"
    )
    assert "of the matrix peak" in done.stdout


@pytest.mark.slow
def test_benchmark_of_several_configurations(tmp_path: Path) -> None:
    done = run_tool("benchmark.py", "--config", "configs/cfg_demo.py", "configs/cfg_voc.py", "--weights", "demo",
                    "--size", "60", "60", "--set", "slide_stride=112", "--out", str(tmp_path / "r.json"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "r.json").read_text())["tables"]["images per second"]
    assert [row["settings"] for row in rows] == ["cfg_demo", "cfg_voc"]
    for row in rows:
        assert row["images_per_second"] == pytest.approx(1 / row["seconds"])
        assert row["passes"] % 5 == 0
        assert 0 < row["share_of_peak"] < 1
    done = run_tool("benchmark.py", "--config", "configs/cfg_demo.py", "configs/cfg_voc.py", "--baseline")
    assert done.returncode == 2
    assert "cannot be combined" in done.stderr


@needs_pretending
def test_benchmark_of_a_gpu_s_memory(tmp_path: Path) -> None:
    out = tmp_path / "m.json"
    done = run_tool("benchmark.py", "--config", "configs/cfg_demo.py", "--gpu-memory", "--out", str(out))
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(out.read_text())["tables"]["GPU memory"]
    assert 10 < row["MiB"] < 1000


@pytest.mark.slow
def test_benchmark_of_growth_and_pamr(tmp_path: Path) -> None:
    done = run_tool("benchmark.py", "--config", "configs/cfg_demo.py", "--growth", "--out", str(tmp_path / "g.json"))
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "g.json").read_text())["tables"]["growth"]
    assert {row["changed"] for row in rows} == {"image side", "queries", "stride"}
    assert [row["passes"] for row in rows if row["changed"] == "image side"] == [1, 4, 9, 16]
    done = run_tool("benchmark.py", "--config", "configs/cfg_demo.py", "--pamr", "--size", "90", "120",
                    "--out", str(tmp_path / "p.json"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "p.json").read_text())["largest_difference"] < 1e-4


def test_check_weights_detects_other_weights() -> None:
    done = run_tool("check_weights.py", "--weights", "demo", "--recorded")
    assert done.returncode == 2
    assert "features with 64 channels" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("family", ["openai", "clipa", "coca"])
def test_check_weights_compares_with_open_clip(family: str, tmp_path: Path) -> None:
    done = run_tool("check_weights.py", "--weights", str(folder_of(family, tmp_path / family)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "images: smallest cosine with the library's own" in done.stdout
    assert "texts: smallest cosine with the library's own" in done.stdout


@pytest.mark.parametrize("family", ["siglip", "eva02", "pe"])
def test_check_weights_finds_a_tower_that_is_misread(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only this process knows timm's miniature models."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    tool = importlib.import_module("check_weights")
    clip = load_clip(str(folder_of(family, tmp_path / family)))
    encoder = TextEncoder(clip)
    assert all(values.min() > tool.SMALLEST_TO_OPEN_CLIP for _, values in tool.to_open_clip(clip, encoder))
    block = EvaBlock if family != "siglip" else TimmBlock
    monkeypatch.setattr(block, "output", lambda self, heads: self.module.attn.proj(0.9 * heads))
    found = dict(tool.to_open_clip(clip, encoder))
    assert found["images"].min() < tool.SMALLEST_TO_OPEN_CLIP < found["texts"].min()


@pytest.mark.parametrize("name", ["dist_test", "dist_train", "slurm_test", "slurm_train"])
def test_launchers_without_arguments_say_how(name: str) -> None:
    done = subprocess.run(["bash", str(ROOT / f"tools/{name}.sh")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"tools/{name}.sh CONFIG" in done.stderr


@pytest.mark.parametrize("name", ["test", "train"])
def test_slurm_scripts_start_one_process_per_task(name: str, tmp_path: Path) -> None:
    """With substitutes for srun and scontrol that print their arguments."""
    for program, body in {"srun": 'echo "srun $*"; echo "$MASTER_ADDR $MASTER_PORT"', "scontrol": "echo node7"}.items():
        (tmp_path / program).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / program).chmod(0o755)
    environment = dict(os.environ) | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "node[7-8]",
        "SRUN_ARGS": "--ntasks 4", "PYTHON": "py",
    }  # fmt: skip
    done = subprocess.run(["bash", str(ROOT / f"tools/slurm_{name}.sh"), "c.py", "--x"], env=environment,
                          capture_output=True, text=True, check=True)  # fmt: skip
    command, place = done.stdout.splitlines()
    program = "eval.py --config c.py" if name == "test" else "tools/train.py c.py"
    assert command == f"srun --kill-on-bad-exit=1 --ntasks 4 py {ROOT}/{program} --launcher slurm --x"
    assert place == "node7 20042"


def test_demo_weights_come_from_a_program_that_runs(tmp_path: Path) -> None:
    """Three training steps: captions only, weights in OpenAI's layout, a complete file."""
    out, pool = tmp_path / "w.safetensors", tmp_path / "pool"
    drawn = run_tool("draw_demo_pool.py", "--out", str(pool), "--scenes", "80")
    assert drawn.returncode == 0, drawn.stderr[-2000:]
    done = run_tool("train_demo_clip.py", "--pool", str(pool), "--out", str(out), "--steps", "3", "--batch", "4",
                    "--whole-batch", "2", "--device", "cpu", "--whole", "0.4")  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "step      3" in done.stdout
    from itaclip.core.clip import load_clip

    assert load_clip(str(out)).text_projection.shape == (64, 64)
