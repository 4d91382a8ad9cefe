"""Without OpenMMLab's packages, with those of a fork, and with both in each other's way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import mmcv
import numpy as np
import pytest
from conftest import ROOT

from itaclip.common.openmmlab_packages import WAYS, conflicts, providers
from itaclip.core.resizing import fit, fitted_size, resize

# --- resizing ----------------------------------------------------------------

SHAPES = [(375, 500), (500, 375), (1, 1), (1, 900), (64, 5000), (337, 336), (2048, 1024), (3, 2)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sides", [(2048, 336), (2048, 448), (100, 300), (2048, 7)])
def test_images_are_resized_as_mmcv_does_to_the_bit(shape: tuple[int, int], sides: tuple[int, int]) -> None:
    image = np.random.default_rng(shape[0]).integers(0, 256, (*shape, 3), np.uint8)
    size = mmcv.rescale_size(shape, sides)
    assert fitted_size(shape, *sides) == tuple(max(1, side) for side in size)
    if min(size) > 0:  # mmcv gives up on images so narrow that a side vanishes
        np.testing.assert_array_equal(fit(image, *sides), mmcv.imrescale(image, sides))
    else:
        assert min(fit(image, *sides).shape[:2]) == 1


@pytest.mark.parametrize("size", [(224, 224), (1, 5), (700, 300)])
def test_resizing_takes_height_and_width(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (97, 133, 3), np.uint8)
    np.testing.assert_array_equal(resize(image, size), mmcv.imresize(image, size[::-1]))


# --- none installed ----------------------------------------------------------

ABSENT = "import sys; sys.modules.update(dict.fromkeys(['mmseg', 'mmengine', 'mmcv']))\n"  # imports fail, as if absent


def python(
    code: str, *arguments: str, path: Path | None = None, program: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*([str(path)] if path else []), str(ROOT)])}
    return subprocess.run(
        [program, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_everything_but_research_is_importable_without_them() -> None:
    code = (
        "import importlib, pkgutil, itaclip\n"
        "for found in pkgutil.walk_packages(itaclip.__path__, 'itaclip.', onerror=lambda name: None):\n"
        "    if not found.name.startswith(('itaclip.research', 'itaclip.__main__')):\n"
        "        importlib.import_module(found.name)\n"
    )
    done = python(ABSENT + code)
    assert done.returncode == 0, done.stderr


def test_images_are_segmented_without_them(demo_root: Path, tmp_path: Path) -> None:
    code = "from itaclip.apps.command.main import main; sys.exit(main(sys.argv[1:]))"
    scene = str(demo_root / "JPEGImages/scene_000.jpg")
    command = ["segment", scene, "--model", "demo", "--quality", "fast", "--classes", "tree; house", "--out"]
    done = python(ABSENT + code, *command, str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/masks/scene_000.png").is_file()


def test_what_needs_them_names_both_ways_to_install(demo_root: Path, tmp_path: Path) -> None:
    scene, out = str(demo_root / "JPEGImages/scene_000.jpg"), str(tmp_path / "out")
    commands = {
        "MMSegmentation needs mmseg, mmengine, mmcv: not installed": ["eval", "--config", "demo"],
        "reading a configuration needs mmengine: not installed": ["segment", scene, "--config", "demo", "--out", out],
        "reading a configuration needs mmengine:": ["serve", "--config", "demo"],
    }
    code = (
        "import json\nfrom itaclip import ItaclipError\nfrom itaclip.apps.command.main import main\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    try:\n        main(command)\n    except ItaclipError as error:\n        print(error)\n"
    )
    done = python(ABSENT + code, json.dumps(list(commands.values())))
    assert done.returncode == 0, done.stderr
    for missing, line in zip(commands, done.stdout.splitlines(), strict=True):
        assert line.startswith(missing)
        assert WAYS in line


# --- conflicts ---------------------------------------------------------------


def put(site: Path, package: str, version: str, *files: str) -> None:
    """Install a package as pip does, over the files of others."""
    info = site / f"{package.replace('-', '_')}-{version}.dist-info"
    for file in files:
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_text(f"__version__ = {version!r}\n")
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in (*files, f"{info.name}/RECORD")))


def asked(site: Path | None, program: str = sys.executable) -> tuple[dict[str, str], list[str]]:
    code = (
        "import json\nfrom itaclip.common.openmmlab_packages import conflicts, report\n"
        "print(json.dumps([report(), conflicts()]))"
    )
    done = python(code, path=site, program=program)
    assert done.returncode == 0, done.stderr
    report, wrong = json.loads(done.stdout)
    return report, wrong


def test_this_environment_is_in_order() -> None:
    assert conflicts() == []
    assert all(len(owners) == 1 for owners in providers().values())


@pytest.mark.parametrize(
    ("module", "packages"),
    [
        ("mmseg", ["mmsegmentation", "onedl-mmsegmentation"]),
        ("mmengine", ["mmengine", "onedl-mmengine"]),
        ("mmcv", ["mmcv", "mmcv-lite", "onedl-mmcv-cu128-torch2-8"]),
    ],
)
def test_packages_that_share_a_folder_are_named(module: str, packages: list[str], tmp_path: Path) -> None:
    for number, package in enumerate(packages):
        put(tmp_path, package, f"1.{number}", f"{module}/__init__.py", f"{module}/part{number}.py")
    report, (wrong,) = asked(tmp_path)
    assert report[module] == " and ".join(f"{package} 1.{n}" for n, package in enumerate(packages))
    assert f"share the folder {module}" in wrong
    assert f"pip uninstall {' '.join(packages)}" in wrong
    assert wrong in report["conflict"]


@pytest.mark.parametrize(
    ("module", "package"), [("mmseg", "onedl-mmsegmentation"), ("mmengine", "mmengine"), ("mmcv", "onedl-mmcv")]
)
def test_a_package_that_lost_files_is_named(module: str, package: str, tmp_path: Path) -> None:
    put(tmp_path, package, "2.5", f"{module}/__init__.py", f"{module}/one.py", f"{module}/deep/two.py")
    assert asked(tmp_path)[1] == []
    (tmp_path / module / "one.py").unlink()
    (tmp_path / module / "deep/two.py").unlink()
    _, (wrong,) = asked(tmp_path)
    assert f"lacks 2 of its files in the folder {module}" in wrong
    assert f"pip install --force-reinstall --no-deps {package}==2.5" in wrong


def test_only_the_folder_that_is_imported_counts(tmp_path: Path) -> None:
    put(tmp_path, "onedl-mmcv", "2.3", "mmcv/__init__.py")  # before the one of this environment
    put(tmp_path, "mmcv-geo", "0.1", "mmcv_geo/__init__.py")
    report, wrong = asked(tmp_path)
    assert report["mmcv"] == "onedl-mmcv 2.3"
    assert wrong == []


def wheel(folder: Path, package: str, version: str, *files: str) -> Path:
    name = f"{package.replace('-', '_')}-{version}"
    path = folder / f"{name}-py3-none-any.whl"
    info = f"{name}.dist-info"
    contents = dict.fromkeys(files, "")
    contents[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
    contents[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    contents[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in (*contents, f"{info}/RECORD"))
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in contents.items():
            archive.writestr(file, text)
    return path


@pytest.mark.slow
def test_pip_installs_both_and_removing_one_breaks_the_other(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    programs = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    pip = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "--disable-pip-version-check"]
    old = wheel(tmp_path, "mmsegmentation", "1.2.2", "mmseg/__init__.py", "mmseg/models.py")
    fork = wheel(tmp_path, "onedl-mmsegmentation", "1.4.2", "mmseg/__init__.py", "mmseg/models.py", "mmseg/new.py")
    for one in (old, fork):
        subprocess.run([*pip, "install", "--no-index", "--no-deps", "-q", str(one)], check=True)
    program = str(programs / "python")
    assert "share the folder mmseg" in asked(None, program)[1][0]
    subprocess.run([*pip, "uninstall", "-y", "-q", "mmsegmentation"], check=True)
    assert "lacks 2 of its files in the folder mmseg" in asked(None, program)[1][0]
    subprocess.run([*pip, "install", "--no-index", "--force-reinstall", "--no-deps", "-q", str(fork)], check=True)
    assert asked(None, program)[1] == []


@pytest.mark.parametrize(
    "broken",
    [
        "raise AssertionError('MMCV==2.3.6 is used but incompatible')",
        "from mmengine import what_another_version_had",
        "import mmengine; mmengine.what_another_version_had",
    ],
)
def test_versions_that_do_not_work_together_are_named(broken: str, tmp_path: Path) -> None:
    put(tmp_path, "mmsegmentation", "1.2.2", "mmseg/__init__.py")
    (tmp_path / "mmseg/__init__.py").write_text(broken + "\n")
    done = python("import itaclip.research.openmmlab", path=tmp_path)
    message = done.stderr.strip().splitlines()[-1]
    assert "OpenMMLabError: MMSegmentation cannot be imported (" in message
    assert "Installed: mmsegmentation 1.2.2, " in message
    assert WAYS in message
