"""The command line of `tools/new_dataset.py`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from itaclip.common.console import make_console
from itaclip.core.text import read_class_names
from itaclip.core.text.class_names import is_background
from itaclip.errors import ItaclipError
from itaclip.research.preparation.custom import CustomDataset, write_files
from itaclip.research.preparation.diagnosis import conclude
from itaclip.research.preparation.inspection import inspect_tree
from itaclip.research.preparation.masks import DEEP_IGNORED, IGNORED

PROBLEMS = 1
"""Exit status when images, masks and classes do not match."""


def main(base: Path, arguments: Sequence[str] | None = None) -> int:
    """Set up a data set; returns the exit status.

    Args:
        base: the shared configuration, configs/base.py of the checkout.
        arguments: command-line arguments; None uses those of the process.

    Raises:
        ItaclipError: bad input, with its message.
    """
    options = argparse.ArgumentParser(prog="new_dataset.py", description="Set up a data set of your own.")
    options.add_argument("images", type=Path, help="folder of images")
    options.add_argument("masks", type=Path, help="folder of masks: PNG, named like the images")
    options.add_argument("--classes", type=Path, required=True, help="class file, one class per line")
    options.add_argument("--name", required=True, help="name of the data set: letters, digits, underscores")
    zero = options.add_mutually_exclusive_group()
    zero.add_argument("--background", action="store_true", help="class 0 is the background")
    zero.add_argument("--ignore-zero", action="store_true", help="ignore label 0; classes are 1..K")
    options.add_argument("--out", type=Path, default=base.parent.parent,
                         help="folder for configs/ and llm_texts/ (default: the checkout)")  # fmt: skip
    options.add_argument("--force", action="store_true", help="replace existing files")
    args = options.parse_args(arguments)
    if not re.fullmatch(r"\w+", args.name, re.ASCII):
        raise ItaclipError(f"--name {args.name!r}: use letters, digits and underscores only.")
    classes = read_class_names(args.classes, args.background)
    if args.ignore_zero and is_background(classes.names[0]):
        raise ItaclipError(
            f"{args.classes}: the first class is the background, but with --ignore-zero label 0 is no class, and the "
            "first one has label 1. Delete its line, or pass --background if label 0 is the background."
        )
    if args.ignore_zero and len(classes) == IGNORED:
        raise ItaclipError(
            f"{args.classes}: {IGNORED} classes with --ignore-zero give label {IGNORED} two meanings, because it is "
            f"also the ignored one; at most {IGNORED - 1} fit 8 bits. Number the classes from 0, or name one more."
        )
    most = DEEP_IGNORED - args.ignore_zero
    if len(classes) > most:
        raise ItaclipError(f"{args.classes}: {len(classes):,} classes; masks of 16 bits allow at most {most:,}.")
    dataset = CustomDataset(args.name, args.images, args.masks, classes, args.background, args.ignore_zero)
    console = make_console()
    tree = dataset.tree()
    inspection = inspect_tree(tree)
    conclude(inspection, tree, args.images)
    if inspection.findings:
        inspection.findings.show(console, f"{args.images}, {args.masks}: problems; no files written")
        return PROBLEMS
    if is_background(classes.names[0]) and not args.background:
        console.print(f"{args.classes}: the first class is a class like any other; pass --background if it stands "
                      "for all that is none of the classes.")  # fmt: skip
    for path in write_files(dataset, tree, inspection.pairs, args.out, base, args.force):
        console.print(f"written: {path}")
    for note in inspection.notes:
        console.print(f"note: {note}", markup=False)
    console.print(f"{inspection.pairs} images, {len(classes)} classes. Next: python eval.py --config "
                  f"{args.out / 'configs' / f'cfg_{args.name}.py'}; see docs/custom-dataset.md.")  # fmt: skip
    return 0
