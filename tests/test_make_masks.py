"""The program that creates region maps: killed and resumed, with mixed sources, with bad images."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from preparation_helpers import ROOT, environment, fails_clearly, run_script
from processes import start_python

from itaclip.common.images import read_image
from itaclip.core.engines.calibration import images_of
from itaclip.core.regions import MaskFolder, read_region_map, region_source
from itaclip.errors import ItaclipError
from itaclip.research.preparation.commands.make_masks import main
from itaclip.research.preparation.region_masks import find_images

COUNT = 40


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Enough images to interrupt a run half-way: a single file, linked many times."""
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((240, 180)).save(folder / "deep/000.jpg")
    for number in range(1, COUNT):
        os.link(folder / "deep/000.jpg", folder / f"deep/{number:03}.jpg")
    return folder


def maps(out: Path) -> list[Path]:
    return sorted(path for path in out.rglob("*.npz") if not path.name.startswith("."))


def test_killed_and_resumed(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["tools/make_masks.py", "--images", images, "--source", "felzenszwalb", "--out", out, "--jobs"]
    process = start_python(*command, 1, env=environment(), cwd=ROOT)
    deadline = time.monotonic() + 400
    while len(maps(out)) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=400)
    kept = {path: path.stat().st_mtime_ns for path in maps(out)}
    assert 5 <= len(kept) < COUNT
    expected = region_source("felzenszwalb")(read_image(images / "deep/000.jpg"))
    assert all(np.array_equal(read_region_map(path), expected) for path in kept)

    done = run_script(*command, 2)
    assert done.returncode == 0, done.stderr
    assert f"{COUNT - len(kept)} written, {len(kept)} kept, 0 failed" in done.stdout
    assert len(maps(out)) == COUNT
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
    assert np.array_equal(MaskFolder(out)(read_image(images / "deep/007.jpg"), "deep/007.jpg"), expected)


def test_one_bad_image_does_not_stop_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "c"):
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.png")
    (tmp_path / "b.jpg").write_bytes(b"no image")
    command = ["--images", str(tmp_path), "--source", "slic", "--out", str(tmp_path / "out"), "--jobs", "1"]
    assert main(command) == 1
    told = capsys.readouterr()
    assert "b.jpg" in told.err
    assert "2 written, 0 kept, 1 failed" in told.out
    assert [path.name for path in maps(tmp_path / "out")] == ["a.npz", "c.npz"]
    Image.new("RGB", (40, 30)).save(tmp_path / "b.jpg")
    assert main(command) == 0
    assert "1 written, 2 kept" in capsys.readouterr().out


def test_two_sources_never_mix(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    command = ["--images", str(tmp_path), "--out", str(tmp_path / "out"), "--jobs", "1", "--source"]
    assert main([*command, "slic"]) == 0
    with pytest.raises(ItaclipError, match=r"contains maps of slic .*not of felzenszwalb"):
        main([*command, "felzenszwalb"])
    (tmp_path / "out/masks.json").unlink()
    with pytest.raises(ItaclipError, match=r"unknown source \(no masks\.json\)"):
        main([*command, "slic"])
    (tmp_path / "out/masks.json").write_text("{")
    with pytest.raises(ItaclipError, match="not valid JSON"):
        main([*command, "slic"])


def test_a_data_set_by_its_configuration(demo_root: Path, tmp_path: Path) -> None:
    command = ["--config", str(ROOT / "configs/cfg_demo.py"), "--data-root", str(demo_root), "--source", "slic",
               "--out", str(tmp_path), "--jobs", "1"]  # fmt: skip
    assert main(command) == 0
    assert len(maps(tmp_path)) == len(list(demo_root.rglob("JPEGImages/*.jpg")))


def test_bad_usage(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg")
    with pytest.raises(ItaclipError, match=r"both would become a\.npz"):
        find_images([str(tmp_path)])
    assert [image.name for image in find_images([f"{tmp_path}/*.png"])] == ["a"]
    with pytest.raises(ItaclipError, match="is a folder; expected sam2"):
        main(["--images", f"{tmp_path}/a.png", "--source", str(tmp_path), "--out", str(tmp_path / "out")])
    fails_clearly(
        run_script("tools/make_masks.py", "--images", tmp_path / "none", "--out", tmp_path), "none: matches no image"
    )


@pytest.mark.parametrize("name", ["._a.jpg", "__MACOSX/a.jpg", ".ipynb_checkpoints/a-checkpoint.jpg"])
def test_hidden_files_are_no_images(name: str, tmp_path: Path) -> None:
    for file in ("a.jpg", name):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / file)
    assert [image.name for image in find_images([str(tmp_path)])] == ["a"]
    assert images_of(tmp_path) == [tmp_path / "a.jpg"]  # those that int8 is calibrated on
