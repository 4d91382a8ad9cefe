"""`itaclip label`: a collection in, Parquet out, on Ray."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from itaclip.apps.command.options import (
    add_class_options,
    add_coco_options,
    add_image_options,
    add_model_options,
    add_run_options,
    choose_vocabulary,
    coco_skip,
    segmenter_maker,
)
from itaclip.common.console import SECONDS_BETWEEN_LINES, SOME_FAILED, make_console
from itaclip.errors import install_extra

if TYPE_CHECKING:
    from itaclip.apps.collection.options import LabelReport


def main(arguments: Sequence[str]) -> int:
    """Label the collection that the options name.

    Returns:
        The exit status: 0, or `SOME_FAILED`.

    Raises:
        ItaclipError: Ray is missing, or bad input.
    """
    args = parser().parse_args(arguments)
    from itaclip.apps.collection.label import label_with  # needs the extra
    from itaclip.apps.collection.options import LabelOptions

    named = {field.name for field in fields(LabelOptions)}
    given = vars(args) | {"coco_skip": coco_skip(args)}
    options = LabelOptions(**{name: value for name, value in given.items() if name in named})
    make, device = segmenter_maker(args)
    console = make_console(stderr=args.json)
    with _display(console) as watch:
        report = label_with(
            args.source, args.out, make, lambda made: choose_vocabulary(args, made),
            device=device, options=options, watch=watch,
        )  # fmt: skip
    for folder in report.skipped:
        console.print(f"skipped: {folder} (results of an earlier run)", markup=False)
    for reason in report.reasons:
        console.print(f"failed: {reason}", markup=False)
    kept = f", {report.kept} of {report.units} units kept from an earlier run" if report.kept else ""
    coco = f", COCO in {args.coco}" if args.coco else ""
    console.print(f"{report.done - report.failed} labelled in {report.seconds:.1f} s{kept}, {report.failed} failed; "
                  f"results in {args.out}{coco}", markup=False)  # fmt: skip
    if args.json:
        summary = {"out": args.out, "done": report.done, "failed": report.failed, "units": report.units,
                   "kept": report.kept, "seconds": report.seconds, "busy": report.share}  # fmt: skip
        sys.stdout.write(json.dumps(summary) + "\n")
    return SOME_FAILED if report.failed else 0


def progress_line(report: LabelReport) -> str:
    """Write a report as one line."""
    total = f"/{report.images}" if report.images is not None and not report.kept else ""
    left = f", {report.left:.0f} s left" if report.left is not None else ""
    return (
        f"{report.done}{total} images, {report.rate:.1f} images/s, {'GPU' if report.gpu else 'CPU'} workers "
        f"{report.share:.0%} busy, {report.failed} failed{left}"
    )


@contextmanager
def _display(console: Console) -> Iterator[Callable[[LabelReport], None]]:
    """Show a bar on a terminal, elsewhere a line now and then."""
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    said = time.perf_counter()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None)

        def watch(report: LabelReport) -> None:
            nonlocal said
            bar.update(task, total=report.units, completed=report.finished, description=progress_line(report))
            if not console.is_terminal and time.perf_counter() - said > SECONDS_BETWEEN_LINES:
                said = time.perf_counter()
                console.print(progress_line(report), markup=False)

        yield watch


def parser() -> argparse.ArgumentParser:
    """Declare the options of `itaclip label`."""
    options = argparse.ArgumentParser(
        prog="itaclip label",
        description="Label a collection of images on this machine or on a Ray cluster; results are Parquet.",
        epilog='example: itaclip label s3://bucket/photos --classes "cat; sofa, couch" --out s3://bucket/labels\n'
        "After an interruption, run the same command again: it continues where it stopped.\n"
        f"Needs Ray: {install_extra('ray')}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("source", metavar="SOURCE", help="folder or pattern of images, .txt file of paths or URLs, "
                         ".parquet or .tar; local or s3://, gs://, https://, ...")  # fmt: skip
    options.add_argument("--out", required=True, metavar="DEST", help="folder for the results, local or s3://, ...")
    add_class_options(options)
    add_model_options(options)
    add_image_options(options)
    group = options.add_argument_group("source and results")
    group.add_argument("--column", help="table column with image bytes or URLs; for archives, the suffix of the images")
    group.add_argument("--key", help="table column that names the images (default: file and row)")
    group.add_argument("--part-size", type=int, default=128, metavar="N", help="images per result file (default: 128)")
    group.add_argument("--masks", action="store_true", help="also write PNG masks, in tar archives")
    add_coco_options(group)
    group = options.add_argument_group("run")
    group.add_argument("--address", help="address of a Ray cluster, or auto on one of its machines (default: start "
                       "Ray here)")  # fmt: skip
    group.add_argument("--workers", type=int, metavar="N", help="segmenters (default: one per GPU, or as many as the "
                       "cores allow)")  # fmt: skip
    group.add_argument("--threads", type=int, metavar="N", help="threads of each worker (default: up to 4)")
    group.add_argument("--limit-rate", type=float, metavar="R", help="label at most R images per second in total")
    group.add_argument("--max-errors", type=int, metavar="N", help="stop when more than N images have failed")
    group.add_argument("--retry-errors", action="store_true", help="retry images that failed in an earlier run")
    add_run_options(group)
    return options
