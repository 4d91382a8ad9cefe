"""Check the data set of a configuration before a long evaluation."""

from __future__ import annotations

import itaclip.research.openmmlab  # noqa: F401 - first: it makes mmseg importable, or says what to install

# isort: split

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from itaclip.common.console import make_console
from itaclip.common.demo.dataset import ensure_demo_dataset
from itaclip.research.evaluation.checks import check_settings
from itaclip.research.evaluation.setup import load_config
from itaclip.research.preparation.diagnosis import conclude
from itaclip.research.preparation.inspection import SAMPLE, Inspection, Tree, inspect_tree
from itaclip.research.preparation.jobs import default_workers
from itaclip.research.preparation.layout import BENCHMARKS, describe, missing_parts

PROBLEMS = 1
"""Exit status when the data set has problems."""


def check_dataset(config: Config, full: bool = False, workers: int = 1) -> tuple[Inspection, Tree | None]:
    """Check the files of a configuration's data set.

    Args:
        config: a configuration with ``test_dataloader.dataset``.
        full: whether to decode all images and masks instead of a sample.
        workers: number of decoding processes.

    Returns:
        The findings, and the layout; None if folders are missing and nothing could be read.

    Raises:
        ItaclipError: a data set type that is not registered or cannot be built, bad classes or a bad palette.
    """
    check_settings(config)
    dataset = config.test_dataloader.dataset
    findings = missing_parts(config)
    if findings:
        return Inspection(findings=findings), None
    tree = describe(config)
    inspection = inspect_tree(tree, full, workers)
    conclude(inspection, tree, Path(dataset.get("data_root") or "."))
    benchmark = BENCHMARKS.get(dataset.type)
    if benchmark and inspection.pairs and inspection.pairs not in benchmark.images:
        inspection.findings.add(
            f"{inspection.pairs} images, but {dataset.type} has {benchmark.images[0]}", "Results would not be "
            "comparable; complete the images and the list from the official archives.", str(tree.names or tree.images)
        )  # fmt: skip
    return inspection, tree


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
    for note in inspection.notes:
        console.print(f"note: {note}", markup=False)
    if inspection.findings:
        inspection.findings.show(console, f"{args.config}: problems")
        return PROBLEMS
    console.print("no problems found" + ("." if args.full else "; --full decodes every file."))
    return 0
