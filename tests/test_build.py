"""What is built and installed works without the checkout: sdist, wheel, and commands in another folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of an environment that has the wheel and sees this one's other packages, but no checkout."""
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    programs = home / ("Scripts" if os.name == "nt" else "bin")
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "install", "--no-deps", "--no-index"]
    found = subprocess.run([*pip, str(wheel)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    (own,) = home.glob("**/site-packages")
    # A .pth file adds folders, but does not read the .pth files in them, so the editable install stays out.
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (own / "others.pth").write_text("\n".join(others) + "\n")
    return programs / "itaclip"


def itaclip(program: Path, folder: Path, *arguments: str) -> str:
    """Run the installed program in a folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = subprocess.run(
        [str(program), *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def files_of(folder: str) -> set[str]:
    """All files below a folder of the checkout, by their paths in it."""
    found = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file()}
    return {name for name in found if "__pycache__" not in name}


def test_package_configurations_and_texts_are_in_wheel_and_sdist(built: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as opened:
        in_wheel = set(opened.namelist())
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    package, *shipped = (files_of(folder) for folder in ("itaclip", "configs", "llm_texts"))
    assert package <= in_wheel
    assert {f"itaclip/_data/{name}" for name in set[str]().union(*shipped)} <= in_wheel
    assert package.union(*shipped) <= in_sdist
    assert {"tests/test_build.py", "Makefile", "LICENSE"} <= in_sdist
    assert not [name for name in in_wheel if name.startswith(("tests/", "tools/", "configs/"))]


def test_only_an_extra_brings_openmmlabs_packages(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        needs = [
            line.partition(": ")[2]
            for line in opened.read(name).decode().splitlines()
            if line.startswith("Requires-Dist")
        ]
    found = {line for line in needs if re.match(r"(onedl-)?mm(cv|engine|seg)", line)}
    assert {re.split(r"[<>=]", line)[0] for line in found} == {"mmsegmentation", "mmengine", "mmcv-lite"}
    assert all("extra == 'openmmlab'" in line.replace('"', "'") for line in found)


@pytest.mark.slow
def test_an_installed_wheel_needs_no_checkout(installed: Path, tmp_path: Path) -> None:
    shown = itaclip(installed, tmp_path, "eval", "--list")
    assert "voc   " in shown
    assert str(ROOT) not in shown

    itaclip(installed, tmp_path, "demo", "--images", "1", "--out", "demo")
    assert len(list((tmp_path / "demo/results/masks").iterdir())) == 1

    itaclip(
        installed, tmp_path, "eval", "--config", "demo", "--data-root", "demo/scenes", "--limit", "2",
        "--cfg-options", "model.device=cpu", "model.slide_stride=112",
    )  # fmt: skip
    metrics = json.loads((tmp_path / "work_dirs/cfg_demo/metrics.json").read_text())
    assert metrics["images"] == 2
    assert metrics["mIoU"] > 20
    assert Path(metrics["run"]["config"]).is_relative_to(installed.parent.parent)

    scene = "demo/scenes/JPEGImages/scene_000.jpg"
    itaclip(
        installed, tmp_path, "segment", scene, "--config", "demo", "--set", "slide_stride=112", "pamr_steps=0",
        "--out", "labelled",
    )  # fmt: skip
    assert (tmp_path / "labelled/masks/scene_000.png").is_file()
