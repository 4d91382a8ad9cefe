"""`itaclip segment`: files in, masks and overlays out."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from itaclip.apps.command.options import (
    add_class_options,
    add_coco_options,
    add_image_options,
    add_model_options,
    add_run_options,
    background_line,
    choose_vocabulary,
    coco_skip,
    make_segmenter,
)
from itaclip.common.console import SOME_FAILED, make_console, progress
from itaclip.errors import ItaclipError


def main(arguments: Sequence[str]) -> int:
    """Segment the files that the options name.

    Returns:
        The exit status: 0, or `SOME_FAILED`.

    Raises:
        ItaclipError: bad input.
    """
    args = parser().parse_args(arguments)
    for name in ("batch", "every"):
        if getattr(args, name) < 1:
            raise ItaclipError(f"--{name} {getattr(args, name)}: expected 1 or more.")
    from itaclip.apps.folders.finding import find_items
    from itaclip.apps.folders.folder import segment_folder
    from itaclip.apps.run_key import follow_folder
    from itaclip.files import refuse_arguments
    from itaclip.formats.coco import check_target

    console = make_console(stderr=args.json)
    items = find_items(args.inputs, lambda line: console.print(line, markup=False))
    skip = coco_skip(args)
    if args.coco is not None:
        refuse_arguments("coco", vars(args))
        check_target(args.coco)
    began = time.perf_counter()
    follow_folder(args.out)
    segmenter = make_segmenter(args)
    vocabulary = choose_vocabulary(args, segmenter)
    console.print(f"{len(items)} files, classes: {', '.join(vocabulary.names)}; "
                  f"ready after {time.perf_counter() - began:.1f} s", markup=False)  # fmt: skip
    console.print(background_line(vocabulary), markup=False)
    began = time.perf_counter()
    with progress(console, len(items), "segmenting") as advance:
        report = segment_folder(
            segmenter, vocabulary, items, args.out, batch=args.batch, overlays=not args.no_overlays,
            every=args.every, overwrite=args.overwrite, coco=args.coco, coco_skip=skip, advance=advance,
        )  # fmt: skip
    seconds = time.perf_counter() - began
    for name, reason in report.failed.items():
        console.print(f"failed: {name}: {reason}", markup=False)
    kept = f", {report.kept} kept from an earlier run" if report.kept else ""
    coco = f", COCO in {args.coco}" if args.coco else ""
    console.print(f"{report.done} segmented in {seconds:.1f} s{kept}, {len(report.failed)} failed; "
                  f"masks, overlays and results in {args.out}{coco}", markup=False)  # fmt: skip
    if args.json:
        summary = {"out": str(args.out), "done": report.done, "kept": report.kept, "failed": report.failed}
        summary |= {
            "classes": vocabulary.names, "background_words": vocabulary.background_words,
            "background_choice": vocabulary.background_choice, "seconds": seconds,
        }  # fmt: skip
        sys.stdout.write(json.dumps(summary) + "\n")
    return SOME_FAILED if report.failed else 0


def parser() -> argparse.ArgumentParser:
    """Declare the options of `itaclip segment`."""
    options = argparse.ArgumentParser(
        prog="itaclip segment",
        description="Label every pixel of images, folders or videos with classes of your own.",
        epilog='example: itaclip segment photos --classes "cat; sofa, couch; plant" --out labelled\n'
        "After an interruption, run the same command again: it continues where it stopped.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("inputs", nargs="+", metavar="INPUT", help="image, video, pattern or folder (to any depth)")
    options.add_argument("--out", type=Path, required=True, help="folder for masks/, overlays/ and results.jsonl")
    add_class_options(options)
    add_model_options(options)
    add_image_options(options)
    group = options.add_argument_group("run")
    group.add_argument("--every", type=int, default=1, help="segment every Nth frame of a video (default: 1)")
    group.add_argument("--no-overlays", action="store_true", help="write masks and results only")
    add_coco_options(group, Path)
    add_run_options(group)
    return options
