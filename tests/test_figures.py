"""Figures and charts: legends in any script, masks with any number of classes, the HTML page of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from mmseg.evaluation import IoUMetric
from PIL import Image
from processes import run_python

from itaclip.common import figures
from itaclip.common.figures import fonts
from itaclip.common.figures.palette import palette
from itaclip.errors import ItaclipError
from itaclip.research.evaluation.confusion import class_iou, confusion_matrix
from itaclip.research.evaluation.gallery import Gallery


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


def ink(picture: Image.Image) -> np.ndarray:
    """Mask of the pixels that are not white."""
    return (np.asarray(picture.convert("RGB")) != 255).any(axis=2)


@pytest.mark.parametrize("count", [1, 7, 40, 300])
@pytest.mark.parametrize("height", [20, 200, 1500])
def test_every_class_is_in_the_legend_unclipped(count: int, height: int) -> None:
    labels = np.arange(count)[None]
    colors = palette(count)
    names = [f"class number {i} with rather a long name" for i in range(count)]
    legend = figures.legend(labels, names, colors, height)
    shown = np.unique(np.asarray(legend, np.int64) @ [65536, 256, 1])
    assert {red * 65536 + green * 256 + blue for red, green, blue in colors} <= set(shown.tolist())
    edges = ink(legend)
    assert not edges[0].any()
    assert not edges[-1].any()
    assert not edges[:, 0].any()
    assert not edges[:, -1].any()


@pytest.mark.parametrize("name", ["кошка", "γάτα", "قطة", "șobolan", "a  line\nbreak"])
def test_names_are_written_in_their_own_script(name: str) -> None:
    """The bundled DejaVu Sans has their characters: the picture differs from the fallback's."""
    labels = np.zeros((1, 1), int)
    own = figures.legend(labels, [name], palette(1), 60)
    fallback = figures.legend(labels, ["class 0"], palette(1), 60)
    assert own.size != fallback.size or not np.array_equal(np.asarray(own), np.asarray(fallback))


def test_a_name_that_no_font_can_write_is_shown_by_number() -> None:
    unassigned = "\U000e0fff\U0003fffd"
    assert fonts.font(13, unassigned) is None
    labels = np.ones((1, 1), int)
    shown = figures.legend(labels, ["a", unassigned], palette(2), 60)
    expected = figures.legend(labels, ["a", "class 1"], palette(2), 60)
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(expected))


@pytest.mark.parametrize(("classes", "mode"), [(2, "P"), (256, "P"), (257, "I;16"), (1000, "I;16")])
def test_masks_keep_every_class_id(tmp_path: Path, classes: int, mode: str) -> None:
    labels = np.arange(classes).reshape(1, -1)
    figures.save_mask(labels, palette(classes), tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as opened:
        assert opened.mode == mode
        np.testing.assert_array_equal(np.asarray(opened), labels)


def test_an_id_that_no_png_holds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ItaclipError, match=r"class id 65536: a mask in PNG holds ids up to 65535"):
        figures.save_mask(np.array([[65536]]), [[0, 0, 0]] * 65537, tmp_path / "m.png")
    assert not list(tmp_path.iterdir())


def test_errors_are_red_and_ignored_pixels_black(image: np.ndarray) -> None:
    truth = np.zeros((90, 120), int)
    truth[:15], truth[15:30], truth[30:60] = 1, 7, 255  # 7 is not a class
    drawn = figures.error_map(image, np.zeros_like(truth), truth).astype(int)
    assert (drawn[:30, :, 0] > drawn[:30, :, 1]).all()
    assert (drawn[30:60] == 0).all()
    assert (drawn[60:, :, 1] > drawn[60:, :, 0]).all()


def test_heat_maps_are_brighter_where_values_are_higher(image: np.ndarray) -> None:
    values = np.zeros((90, 120))
    values[:, 60:] = 0.4
    drawn = figures.heat_map(np.full_like(image, 90), values, highest=0.4)
    assert drawn[:, 60:].mean() > drawn[:, :60].mean() + 50
    assert figures.heat_map(image, values, highest=0.0).shape == image.shape
    sheet = figures.score_figure(image, {f"class {i}": values for i in range(5)}, columns=2)
    assert sheet.width == 2 * 120 + 4


def test_confusion_and_iou_against_plain_counting() -> None:
    """Class 4 never occurs; label 6 is not a class and counts as an error of the predicted class."""
    rng = np.random.default_rng(1)
    truth, predicted = rng.choice([0, 1, 2, 3, 6, 255], (20, 30)), rng.integers(0, 4, (20, 30))
    counts = confusion_matrix(predicted.astype(np.uint8), truth.astype(np.uint16), 5)
    assert torch.equal(counts, confusion_matrix(torch.from_numpy(predicted), torch.from_numpy(truth), 5))
    for row, label in enumerate([0, 1, 2, 3, 4, 6]):
        for column in range(5):
            assert counts[row, column] == ((truth == label) & (predicted == column)).sum()
    valid = truth != 255
    for k in range(4):
        both = ((truth == k) & (predicted == k)).sum()
        either = (((truth == k) | (predicted == k)) & valid).sum()
        assert class_iou(counts)[k].item() == pytest.approx(100 * both / either)
    assert class_iou(counts)[4].isnan()


def test_the_gallery_counts_labels_beyond_the_classes_as_evaluations_do(image: np.ndarray, tmp_path: Path) -> None:
    truth = np.zeros((90, 120), np.uint8)
    truth[:30], truth[30:45], truth[45:60] = 1, 2, 255  # 2 is not a class
    predicted = np.zeros_like(truth)
    predicted[:20] = 1
    metric = IoUMetric(iou_metrics=["mIoU"])
    areas = metric.intersect_and_union(torch.from_numpy(predicted), torch.from_numpy(truth), 2, 255)
    expected = metric.total_area_to_metrics(*areas, ["mIoU"])
    gallery = Gallery(tmp_path, ["sky", "sea"], palette(2))
    assert gallery.add("one.jpg", image, predicted, truth) == pytest.approx(100 * expected["IoU"].mean())
    page = gallery.write("run").read_text()
    assert f"mIoU {100 * expected['IoU'].mean():.2f}, {expected['aAcc']:.2%} of the pixels correct" in page


def test_the_gallery_shows_the_worst_first_and_escapes_names(image: np.ndarray, tmp_path: Path) -> None:
    truth = np.zeros((90, 120), int)
    truth[:45] = 1
    gallery = Gallery(tmp_path, ["sky", "猫"], palette(2))
    assert gallery.add("good.jpg", image, truth, truth) == 100
    assert gallery.add("<b>bad</b>.jpg", image, 1 - truth, truth) == 0
    page = gallery.write("run & more").read_text()
    assert page.index("&lt;b&gt;bad") < page.index("good.jpg")
    assert "<b>" not in page
    assert "run &amp; more" in page
    for name in ("iou.png", "confusion.png", "images/000000.jpg", "images/000001.jpg"):
        with Image.open(tmp_path / name) as opened:
            opened.load()
            assert min(opened.size) > 80


def test_visualize_agrees_with_eval(demo_root: Path, tmp_path: Path) -> None:
    from itaclip.research.evaluation.command import main as evaluate

    config = str(ROOT / "configs/cfg_demo.py")
    assert evaluate(["--config", config, "--data-root", str(demo_root), "--limit", "2", "--work-dir", str(tmp_path),
                     "--out", str(tmp_path / "masks"), "--cfg-options", "model.pamr_steps=0", "model.slide_stride=56",
                     "model.img_engineering=False"]) == 0  # fmt: skip
    import json

    measured = json.loads((tmp_path / "metrics.json").read_text())["mIoU"]
    command = [str(ROOT / "tools/visualize.py"), "--config", config, "--data-root", str(demo_root)]
    found = run_python(*command, "--masks", tmp_path / "masks", "--out", tmp_path / "page")
    assert found.returncode == 0, found.stderr
    page = (tmp_path / "page/index.html").read_text()
    assert f"2 images, mIoU {measured:.2f}" in page
    (tmp_path / "data/images").mkdir(parents=True)
    (tmp_path / "data/images/000001.jpg").symlink_to(demo_root / "JPEGImages/scene_003.jpg")
    found = run_python(*command, "--masks", tmp_path / "masks", "--out", tmp_path / "data")
    assert found.returncode == 2
    assert "000001.jpg: the output would replace the input" in found.stderr
    assert [path.name for path in (tmp_path / "data").rglob("*.*")] == ["000001.jpg"]
    (tmp_path / "none").mkdir()
    found = run_python(*command, "--masks", tmp_path / "none", "--out", tmp_path / "p")
    assert found.returncode == 2
    assert "write them with eval.py --out" in found.stderr
