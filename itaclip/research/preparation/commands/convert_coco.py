"""The command line of `datasets/cvt_coco_stuff.py` and `cvt_coco_object.py`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from itaclip.errors import ItaclipError
from itaclip.research.preparation.coco import Target, convert_coco, provide_images
from itaclip.research.preparation.commands.options import add_run_options, run_options


def main(target: Target, arguments: Sequence[str] | None = None) -> None:
    """Convert raw maps, and provide the images if asked to.

    Raises:
        ItaclipError: bad input, with its message.
    """
    parser = argparse.ArgumentParser(description=f"Convert COCO-Stuff's pixel maps to {target.name} masks.")
    parser.add_argument("coco_path", type=Path, help="folder of COCO-Stuff-164k, with annotations/val2017")
    parser.add_argument("-o", "--out", "--out_dir", type=Path, help="output folder (default: next to the maps)")
    parser.add_argument("--images", choices=("link", "copy"), help="with -o: link or copy the images there too")
    add_run_options(parser)
    args = parser.parse_args(arguments)
    if args.images and args.out is None:
        raise ItaclipError("--images: requires -o; without it, the masks already lie next to the images.")
    options = run_options(args)
    convert_coco(args.coco_path, args.out, target, options)
    if args.images:
        provide_images(args.coco_path, args.out, args.images, options)
