"""``dtype="auto"``: the fastest precision whose labels agree, and runs that keep what they chose."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from distributed_helpers import Demo, read_metrics
from PIL import Image

from itaclip import ItaclipError, Segmenter
from itaclip.apps.collection import cluster
from itaclip.apps.command.main import main
from itaclip.common.demo.scenes import draw_scene
from itaclip.core import choices
from itaclip.core.engines import select
from itaclip.core.engines.calibration import CALIBRATION_IMAGES, COMPARISON_IMAGES, comparison_images
from itaclip.core.settings import Settings

CLASSES = ["car", "cloud", "tree", "house"]
AUTO = {"engine": "auto", "dtype": "auto"}
MODEL = ("--model", "demo", "--quality", "fast", "--classes", "; ".join(CLASSES), "--set", "pamr_steps=0",
         "engine=auto", "dtype=auto")  # fmt: skip
WAYS = ("openvino int8", "openvino bf16", "openvino fp32", "torch bf16", "torch fp32")


@pytest.fixture(autouse=True)
def own_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that was never asked, where converted models are known."""
    monkeypatch.setattr(choices, "choices_file", lambda: tmp_path / "choices.json")
    new_process()
    yield
    new_process()


@pytest.fixture(scope="session")
def scene() -> np.ndarray:
    return draw_scene((120, 150), np.random.default_rng(5)).image


def new_process() -> None:
    choices._answers().clear()
    choices._followed().clear()


def prefer(monkeypatch: pytest.MonkeyPatch, *order: str) -> list[str]:
    """Make a machine on which the ways are fast in this order, and all others slow; list the questions."""
    asked: list[str] = []
    measured, real = choices._measured, choices._seconds

    def asking(question: choices._Question, *rest: Any) -> str:
        asked.append(question.what)
        return measured(question, *rest)

    def seconds(call: Any) -> float:
        way = next(iter(getattr(call, "args", ())), None)
        if way not in WAYS:
            return real(call)
        call()
        return float(order.index(way)) if way in order else 99.0

    monkeypatch.setattr(choices, "_measured", asking)
    monkeypatch.setattr(choices, "_seconds", seconds)
    return asked


def segmenter(**settings: object) -> Segmenter:
    made = Segmenter("demo", "fast", **{"pamr_steps": 0, **AUTO, **settings})  # type: ignore[arg-type]
    made.set_classes(CLASSES)
    return made


@pytest.mark.parametrize(
    ("order", "least", "taken"),
    [
        (("openvino int8", "openvino bf16"), 0.9, "openvino int8"),
        (("openvino int8", "torch bf16", "openvino fp32"), 1.0, "openvino fp32"),  # rounding moves some labels
        (("torch bf16",), 0.98, "torch bf16"),
        (("torch fp32", "openvino int8"), 0.0, "torch fp32"),
    ],
)
def test_the_fastest_that_agrees_is_taken(
    order: tuple[str, ...], least: float, taken: str, scene: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefer(monkeypatch, *order)
    chosen = segmenter(agreement=least)
    labels = chosen(scene).labels
    engine, dtype = taken.split()
    assert (chosen.pipeline.engine, chosen.pipeline.dtype) == (engine, dtype)
    np.testing.assert_array_equal(labels, segmenter(engine=engine, dtype=dtype)(scene).labels)
    (line,) = (line for line in choices.remembered() if line.startswith("precision (model"))
    assert f"threads: {taken} (" in line
    assert f"agreement {least}" in line


def test_shares_are_those_of_the_labels(scene: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered equals the labels of two segmenters of the images compared, without thresholds."""
    prefer(monkeypatch, "openvino int8")
    chosen = segmenter(agreement=0.5)
    chosen.settle()
    (entry,) = (entry for entry in choices._read(choices.choices_file()).values() if entry["question"] == "precision")
    images = comparison_images(chosen.settings, 0)
    side = images[0].shape[0]
    plain, rounded = (
        segmenter(engine=engine, dtype=dtype, prob_thd=0.0)
        for engine, dtype in (("torch", "fp32"), ("openvino", "int8"))
    )
    plain.short_side = rounded.short_side = side
    same = [(plain(image).labels == rounded(image).labels).mean() for image in images]
    assert entry["agreement"] == {"openvino int8": pytest.approx(np.mean(same), abs=1e-6)}
    assert 0.9 < np.mean(same) < 1


def test_every_way_is_real(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing pretended: all five are made and timed, and the answer is theirs."""
    chosen = segmenter(agreement=0.9)
    chosen.settle()
    (entry,) = (entry for entry in choices._read(choices.choices_file()).values() if entry["question"] == "precision")
    assert tuple(entry["seconds"]) == WAYS
    assert entry["taken"] == f"{chosen.pipeline.engine} {chosen.pipeline.dtype}"
    assert entry["taken"] == min(entry["seconds"], key=entry["seconds"].get) or entry["agreement"]


def test_labels_that_prove_nothing(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    prefer(monkeypatch, "openvino int8")
    with caplog.at_level(logging.WARNING):
        made = Segmenter("demo", "fast", pamr_steps=0, **AUTO)
        made.set_classes(["car"], background=False)  # every pixel is a car in every precision
        made.settle()
    assert (made.pipeline.engine, made.pipeline.dtype) == ("torch", "fp32")
    assert "proves nothing, so fp32 is taken" in caplog.text
    assert "Set calibration to a folder of your own images" in caplog.text


def test_without_openvino_pytorch_s_own_precisions_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "has_openvino", lambda dtype: False)
    prefer(monkeypatch, "torch bf16")
    made = segmenter(agreement=0.9)
    made.settle()
    assert (made.pipeline.engine, made.pipeline.dtype) == ("torch", "bf16")
    (entry,) = (entry for entry in choices._read(choices.choices_file()).values() if entry["question"] == "precision")
    assert set(entry["seconds"]) == {"torch bf16", "torch fp32"}


def test_images_compared_are_not_those_of_the_calibration(tmp_path: Path) -> None:
    for number in range(CALIBRATION_IMAGES + 2):
        Image.fromarray(np.full((40, 60, 3), number, np.uint8)).save(tmp_path / f"{number:02d}.png")
    settings = Settings(slide_crop=32, slide_stride=16, calibration=str(tmp_path))
    found = comparison_images(settings, 0)
    assert [image.shape for image in found] == [(48, 48, 3)] * 2
    assert [int(image[0, 0, 0]) for image in found] == [CALIBRATION_IMAGES, CALIBRATION_IMAGES + 1]
    for number in range(2, CALIBRATION_IMAGES + 2):
        (tmp_path / f"{number:02d}.png").unlink()
    assert [int(image[0, 0, 0]) for image in comparison_images(settings, 0)] == [0, 1]  # better than none
    assert [image.shape for image in comparison_images(Settings(slide_crop=0), 64)] == [(64, 64, 3)] * COMPARISON_IMAGES


def test_a_choice_that_failed_is_not_made(scene: np.ndarray, tmp_path: Path) -> None:
    made = segmenter(calibration=str(tmp_path / "none"))
    for _ in range(2):  # the second call does not run in fp32 as if that had been chosen
        with pytest.raises(ItaclipError, match="expected a folder of images, or 'demo'"):
            made(scene)


def test_what_does_not_go_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for values, message in (
        ({"dtype": "auto", "method": "sam3"}, "fp32, bf16, fp16 with method = 'sam3'"),
        ({"dtype": "auto", "compile": True}, "False with dtype = 'auto'"),
        ({"dtype": "auto", "agreement": 99.5}, r"agreement = 99.5: expected in \[0, 1\]"),
    ):
        with pytest.raises(ItaclipError, match=message):
            Settings(**values)  # type: ignore[arg-type]
    with pytest.raises(ItaclipError, match="on a GPU name one, such as fp16"):
        Segmenter("demo", dtype="auto", device="cuda")
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"GPU": 2.0, "CPU": 8.0}}])
    with pytest.raises(ItaclipError, match="on a GPU name one, such as fp16"):
        cluster.allocate(None, None, "auto", Settings(dtype="auto"))
    assert not cluster.allocate(None, None, "cpu", Settings(dtype="auto")).gpu
    with pytest.raises(ItaclipError, match="measured with a class list, which only requests bring"):
        main(["serve", "--model", "demo", "--set", "dtype=auto"])
    made = segmenter()
    with pytest.raises(ItaclipError, match="dtype = 'bf16': cannot change after loading"):
        made(np.zeros((40, 50, 3), np.uint8), dtype="bf16")


def test_a_saved_segmenter_has_what_was_chosen(
    tmp_path: Path, scene: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefer(monkeypatch, "openvino int8")
    made = segmenter(agreement=0.5)
    labels = made(scene).labels
    made.save_pretrained(tmp_path / "saved")
    loaded = Segmenter.from_pretrained(tmp_path / "saved")
    assert (loaded.settings.engine, loaded.settings.dtype) == ("openvino", "int8")
    np.testing.assert_array_equal(loaded(scene).labels, labels)


# --- runs ----------------------------------------------------------------------


def test_a_folder_is_continued_with_what_its_run_chose(
    tmp_path: Path, scene: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    Image.fromarray(scene).save(photos / "a.png")
    command = ["segment", str(photos), "--out", str(out), "--no-overlays", *MODEL, "agreement=0.5"]
    with monkeypatch.context() as patch:
        prefer(patch, "openvino int8")
        assert main(command) == 0
    run = json.loads((out / "run.json").read_bytes())
    assert (run["settings"]["engine"], run["settings"]["dtype"]) == ("openvino", "int8")
    assert "openvino int8" in run["choices"].values()
    # another machine, which would choose otherwise
    monkeypatch.setattr(choices, "choices_file", lambda: tmp_path / "other.json")
    new_process()
    asked = prefer(monkeypatch, "torch fp32")
    Image.fromarray(scene[:, ::-1]).save(photos / "b.png")
    assert main(command) == 0
    assert "precision" not in asked
    expected = segmenter(engine="openvino", dtype="int8")
    for name in ("a", "b"):
        with Image.open(out / f"masks/{name}.png") as mask, Image.open(photos / f"{name}.png") as photo:
            np.testing.assert_array_equal(np.asarray(mask), expected(photo).labels)
    # a run of its own chooses anew
    new_process()
    assert main([str(tmp_path / "own") if part == str(out) else part for part in command]) == 0
    assert json.loads((tmp_path / "own/run.json").read_bytes())["settings"]["dtype"] == "fp32"


def test_a_way_that_the_other_machine_lacks(tmp_path: Path, scene: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    prefer(monkeypatch, "openvino int8")
    made = segmenter(agreement=0.5)
    made.settle()
    new_process()
    choices.follow(made.pipeline.choices)
    monkeypatch.setattr(select, "has_openvino", lambda dtype: False)
    other = segmenter(agreement=0.5)
    with pytest.raises(ItaclipError, match="this run took openvino int8, which this machine does not have"):
        other(scene)


@pytest.mark.parametrize("door", ["label", "raster"])
def test_workers_use_what_the_run_chose(
    door: str, tmp_path: Path, scene: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers are processes of their own, which are not told what is fast here."""
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(scene).save(photos / "a.png")
    slowest = "torch bf16"  # no machine would choose it: it is compared last
    prefer(monkeypatch, slowest)
    shared = ["--workers", "1" if door == "label" else "2", "--device", "cpu", *MODEL, "agreement=0.9"]
    if door == "label":
        assert main(["label", str(photos), "--out", str(tmp_path / "out"), *shared]) == 0
        run = json.loads((tmp_path / "out/run.json").read_bytes())["key"]
        assert run["settings"]["dtype"] == "bf16"
        assert slowest in run["choices"].values()
        return
    from itaclip.apps.raster import segment as raster

    out = tmp_path / "labels.tif"
    seen: list[bytes] = []
    monkeypatch.setattr(raster.Store, "remove", lambda store: seen.append((store.folder / "run.json").read_bytes()))
    Image.fromarray(scene).save(tmp_path / "r.tif")
    assert main(["raster", str(tmp_path / "r.tif"), "--out", str(out), *shared]) == 0
    assert json.loads(seen[0])["settings"]["dtype"] == "bf16"


def test_all_processes_of_an_evaluation_choose_alike(tmp_path: Path) -> None:
    demo = Demo(tmp_path)
    chosen = ["--cfg-options", "model.dtype=auto", "model.engine=auto", "model.agreement=0.9"]
    run = demo.start(tmp_path / "two", 2, chosen)
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    found = read_metrics(tmp_path / "two")
    (taken,) = (value for name, value in found["run"]["choices"].items() if name.startswith("precision (model"))
    assert taken == f"{found['run']['engine']} {found['run']['dtype']}"
    assert abs(found["mIoU"] - demo.reference["mIoU"]) < 2
    assert not (tmp_path / "two/choices.json").exists()
