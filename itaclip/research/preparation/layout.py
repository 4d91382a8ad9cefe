"""Where the files of a configuration's data set lie, and what is known about the benchmarks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmseg.registry import DATASETS

from itaclip.common.demo.dataset import SCENES, ensure_demo_dataset
from itaclip.errors import ItaclipError, did_you_mean
from itaclip.research.openmmlab.datasets import BaseSegDataset
from itaclip.research.preparation import coco
from itaclip.research.preparation.findings import Findings
from itaclip.research.preparation.inspection import CONVERTED_MASKS, OWN_MASKS, OtherKind, Tree


@dataclass(frozen=True)
class Benchmark:
    """Known facts about the validation set of a benchmark."""

    images: tuple[int, ...]
    """Accepted numbers of images."""
    masks: str
    """How to obtain its masks."""
    others: tuple[OtherKind, ...] = ()
    """Other masks that exist for its images and are taken for its own."""


_VOC = Benchmark((1449,), "Extract VOCtrainval_11-May-2012.tar again.")
# The merged JSON lacks one of the 5,105 validation images of VOC 2010 that the .mat files have.
_CONTEXT = Benchmark(
    (5104, 5105), "Run python datasets/cvt_context.py (docs/datasets.md).",
    (OtherKind("the masks with 33 classes", frozenset(range(34))),),
)  # fmt: skip
_DEMO = Benchmark((SCENES,), "Delete the folder; it will be drawn again.")
_RAW = OtherKind("raw maps of stuffthingmaps under other names", frozenset(coco.RAW_VALUES))
_STUFF = OtherKind("labels of COCO-Stuff (*_labelTrainIds.png)", frozenset(range(171)))
_OBJECT = OtherKind("labels of COCO-Object (*_instanceTrainIds.png)", frozenset(range(81)))
_IDS = OtherKind("Cityscapes' label ids (*_labelIds.png)", frozenset(range(34)))

BENCHMARKS = {
    "PascalVOCDataset": _VOC,
    "PascalVOC20Dataset": _VOC,
    "PascalContextDataset": _CONTEXT,
    "PascalContextDataset59": _CONTEXT,
    "PascalContext60Dataset": _CONTEXT,
    "PascalContext59Dataset": _CONTEXT,
    "COCOStuffDataset": Benchmark(
        (5000,), "Run python datasets/cvt_coco_stuff.py (docs/datasets.md).", (_RAW, _OBJECT)
    ),
    "COCOObjectDataset": Benchmark(
        (5000,), "Run python datasets/cvt_coco_object.py (docs/datasets.md).", (_STUFF, _RAW)
    ),
    "CityscapesDataset": Benchmark((500,), "Run python datasets/cvt_cityscapes.py (docs/datasets.md).", (_IDS,)),
    "ADE20KDataset": Benchmark((2000,), "Extract ADEChallengeData2016.zip; the full ADE20K has different masks."),
    "ADE20K847Dataset": Benchmark(
        (2000,), "Prepare ADE20K_2021_17_01 for detectron2 (docs/datasets.md); masks of 150 classes differ."
    ),
    "PascalContext459Dataset": Benchmark(
        (5104, 5105), "Run python datasets/cvt_context.py with --all-classes (docs/datasets.md)."
    ),
    "DemoDataset": _DEMO,
    "DemoThingsDataset": _DEMO,
    "LoveDADataset": Benchmark((1669,), "Run tools/dataset_converters/loveda.py of MMSegmentation."),
    "iSAIDDataset": Benchmark((11644,), "Run tools/dataset_converters/isaid.py of MMSegmentation."),
    "PotsdamDataset": Benchmark((2016,), "Run tools/dataset_converters/potsdam.py of MMSegmentation."),
    "VDDDataset": Benchmark((80,), "Take the masks of class ids, 0 to 6 (docs/datasets.md)."),
    "ISPRSDataset": Benchmark((398,), "Run tools/dataset_converters/vaihingen.py of MMSegmentation."),
}
"""Benchmarks by the data set's type in configurations."""


def draw_demo(dataset: Mapping[str, Any]) -> None:
    """Draw the demo's data set if these settings are its own and it does not exist yet."""
    if dataset.get("type") in ("DemoDataset", "DemoThingsDataset"):
        ensure_demo_dataset(dataset.get("data_root") or "")


def _paths(dataset: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """Yield the folders and the list file that a data set needs, by setting."""
    root = Path(dataset.get("data_root") or "")
    yield "data_root", root
    for key, folder in dataset.get("data_prefix", {}).items():
        if folder:
            yield f"data_prefix.{key}", root / folder
    if dataset.get("ann_file"):
        yield "ann_file", root / dataset["ann_file"]


def require_paths(dataset: Mapping[str, Any]) -> None:
    """Check that the folders and the list file of a data set exist.

    Raises:
        ItaclipError: one does not; the message names the setting.
    """
    for name, path in _paths(dataset):
        if not path.exists():
            folders = ", ".join(str(folder) for folder in dataset.get("data_prefix", {}).values())
            raise ItaclipError(
                f"{path}: does not exist ({name} of the data set {dataset['type']}). Pass the folder that contains "
                f"{folders} with --data-root; docs/datasets.md shows the layout."
            )


def missing_parts(config: Config) -> Findings:
    """List folders and list files of the configuration that do not exist."""
    dataset = config.test_dataloader.dataset
    benchmark = BENCHMARKS.get(dataset.type)
    masks = benchmark.masks if benchmark else CONVERTED_MASKS
    remedies = {
        "data_root": "Pass the data set's folder with --data-root.", "data_prefix.seg_map_path": masks,
        "data_prefix.img_path": "Extract the images there; docs/datasets.md shows the layout.", "ann_file": masks,
    }  # fmt: skip
    findings = Findings()
    for name, path in _paths(dataset):
        is_list = name == "ann_file"
        if not (path.is_file() if is_list else path.is_dir()):
            what = "list file" if is_list else "folder"
            findings.add(f"missing {what} ({name})", remedies.get(name, "Correct data_prefix."), str(path))
            if name == "data_root":
                break
    return findings


def describe(config: Config) -> Tree:
    """Build the data set to learn its suffixes, classes and treatment of label 0.

    Raises:
        ItaclipError: its type is not registered, or it rejects its settings.
    """
    settings = {**config.test_dataloader.dataset, "pipeline": [], "lazy_init": True}
    kind = registered(settings.pop("type"))
    try:
        dataset = kind(**settings)
    except Exception as error:  # custom classes may raise anything
        raise ItaclipError(f"{kind.__name__} cannot be built ({type(error).__name__}: {error}).") from error
    return replace(tree_of(dataset), turned=_turned(config.test_dataloader.dataset.get("pipeline", [])))


def registered(name: Any) -> Any:
    """Return the class of a data set type.

    Raises:
        ItaclipError: it is not registered.
    """
    kind = DATASETS.get(name) if isinstance(name, str) else name
    if kind is None:
        raise ItaclipError(f"data set type {name!r} is not registered.{did_you_mean(name, DATASETS.module_dict)}")
    return kind


def tree_of(dataset: BaseSegDataset) -> Tree:
    """Return the layout of a data set.

    Raises:
        ItaclipError: it has no classes, or no folder of images or masks.
    """
    kind = type(dataset).__name__
    classes = dataset.metainfo.get("classes")
    if not classes:
        raise ItaclipError(f"{kind} has no classes; set test_dataloader.dataset.metainfo.classes.")
    folders = [dataset.data_prefix.get(key) for key in ("img_path", "seg_map_path")]
    for key, folder in zip(("img_path", "seg_map_path"), folders, strict=True):
        if folder is None:
            raise ItaclipError(f"{kind} has no folder {key}; set test_dataloader.dataset.data_prefix.{key}.")
    benchmark = BENCHMARKS.get(kind)
    mapping = dataset.label_map
    return Tree(
        images=Path(folders[0]),
        masks=Path(folders[1]),
        names=Path(dataset.ann_file) if dataset.ann_file and not Path(dataset.ann_file).is_dir() else None,
        image_suffix=dataset.img_suffix,
        mask_suffix=dataset.seg_map_suffix,
        classes=tuple(classes),
        zero_ignored=dataset.reduce_zero_label,
        mask_remedy=benchmark.masks if benchmark else OWN_MASKS,
        others=benchmark.others if benchmark else (),
        label_map=tuple(mapping[number] for number in range(len(mapping))) if mapping else None,
        benchmark=benchmark is not None,
    )


def _turned(pipeline: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a pipeline turns images as their EXIF orientation says."""
    kinds = [step.get("color_type", "color") for step in pipeline if step.get("type") == "LoadImageFromFile"]
    return not any(kind == "unchanged" or kind.endswith("_ignore_orientation") for kind in kinds)
