"""Checking data sets, and setting up custom ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image
from preparation_helpers import ROOT, fails_clearly, lines, run_script, visible, write_image, write_mask

from itaclip.core.text import read_auxiliary_texts, read_class_names
from itaclip.errors import ItaclipError
from itaclip.research.preparation.checks import check_dataset
from itaclip.research.preparation.commands import check_dataset as check
from itaclip.research.preparation.commands.new_dataset import main as new_dataset
from itaclip.research.preparation.layout import BENCHMARKS, Benchmark, describe

VOC = ROOT / "configs/cfg_voc.py"


@pytest.fixture
def voc(voc_like: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A correct data set in VOC's layout, with three images as the official number."""
    monkeypatch.setitem(BENCHMARKS, "PascalVOCDataset", Benchmark((3,), "Extract VOCtrainval again."))
    return voc_like([(20, 30), (30, 20), (24, 24)])


def problems(root: Path, config: Path = VOC, full: bool = False) -> dict[str, int]:
    """Number of problems by kind."""
    content = Config.fromfile(config)
    content.test_dataloader.dataset.data_root = str(root)
    seen, _ = check_dataset(content, full)
    return {what: finding.count for what, finding in seen.findings.kinds.items()}


@pytest.mark.parametrize("full", [False, True])
def test_a_correct_data_set_has_no_problems(voc: Path, capsys: pytest.CaptureFixture[str], full: bool) -> None:
    arguments = ["--config", str(VOC), "--data-root", str(voc), "--workers", "2"]
    assert check.main(arguments + ["--full"] * full) == 0
    output = capsys.readouterr().out
    assert "3 images, 3 decoded, 20 of 21 classes seen" in output
    assert "1 class without a pixel in 3 of 3 masks: tvmonitor" in output


def test_all_problems_at_once(voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (voc / "JPEGImages/image_0.jpg").write_bytes((voc / "JPEGImages/image_0.jpg").read_bytes()[:700])
    write_mask(voc / "SegmentationClass/image_1.png", np.full((9, 9), 21))
    (voc / "SegmentationClass/image_2.png").unlink()
    write_image(voc / "JPEGImages/image_3.jpg")
    Image.new("RGB", (6, 4)).save(voc / "SegmentationClass/image_3.png")
    with (voc / "ImageSets/Segmentation/val.txt").open("a") as file:
        file.write("image_3\n\nimage_1\nimage_4.jpg\n")
    assert problems(voc) == {
        "blank line in the list": 1,
        "name listed twice": 1,
        "missing mask": 2,
        "missing image": 1,
        "image that cannot be decoded": 1,
        "image and mask differ in size": 2,
        "label outside 0..20 and 255": 2,
        "mask with colours instead of ids": 1,
        "6 images, but PascalVOCDataset has 3": 1,
    }
    assert check.main(["--config", str(VOC), "--data-root", str(voc)]) == 1
    output = capsys.readouterr().out
    assert "what to do" in output
    assert "Extract VOCtrainval again." in output
    assert "names without .jpg" in output


def test_problems_are_grouped(voc: Path) -> None:
    with (voc / "ImageSets/Segmentation/val.txt").open("a") as file:
        file.writelines(f"missing_{number}\n" for number in range(500))
    content = Config.fromfile(VOC)
    content.test_dataloader.dataset.data_root = str(voc)
    finding = check_dataset(content)[0].findings.kinds["missing image"]
    assert finding.count == 500
    assert len(finding.examples) == 3


def test_exif_orientation_is_applied(voc: Path) -> None:
    image = Image.open(voc / "JPEGImages/image_0.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # displayed rotated, so the loader rotates it
    image.save(voc / "JPEGImages/image_0.jpg", exif=exif)
    assert "mask of a turned photo is not turned" in problems(voc)
    write_mask(voc / "SegmentationClass/image_0.png", np.zeros((30, 20)))
    assert problems(voc) == {}


def test_missing_parts(voc: Path, tmp_path: Path) -> None:
    assert problems(tmp_path / "none") == {"missing folder (data_root)": 1}
    (voc / "ImageSets/Segmentation/val.txt").unlink()
    (voc / "SegmentationClass").rename(voc / "other")
    assert problems(voc) == {"missing folder (data_prefix.seg_map_path)": 1, "missing list file (ann_file)": 1}


def test_bad_usage(tmp_path: Path) -> None:
    (tmp_path / "cfg.py").write_text("model = dict(\n")
    fails_clearly(run_script("tools/check_dataset.py", "--config", tmp_path / "cfg.py"), "cfg.py")
    with pytest.raises(ItaclipError, match="not registered"):
        describe(Config({"test_dataloader": {"dataset": {"type": "PascalVOCDatset"}}}))
    with pytest.raises(ItaclipError, match="cannot be built"):
        describe(Config({"test_dataloader": {"dataset": {"type": "BaseSegDataset", "unknown": 1}}}))
    with pytest.raises(ItaclipError, match="has no classes"):
        describe(Config({"test_dataloader": {"dataset": {"type": "BaseSegDataset"}}}))


@pytest.mark.parametrize(
    ("name", "masks", "mask"),
    [
        ("context", "SegmentationClassContext", "a.png"),
        ("coco_stuff", "annotations/val2017", "a_labelTrainIds.png"),
        ("coco_object", "annotations/val2017", "a_instanceTrainIds.png"),
        ("cityscapes", "gtFine/val", "a_gtFine_labelTrainIds.png"),
    ],
)
def test_layouts_of_the_configurations(tmp_path: Path, name: str, masks: str, mask: str) -> None:
    content = Config.fromfile(ROOT / f"configs/cfg_{name}.py").test_dataloader.dataset
    city = "frankfurt" if name == "cityscapes" else ""
    suffix = "_leftImg8bit.png" if name == "cityscapes" else ".jpg"
    write_image(tmp_path / content.data_prefix.img_path / city / f"a{suffix}")
    write_mask(tmp_path / masks / city / mask, np.zeros((4, 6)))
    if content.get("ann_file"):
        (tmp_path / content.ann_file).parent.mkdir(parents=True)
        (tmp_path / content.ann_file).write_text("a\n")
    (found,) = problems(tmp_path, ROOT / f"configs/cfg_{name}.py").items()
    assert found == (f"1 images, but {content.type} has {BENCHMARKS[content.type].images[0]}", 1)


def benchmark(root: Path, name: str, mask: str, values: list[int], count: int = 40) -> dict[str, str]:
    """Problems and advice for masks of random values, in the layout of a configuration."""
    content = Config.fromfile(ROOT / f"configs/cfg_{name}.py")
    dataset = content.test_dataloader.dataset
    dataset.data_root = str(root)
    for number in range(count):
        suffix = "_leftImg8bit.png" if name == "cityscapes" else ".jpg"
        write_image(root / dataset.data_prefix.img_path / f"{number}{suffix}")
        labels = np.random.default_rng(number).choice(values, (4, 6))
        write_mask(root / dataset.data_prefix.seg_map_path / f"{number}{mask}", labels)
    if dataset.get("ann_file"):
        (root / dataset.ann_file).parent.mkdir(parents=True, exist_ok=True)
        (root / dataset.ann_file).write_text("".join(f"{number}\n" for number in range(count)))
    seen, _ = check_dataset(content)
    return {what: finding.remedy for what, finding in seen.findings.kinds.items() if "images, but" not in what}


RAW = [value for value in range(182) if value not in (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)]


@pytest.mark.parametrize(
    ("name", "mask", "values", "told"),
    [
        ("coco_stuff", "_labelTrainIds.png", [*RAW, 255], "values are those of raw maps"),
        ("coco_object", "_instanceTrainIds.png", [*RAW, 255], "values are those of raw maps"),
        ("coco_object", "_instanceTrainIds.png", list(range(171)), "values are those of labels of COCO-Stuff"),
        ("cityscapes", "_gtFine_labelTrainIds.png", list(range(34)), "values are those of Cityscapes' label ids"),
        ("context", ".png", [*range(200)], "cvt_context.py"),
    ],
)
def test_masks_of_another_kind_under_the_right_name(
    name: str, mask: str, values: list[int], told: str, tmp_path: Path
) -> None:
    (remedy,) = benchmark(tmp_path, name, mask, values).values()
    assert told in remedy
    assert f"datasets/cvt_{name}.py" in remedy


@pytest.mark.parametrize(
    ("name", "mask", "values", "told"),
    [
        ("coco_stuff", "_labelTrainIds.png", [v for v in RAW if v < 171], "none of the labels 11, 25, 28"),
        ("coco_stuff", "_labelTrainIds.png", list(range(81)), "none of the labels 81, 82"),
        ("context", ".png", list(range(34)), "none of the labels 34, 35"),
    ],
)
def test_values_that_cannot_tell(name: str, mask: str, values: list[int], told: str, tmp_path: Path) -> None:
    """Allowed values that are also those of another kind: said, with what is known."""
    found = benchmark(tmp_path / "many", name, mask, values)
    assert told in found["masks that may be of another kind"]
    assert "do not tell" in found["masks that may be of another kind"]
    assert benchmark(tmp_path / "few", name, mask, values, 10) == {}


@pytest.mark.parametrize(
    ("name", "mask", "values"),
    [
        ("coco_stuff", "_labelTrainIds.png", [*range(171), 255]),
        ("coco_object", "_instanceTrainIds.png", list(range(81))),
        ("coco_object", "_instanceTrainIds.png", [v for v in range(81) if v in RAW]),
        ("cityscapes", "_gtFine_labelTrainIds.png", [*range(19), 255]),
        ("context", ".png", list(range(60))),
    ],
)
def test_masks_of_the_right_kind_are_not_suspected(name: str, mask: str, values: list[int], tmp_path: Path) -> None:
    assert benchmark(tmp_path, name, mask, values) == {}


# --- custom data sets --------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Three images in subfolders with masks *_mask.png, and a class file."""
    for number, folder in enumerate(("north", "north", "south")):
        write_image(tmp_path / f"data/images/{folder}/{number}.jpg")
        write_mask(tmp_path / f"data/masks/{folder}/{number}_mask.png", np.full((4, 6), number))
    (tmp_path / "classes.txt").write_text("ground, earth\nhouse\ntree, bush\n")
    return tmp_path


def arguments(own: Path, *more: str) -> list[str]:
    base = [str(own / "data/images"), str(own / "data/masks"), "--classes", str(own / "classes.txt")]
    return [*base, "--name", "village", "--out", str(own / "out"), *more]


@pytest.mark.parametrize("background", [True, False])
def test_new_dataset_can_be_used_at_once(own: Path, background: bool) -> None:
    assert new_dataset(ROOT / "configs/base.py", arguments(own, *["--background"] * background)) == 0
    config = Config.fromfile(own / "out/configs/cfg_village.py")
    assert config.model.type == "ITACLIPSegmentor"
    assert config.model.background is background
    assert "auxiliary_text_path" not in config.model
    seen, tree = check_dataset(config, full=True)
    assert not seen.findings
    assert seen.pairs == seen.decoded == 3
    assert tree is not None
    assert tree.classes == ("ground", "house", "tree")

    classes = read_class_names(config.model.name_path, background)
    assert classes.synonyms == (("ground", "earth"), ("house",), ("tree", "bush"))
    stub = own / "out/llm_texts/village_definitions.txt"
    assert lines(stub) == ["ground >=", "house >=", "tree >="][background:]
    with pytest.raises(ItaclipError, match="is empty"):
        read_auxiliary_texts(stub, classes, background)
    stub.write_text("".join(f"{line}a thing\n" for line in lines(stub)))
    assert len(read_auxiliary_texts(stub, classes, background)) == 3 - background


def test_new_dataset_replaces_nothing(own: Path) -> None:
    assert new_dataset(ROOT / "configs/base.py", arguments(own)) == 0
    before = visible(own)
    with pytest.raises(ItaclipError, match="already exists"):
        new_dataset(ROOT / "configs/base.py", arguments(own, "--ignore-zero"))
    assert new_dataset(ROOT / "configs/base.py", arguments(own, "--ignore-zero", "--force")) == 0
    assert visible(own) == before
    dataset = Config.fromfile(own / "out/configs/cfg_village.py").test_dataloader.dataset
    assert dataset.reduce_zero_label is True


def test_new_dataset_with_problems_writes_nothing(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "classes.txt").write_text("ground\nhouse\n")
    assert new_dataset(ROOT / "configs/base.py", arguments(own)) == 1
    assert "outside 0..1" in " ".join(capsys.readouterr().out.split())
    (own / "data/masks/south/2_mask.png").unlink()
    assert new_dataset(ROOT / "configs/base.py", arguments(own)) == 1
    assert not (own / "out").exists()


def test_new_dataset_bad_usage(own: Path) -> None:
    command = ["tools/new_dataset.py", *arguments(own)]
    fails_clearly(run_script(*command, "--name", "my village"), "--name")
    for change, message in (
        (("--classes", str(own / "none.txt")), "no such file"),
        (("--name", "../x"), "letters, digits"),
    ):
        with pytest.raises(ItaclipError, match=message):
            new_dataset(ROOT / "configs/base.py", arguments(own, *change))
    (own / "many.txt").write_text("".join(f"class {number}\n" for number in range(255)))
    with pytest.raises(ItaclipError, match="at most 254"):
        new_dataset(ROOT / "configs/base.py", arguments(own, "--classes", str(own / "many.txt"), "--ignore-zero"))
    write_image(own / "data/images/a.png")
    with pytest.raises(ItaclipError, match="the same suffix"):
        new_dataset(ROOT / "configs/base.py", arguments(own))
    (own / "data/masks").rename(own / "data/other")
    with pytest.raises(ItaclipError, match="no such folder"):
        new_dataset(ROOT / "configs/base.py", arguments(own))
