"""`itaclip export`: results in the formats of other programs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from itaclip.common.console import SOME_FAILED, make_console

FORMATS = {
    "cvat": 'CVAT\'s "Segmentation mask 1.1"',
    "cvat-images": 'CVAT\'s "CVAT for images 1.1" with masks',
    "voc": "Pascal VOC's folders",
    "yolo": "YOLO segmentation text",
    "coco": "a COCO file with RLE masks",
}


def main(arguments: Sequence[str]) -> int:
    """Export the results that the options name.

    Returns:
        The exit status: 0, or `SOME_FAILED` when images without labels were left out.

    Raises:
        ItaclipError: bad input.
    """
    args = parser().parse_args(arguments)
    from itaclip.apps.export.run import export_run

    console = make_console(stderr=args.json)
    report = export_run(args.folder, args.format, args.out, args.tolerance)
    for name, reason in report.failed.items():
        console.print(f"left out: {name}: {reason}", markup=False)
    console.print(f"{report.images} images in {args.out}, {len(report.failed)} left out", markup=False)
    if args.json:
        summary = {"out": str(args.out), "format": args.format, "images": report.images, "failed": report.failed}
        sys.stdout.write(json.dumps(summary) + "\n")
    return SOME_FAILED if report.failed else 0


def parser() -> argparse.ArgumentParser:
    """Declare the options of `itaclip export`."""
    options = argparse.ArgumentParser(
        prog="itaclip export",
        description="Write the results of `itaclip segment` or `itaclip label` in the format of another program.",
        epilog="formats:\n" + "\n".join(f"  {name:13}{text}" for name, text in FORMATS.items())
        + "\n\nexample: itaclip export labelled --format cvat --out cvat.zip",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    options.add_argument("folder", metavar="FOLDER", help="the --out of the run")
    options.add_argument("--format", required=True, choices=tuple(FORMATS), help="see below")
    options.add_argument("--out", type=Path, required=True, help="a new archive (NAME.zip) or a new folder")
    options.add_argument("--tolerance", type=float, default=1.0, metavar="PIXELS",
                         help="yolo: how far outlines may deviate (default: 1.0; 0 keeps every pixel)")  # fmt: skip
    options.add_argument("--json", action="store_true", help="print a JSON summary to standard output, the rest to "
                         "standard error")  # fmt: skip
    return options
