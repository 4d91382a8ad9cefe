"""`eval.py`: numbers, files, checks before a run, and one clear error for every bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from mmengine.config import Config
from mmseg.evaluation import IoUMetric
from mmseg.registry import DATASETS
from PIL import ExifTags, Image, ImageOps
from processes import run_python

from itaclip.common.figures import titled
from itaclip.core.text import parse_class_names, read_class_names
from itaclip.errors import ItaclipError
from itaclip.research.evaluation.command import SOME_SKIPPED, main
from itaclip.research.evaluation.setup import check_classes
from itaclip.research.openmmlab.configuration import load_config


@pytest.fixture
def config(tmp_path: Path, tiny_weights: Path) -> Path:
    """A configuration of the demo's 20 classes on a data set in VOC's layout."""
    path = tmp_path / "cfg_small.py"
    path.write_text(f"""
_base_ = "{ROOT}/configs/cfg_demo.py"
model = dict(model_name="{tiny_weights}", img_engineering=False, slide_crop=224, slide_stride=224, pamr_steps=1,
             device="cpu", area_thd=None, auxiliary_text_path=None)
pipeline = [dict(type="LoadImageFromFile"), dict(type="Resize", scale=(2048, 64), keep_ratio=True),
            dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
test_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(type="DemoDataset", pipeline=pipeline))
""")
    return path


def run(config: Path, root: Path, *more: str) -> int:
    return main(["--config", str(config), "--data-root", str(root), "--work-dir", str(config.parent / "out"), *more])


def read_metrics(config: Path) -> dict[str, Any]:
    return json.loads((config.parent / "out/metrics.json").read_text())


def test_everything_is_written_and_the_numbers_are_iou_metrics(
    config: Path, voc_like: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = voc_like([(40, 60), (64, 64), (50, 33)])
    assert run(config, root, "--out", str(tmp_path / "masks"), "--show-dir", str(tmp_path / "overlays")) == 0

    metric = IoUMetric(iou_metrics=["mIoU"])
    metric.dataset_meta = {"classes": tuple(str(i) for i in range(29))}
    results = []
    for mask in sorted((tmp_path / "masks").iterdir()):
        import torch

        predicted = torch.from_numpy(np.asarray(Image.open(mask)).astype(np.int64))
        truth = torch.from_numpy(np.asarray(Image.open(root / f"SegmentationClass/{mask.name}")).astype(np.int64))
        assert predicted.shape == truth.shape
        results.append(IoUMetric.intersect_and_union(predicted, truth, 29, 255))
    expected = metric.compute_metrics(results)

    metrics = read_metrics(config)
    assert metrics["images"] == 3
    assert metrics["mIoU"] == pytest.approx(expected["mIoU"], abs=0.006)
    assert metrics["aAcc"] == pytest.approx(expected["aAcc"], abs=0.006)
    assert len(metrics["per_class"]) == 29
    assert metrics["settings"]["pamr_steps"] == 1
    assert metrics["versions"]["torch"]
    assert metrics["seconds_per_image"] > 0
    assert metrics["peak_memory_mib"]["process"] > 100

    overlays = sorted((tmp_path / "overlays").iterdir())
    assert [p.name for p in overlays] == ["image_0.png", "image_1.png", "image_2.png"]
    with Image.open(overlays[0]) as picture:  # image, ground truth, prediction and legend, side by side
        assert picture.width > 3 * 60
        assert picture.height >= 40
    assert Image.open(tmp_path / "masks/image_0.png").mode == "P"
    printed = capsys.readouterr().out
    assert "brick wall" in printed
    assert f"mIoU {metrics['mIoU']:.2f}" in printed


@pytest.mark.parametrize("loader", ["color", "color_ignore_orientation"])
def test_overlays_show_images_in_the_orientation_of_their_labels(
    loader: str, config: Path, voc_like: Callable[..., Path], tmp_path: Path
) -> None:
    """mmcv applies the EXIF orientation to images unless disabled, and never to masks."""
    root = voc_like([(40, 60)] * 8)
    panels = []
    for i in range(8):
        path, exif = root / f"JPEGImages/image_{i}.jpg", Image.Exif()
        exif[ExifTags.Base.Orientation] = i + 1
        with Image.open(path) as plain:
            plain.save(path, exif=exif, quality=95)
        with Image.open(path) as stored:
            seen = ImageOps.exif_transpose(stored) if loader == "color" else stored.copy()
        Image.new("L", seen.size).save(root / f"SegmentationClass/image_{i}.png")
        panels.append(titled(seen, "image"))
    config.write_text(config.read_text().replace('"LoadImageFromFile"', f'"LoadImageFromFile", color_type="{loader}"'))
    assert run(config, root, "--show-dir", str(tmp_path / "overlays")) == 0
    for i, panel in enumerate(panels):
        with Image.open(tmp_path / f"overlays/image_{i}.png") as picture:
            shown = picture.crop((0, 0, *panel.size))
        assert np.abs(np.asarray(shown, int) - np.asarray(panel, int)).mean() < 2, f"orientation {i + 1}"


def test_batch_size_changes_nothing(config: Path, voc_like: Callable[..., Path]) -> None:
    root = voc_like([(40, 60), (64, 64), (50, 33), (40, 60)])
    found = []
    for size in (1, 3):
        run(config, root, "--cfg-options", f"test_dataloader.batch_size={size}")
        found.append(read_metrics(config)["per_class"])
    for name, values in found[0].items():
        assert values["IoU"] == pytest.approx(found[1][name]["IoU"], abs=0.2)


def test_limit_and_overrides(config: Path, voc_like: Callable[..., Path], tiny_torchscript: Path) -> None:
    root = voc_like([(40, 60)] * 4)
    run(config, root, "--limit", "3", "--weights", str(tiny_torchscript), "--cfg-options", "model.logit_scale=33")
    metrics = read_metrics(config)
    assert metrics["images"] == 3
    assert metrics["settings"]["logit_scale"] == 33
    assert metrics["run"]["model_name"] == str(tiny_torchscript)


def test_unreadable_images_are_reported_and_the_run_continues(
    config: Path, voc_like: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = voc_like([(40, 60)] * 3)
    (root / "JPEGImages/image_1.jpg").write_bytes(b"no image")
    assert run(config, root) == SOME_SKIPPED
    metrics = read_metrics(config)
    assert metrics["images"] == 2
    assert [Path(s["path"]).name for s in metrics["skipped"]] == ["image_1.jpg"]
    assert "skipped" in capsys.readouterr().out
    (root / "JPEGImages/image_0.jpg").unlink()
    assert run(config, root) == SOME_SKIPPED
    assert read_metrics(config)["images"] == 1


# --- checks before a run -----------------------------------------------------


def test_labels_outside_the_classes_stop_the_run(config: Path, voc_like: Callable[..., Path]) -> None:
    root = voc_like([(40, 60)] * 2, classes=20)
    mask = np.asarray(Image.open(root / "SegmentationClass/image_1.png")).copy()
    mask[3, 4] = 77
    Image.fromarray(mask).save(root / "SegmentationClass/image_1.png")
    with pytest.raises(ItaclipError, match=r"image_1\.png: contains label 77, but DemoDataset has labels 0\.\.28"):
        run(config, root)
    mask[3, 4] = 255  # ignored, which is fine
    Image.fromarray(mask).save(root / "SegmentationClass/image_1.png")
    assert run(config, root) == 0


@pytest.mark.parametrize(
    ("missing", "named"),
    [(".", "data_root"), ("JPEGImages", "data_prefix.img_path"), ("SegmentationClass", "data_prefix.seg_map_path"),
     ("ImageSets/Segmentation/val.txt", "ann_file")],
)  # fmt: skip
def test_a_missing_folder_is_named(missing: str, named: str, config: Path, voc_like: Callable[..., Path]) -> None:
    root = voc_like([(40, 60)])
    text = config.read_text().replace('type="DemoDataset"', 'type="PascalContext60Dataset"')
    config.write_text(text)
    path = root / missing
    path.rename(root.parent / "gone")
    with pytest.raises(ItaclipError, match=rf"does not exist \({named}") as caught:
        run(config, root)
    assert str(path) in str(caught.value)


def test_another_folder_is_not_overwritten_by_the_demo(config: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/photo.jpg").write_bytes(b"dear")
    with pytest.raises(ItaclipError, match="is not a demo data set"):
        run(config, tmp_path / "mine")
    assert (tmp_path / "mine/photo.jpg").read_bytes() == b"dear"


def test_class_files_of_other_data_sets_are_rejected(config: Path, voc_like: Callable[..., Path]) -> None:
    root = voc_like([(40, 60)])
    with pytest.raises(ItaclipError, match=r"cls_voc21\.txt: has 21 classes, but DemoDataset has 29"):
        run(config, root, "--cfg-options", f"model.name_path={ROOT}/configs/cls_voc21.txt")


@pytest.mark.parametrize("name", ["voc", "voc20", "context", "context59", "coco_stuff", "coco_object", "cityscapes",
                                  "ade20k", "loveda", "isaid", "potsdam", "vaihingen",
                                  "openearthmap", "uavid", "udd5", "vdd", "demo"])  # fmt: skip
def test_shipped_configurations_are_complete(name: str) -> None:
    """Each one loads, its class file matches the data set's classes, and its texts match the class file."""
    path = ROOT / f"configs/cfg_{name}.py"
    config = load_config(path)
    model = config.model
    classes = read_class_names(model.name_path, model.background)
    kind = DATASETS.get(config.test_dataloader.dataset.type)
    check_classes(classes, type(kind.__name__, (), {"metainfo": kind.METAINFO})())
    if model.get("auxiliary_text_path"):
        from itaclip.core.text import read_auxiliary_texts

        read_auxiliary_texts(model.auxiliary_text_path, classes, model.background)
    opening = path.read_text()[:900]
    for part in (f"python eval.py --config configs/cfg_{name}.py", "Published:", "Measured here:"):
        assert part in opening


def test_classes_in_another_order_are_rejected() -> None:
    kind = DATASETS.get("PascalVOC20Dataset")
    dataset = type("PascalVOC20Dataset", (), {"metainfo": kind.METAINFO})()
    names = list(kind.METAINFO["classes"])
    names[7], names[11] = names[11], names[7]
    with pytest.raises(ItaclipError, match=r"line 12: 'cat' is class 7 .* belongs on line 8, which has 'dog'"):
        check_classes(parse_class_names(names, "names.txt"), dataset)
    with pytest.raises(ItaclipError, match=r"line 13: 'cat' is class 7 .* belongs on line 9, which has 'dog'"):
        check_classes(parse_class_names(["__ignore__", *names], "labels.txt"), dataset)


def test_settings_match_the_paper() -> None:
    table = {  # short side, texts, alpha, lambda, scale, prob_thd, area_thd, background
        "voc": (336, "definitions", 0.05, 0.7, 60, 0.1, 0.1, True),
        "context": (336, "definitions", 0.15, 0.75, 55, 0.1, None, True),
        "coco_object": (336, "synonyms", 0.1, 0.75, 50, 0.1, None, True),
        "coco_stuff": (448, "definitions", 0.2, 0.75, 40, 0, None, False),
        "cityscapes": (560, "synonyms", 0.05, 0.7, 40, 0, None, False),
    }
    for name, (side, texts, alpha, weight, scale, threshold, area, background) in table.items():
        config = load_config(ROOT / f"configs/cfg_{name}.py")
        model = config.model
        assert config.test_pipeline[1].scale == (2048, side)
        assert texts in model.auxiliary_text_path
        assert (model.def_coefficient, model.img_eng_coefficient) == (alpha, weight)
        assert (model.logit_scale, model.prob_thd, model.get("area_thd")) == (scale, threshold, area)
        assert model.background is background
        assert (model.slide_crop, model.slide_stride, model.pamr_steps) == (224, 28, 10)


# --- the command line --------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "none.py"], "none.py: no such configuration file"),
        (["--config", "CONFIG", "--weights", "missing.pt"], "missing.pt: no such weight file"),
        (["--config", "CONFIG", "--limit", "0"], "--limit 0: expected 1 or more"),
        (["--config", "CONFIG", "--cfg-options", "model.pamr_stepz=3"], "unknown setting 'pamr_stepz'"),
        (["--config", "CONFIG", "--cfg-options", "model.type=FCN"], "model.type 'FCN'"),
    ],
)
def test_user_errors_have_a_message(
    arguments: list[str], message: str, config: Path, voc_like: Callable[..., Path]
) -> None:
    root = voc_like([(40, 60)])
    with pytest.raises(ItaclipError) as caught:
        main([str(config) if a == "CONFIG" else a for a in arguments] + ["--data-root", str(root)])
    assert message in str(caught.value)


def test_user_errors_show_no_traceback(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("model = dict(\n")
    for arguments in (["--config", str(broken)], ["--config", str(tmp_path / "none.py")]):
        done = run_python(ROOT / "eval.py", *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert arguments[1] in done.stderr


def test_mmsegs_own_runner_gives_the_same_numbers(config: Path, voc_like: Callable[..., Path]) -> None:
    from mmengine.runner import Runner

    root = voc_like([(40, 60), (64, 64), (50, 33)])
    run(config, root)
    settings = Config.fromfile(config)
    settings.work_dir = str(config.parent / "runner")
    settings.test_dataloader.dataset.data_root = str(root)
    settings.env_cfg = dict()
    metrics = Runner.from_cfg(settings).test()
    assert metrics["mIoU"] == pytest.approx(read_metrics(config)["mIoU"], abs=0.006)
