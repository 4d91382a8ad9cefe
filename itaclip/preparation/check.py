"""Check the data set of a configuration before a long evaluation."""

from __future__ import annotations

import itaclip.openmmlab  # noqa: F401 - first: it makes mmseg importable, or says what to install

# isort: split

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from mmseg.registry import DATASETS

from itaclip.console import make_console
from itaclip.demo.dataset import SCENES, ensure_demo_dataset
from itaclip.errors import ItaclipError, did_you_mean
from itaclip.evaluation.setup import load_config
from itaclip.preparation.findings import Findings
from itaclip.preparation.inspection import CONVERTED_MASKS, SAMPLE, Inspection, Tree, inspect_tree
from itaclip.preparation.jobs import default_workers

PROBLEMS = 1
"""Exit status when the data set has problems."""


@dataclass(frozen=True)
class Benchmark:
    """Known facts about the validation set of a benchmark."""

    images: tuple[int, ...]
    """Accepted numbers of images."""
    masks: str
    """How to obtain its masks."""


_VOC = Benchmark((1449,), "Extract VOCtrainval_11-May-2012.tar again.")
# The merged JSON lacks one of the 5,105 validation images of VOC 2010 that the .mat files have.
_CONTEXT = Benchmark((5104, 5105), "Run python datasets/cvt_context.py (docs/datasets.md).")

BENCHMARKS = {
    "PascalVOCDataset": _VOC,
    "PascalVOC20Dataset": _VOC,
    "PascalContextDataset": _CONTEXT,
    "PascalContextDataset59": _CONTEXT,
    "PascalContext60Dataset": _CONTEXT,
    "PascalContext59Dataset": _CONTEXT,
    "COCOStuffDataset": Benchmark((5000,), "Run python datasets/cvt_coco_stuff.py (docs/datasets.md)."),
    "COCOObjectDataset": Benchmark((5000,), "Run python datasets/cvt_coco_object.py (docs/datasets.md)."),
    "CityscapesDataset": Benchmark((500,), "Run python datasets/cvt_cityscapes.py (docs/datasets.md)."),
    "ADE20KDataset": Benchmark((2000,), "Extract ADEChallengeData2016.zip; the full ADE20K has different masks."),
    "DemoDataset": Benchmark((SCENES,), "Delete the folder; it will be drawn again."),
}
"""Benchmarks by the data set's type in configurations."""


def check_dataset(config: Config, full: bool = False, workers: int = 1) -> tuple[Inspection, Tree | None]:
    """Check the files of a configuration's data set.

    Args:
        config: a configuration with ``test_dataloader.dataset``.
        full: whether to decode all images and masks instead of a sample.
        workers: number of decoding processes.

    Returns:
        The findings, and the layout; None if folders are missing and nothing could be read.

    Raises:
        ItaclipError: a data set type that is not registered or cannot be built.
    """
    kind = config.test_dataloader.dataset.type
    benchmark = BENCHMARKS.get(kind)
    findings = missing_parts(config)
    if findings:
        return Inspection(findings=findings), None
    tree = describe(config)
    inspection = inspect_tree(tree, full, workers)
    if benchmark and inspection.pairs not in benchmark.images:
        inspection.findings.add(
            f"{inspection.pairs} images, but {kind} has {benchmark.images[0]}", "Results would not be comparable; "
            "complete the images and the list from the official archives.", str(tree.names or tree.images)
        )  # fmt: skip
    elif not inspection.pairs:
        inspection.findings.add("no image", f"Images must end in {tree.image_suffix}.", str(tree.names or tree.images))
    return inspection, tree


def missing_parts(config: Config) -> Findings:
    """Folders and list files of the configuration that do not exist."""
    dataset = config.test_dataloader.dataset
    root = Path(dataset.get("data_root") or "")
    benchmark = BENCHMARKS.get(dataset.type)
    findings = Findings()
    if not root.is_dir():
        findings.add("missing folder (data_root)", "Pass the data set's folder with --data-root.", str(root))
        return findings
    remedies = {"img_path": "Extract the images there; docs/datasets.md shows the layout."}
    remedies["seg_map_path"] = benchmark.masks if benchmark else CONVERTED_MASKS
    for key, folder in dataset.get("data_prefix", {}).items():
        if not (root / folder).is_dir():
            remedy = remedies.get(key, "Correct data_prefix.")
            findings.add(f"missing folder (data_prefix.{key})", remedy, str(root / folder))
    names = dataset.get("ann_file")
    if names and not (root / names).is_file():
        findings.add("missing list file (ann_file)", remedies["seg_map_path"], str(root / names))
    return findings


def describe(config: Config) -> Tree:
    """Build the data set to learn its suffixes, classes and treatment of label 0.

    Raises:
        ItaclipError: its type is not registered, or it rejects its settings.
    """
    settings = {**config.test_dataloader.dataset, "pipeline": [], "lazy_init": True}
    kind = DATASETS.get(settings.pop("type"))
    if kind is None:
        name = config.test_dataloader.dataset.type
        raise ItaclipError(f"data set type {name!r} is not registered.{did_you_mean(name, DATASETS.module_dict)}")
    try:
        dataset = kind(**settings)
    except Exception as error:  # custom classes may raise anything
        raise ItaclipError(f"{kind.__name__} cannot be built ({type(error).__name__}: {error}).") from error
    classes = dataset.metainfo.get("classes")
    if not classes:
        raise ItaclipError(f"{kind.__name__} has no classes; set test_dataloader.dataset.metainfo.classes.")
    benchmark = BENCHMARKS.get(kind.__name__)
    return Tree(
        images=Path(dataset.data_prefix["img_path"]),
        masks=Path(dataset.data_prefix["seg_map_path"]),
        names=Path(dataset.ann_file) if dataset.ann_file else None,
        image_suffix=dataset.img_suffix,
        mask_suffix=dataset.seg_map_suffix,
        classes=tuple(classes),
        zero_ignored=dataset.reduce_zero_label,
        mask_remedy=benchmark.masks if benchmark else CONVERTED_MASKS,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of ``tools/check_dataset.py``; returns the exit status."""
    options = argparse.ArgumentParser(prog="check_dataset.py", description="Check the data set of a configuration.")
    options.add_argument("--config", type=Path, required=True, help="configuration, such as configs/cfg_voc.py")
    options.add_argument("--data-root", help="folder of the data set; replaces the configuration's")
    options.add_argument("--full", action="store_true", help=f"decode every image and mask instead of {SAMPLE}")
    options.add_argument("--workers", type=int, default=default_workers(), help="processes (default: %(default)s)")
    args = options.parse_args(arguments)
    config = load_config(args.config)
    if args.data_root is not None:
        config.test_dataloader.dataset.data_root = args.data_root
    dataset = config.test_dataloader.dataset
    if dataset.type == "DemoDataset":
        ensure_demo_dataset(dataset.data_root)
    inspection, tree = check_dataset(config, args.full, args.workers if args.full else 1)
    console = make_console()
    if tree is not None:
        shown = len(tree.classes) - len(inspection.classes_without_pixels(tree))
        console.print(f"{dataset.type} in {dataset.data_root}: {inspection.pairs} images, {inspection.decoded} "
                      f"decoded, {shown} of {len(tree.classes)} classes seen.")  # fmt: skip
        if args.full and shown < len(tree.classes):
            console.print(f"classes without pixels: {', '.join(inspection.classes_without_pixels(tree))}")
    if inspection.findings:
        inspection.findings.show(console, f"{args.config}: problems")
        return PROBLEMS
    console.print("no problems found" + ("." if args.full else "; --full decodes every file."))
    return 0
