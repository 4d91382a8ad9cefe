"""The command line of `tools/check_dataset.py`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from itaclip.common.console import make_console
from itaclip.research.openmmlab.configuration import load_config
from itaclip.research.preparation.checks import check_dataset
from itaclip.research.preparation.commands.options import add_workers
from itaclip.research.preparation.inspection import SAMPLE
from itaclip.research.preparation.layout import draw_demo

PROBLEMS = 1
"""Exit status when the data set has problems."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the data set of a configuration; returns the exit status.

    Raises:
        ItaclipError: bad input, with its message.
    """
    options = argparse.ArgumentParser(prog="check_dataset.py", description="Check the data set of a configuration.")
    options.add_argument("--config", type=Path, required=True, help="configuration, such as configs/cfg_voc.py")
    options.add_argument("--data-root", help="folder of the data set; replaces the configuration's")
    options.add_argument("--full", action="store_true", help=f"decode every image and mask instead of {SAMPLE}")
    add_workers(options)
    args = options.parse_args(arguments)
    config = load_config(args.config, args.data_root)
    dataset = config.test_dataloader.dataset
    draw_demo(dataset)
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
