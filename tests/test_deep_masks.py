"""Masks of 16 bits: ADE20K with 847 classes, Pascal Context with 459, data sets of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image
from preparation_helpers import write_image
from rich.console import Console
from scipy.io import savemat

from itaclip.core.text import read_class_names
from itaclip.errors import ItaclipError
from itaclip.research.openmmlab.configuration import load_config
from itaclip.research.preparation.checks import check_dataset, check_labels
from itaclip.research.preparation.context import ALL_LIST, ALL_MASKS, convert_all_classes
from itaclip.research.preparation.conversion import RunOptions
from itaclip.research.preparation.custom import CustomDataset, write_files
from itaclip.research.preparation.masks import read_label_map, write_label_map

OPTIONS = RunOptions(Console(quiet=True))
LABELS = [[0, 255, 256, 846, 65535, 1], [2, 3, 4, 5, 6, 7]]


def ade847(root: Path, labels: Any = LABELS) -> Config:
    """Two images of ADE20K in the preparation for detectron2."""
    for name in ("a", "b"):
        write_image(root / f"images_detectron2/validation/{name}.jpg", 2, 6)
        path = root / f"annotations_detectron2/validation/{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(labels, np.uint16)).save(path)
    return load_config(ROOT / "configs/cfg_ade847.py", data_root=str(root))


def built(config: Config) -> Any:
    init_default_scope("mmseg")
    return DATASETS.build(config.test_dataloader.dataset)


def test_masks_are_loaded_with_all_their_bits(tmp_path: Path) -> None:
    dataset = built(ade847(tmp_path))
    sample = dataset[0]["data_samples"]
    assert sample.gt_sem_seg.data[0].tolist() == LABELS
    assert (len(dataset), len(dataset.metainfo["classes"])) == (2, 847)
    assert check_labels(dataset) == []


def test_the_check_reads_them_too(tmp_path: Path) -> None:
    inspection, tree = check_dataset(ade847(tmp_path))
    assert tree is not None
    assert list(inspection.findings.kinds) == ["2 images, but ADE20K847Dataset has 2000"]
    assert inspection.pixels[846] == inspection.pixels[255] == inspection.pixels[65535] == 2
    assert len(inspection.classes_without_pixels(tree)) == 847 - 11


def test_labels_that_the_data_set_does_not_have(tmp_path: Path) -> None:
    config = ade847(tmp_path, [[847, 0], [1, 2]])
    with pytest.raises(ItaclipError, match=r"contains label 847, but ADE20K847Dataset has labels 0\.\.846 and 65535"):
        check_labels(built(config))
    assert "label outside 0..846 and 65535" in check_dataset(config)[0].findings.kinds


def test_masks_without_any_label(tmp_path: Path) -> None:
    with pytest.raises(ItaclipError, match="contain only 65535, which is ignored"):
        check_labels(built(ade847(tmp_path, [[65535] * 6] * 2)))


def test_other_data_sets_still_refuse_them(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    write_label_map(path, np.array([[300, 4]], np.uint16))
    with pytest.raises(ItaclipError, match=r"values 4 to 300; a label map has .*0\.\.254 and 255 for ignored"):
        read_label_map(path)
    assert read_label_map(path, deep=True).tolist() == [[300, 4]]


def test_a_selection_of_classes_is_refused(tmp_path: Path) -> None:
    config = ade847(tmp_path)
    config.test_dataloader.dataset.metainfo = {"classes": ["wall", "sky"]}
    with pytest.raises(ItaclipError, match="a selection of classes is not supported"):
        built(config)[0]


def test_the_shipped_class_files() -> None:
    ade, context = (read_class_names(ROOT / f"configs/cls_{name}.txt") for name in ("ade847", "context459"))
    assert (len(ade), len(context)) == (847, 459)
    assert ade.names[:3] == ("wall", "building", "sky")
    assert (context.names[0], context.names[430], context.names[-1]) == ("accordion", "unknown", "wool")


def test_a_data_set_of_ones_own(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"class {i}" for i in range(300)) + "\n")
    write_image(tmp_path / "images/a.jpg", 1, 3)
    (tmp_path / "masks").mkdir()
    write_label_map(tmp_path / "masks/a.png", np.array([[0, 300, 65535]], np.uint16))
    dataset = CustomDataset("mine", tmp_path / "images", tmp_path / "masks", read_class_names(names), ignore_zero=True)
    write_files(dataset, dataset.tree(), 1, tmp_path / "out", ROOT / "configs/base.py", force=False)
    made = built(load_config(tmp_path / "out/configs/cfg_mine.py"))
    assert made[0]["data_samples"].gt_sem_seg.data[0].tolist() == [[65535, 299, 65535]]
    assert check_labels(made) == []


# --- Pascal Context's .mat files ---------------------------------------------


@pytest.fixture
def voc2010(tmp_path: Path) -> Path:
    """A VOC2010 folder with one validation image, and label maps whose ids are in reverse order."""
    root = tmp_path / "VOC2010"
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/val.txt").write_text("2008_000002\n")
    (root / "trainval").mkdir()
    names = read_class_names(ROOT / "configs/cls_context459.txt").names
    lines = [f"{number}: {name}\n" for number, name in enumerate(reversed(names), 1)]
    (root / "labels.txt").write_text("".join(lines))
    savemat(root / "trainval/2008_000002.mat", {"LabelMap": np.array([[1, 459], [0, 458]], np.uint16)})
    write_image(root / "JPEGImages/2008_000002.jpg", 2, 2)
    return root


def test_mats_of_459_classes(voc2010: Path) -> None:
    assert convert_all_classes(voc2010, voc2010 / "trainval", OPTIONS) == 1
    assert read_label_map(voc2010 / ALL_MASKS / "2008_000002.tif", deep=True).tolist() == [[458, 0], [65535, 1]]
    assert (voc2010 / ALL_LIST).read_text() == "2008_000002\n"
    dataset = built(load_config(ROOT / "configs/cfg_context459.py", data_root=str(voc2010)))
    assert dataset[0]["data_samples"].gt_sem_seg.data[0].tolist() == [[458, 0], [65535, 1]]
    assert check_labels(dataset) == []
    assert convert_all_classes(voc2010, voc2010 / "trainval", OPTIONS) == 0  # compared with its source, and kept


def test_mats_with_other_names(voc2010: Path) -> None:
    (voc2010 / "labels.txt").write_text("1: accordion\n2: sky\n")
    with pytest.raises(ItaclipError, match=r"labels\.txt: has no class named aeroplane, .*459 classes"):
        convert_all_classes(voc2010, voc2010 / "trainval", OPTIONS)
