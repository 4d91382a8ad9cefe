"""Convert Cityscapes annotations to masks of its 19 classes (*_gtFine_labelTrainIds.png).

    python datasets/cvt_cityscapes.py data/cityscapes --workers 8

Reads gtFine/{train,val,test}/<city>/*_gtFine_labelIds.png, or *_gtFine_polygons.json if that
is missing. Writes masks next to them unless -o names another folder. Keeps existing masks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from itaclip.common.console import run
from itaclip.research.preparation.cityscapes import convert_cityscapes
from itaclip.research.preparation.commands.options import add_run_options, run_options


def main() -> None:
    """Parse the command line and convert."""
    parser = argparse.ArgumentParser(description="Convert Cityscapes annotations to masks of its 19 classes.")
    parser.add_argument("cityscapes_path", type=Path, help="folder of Cityscapes, with gtFine")
    parser.add_argument("-o", "--out", "--out_dir", type=Path, help="output folder (default: next to the sources)")
    add_run_options(parser)
    args = parser.parse_args()
    convert_cityscapes(args.cityscapes_path, args.out, run_options(args))


if __name__ == "__main__":
    run(main)
