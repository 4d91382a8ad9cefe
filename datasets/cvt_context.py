"""Make Pascal Context's masks (59 classes and background) and list files, without extra packages.

    python datasets/cvt_context.py data/VOCdevkit/VOC2010 trainval_merged.json
    python datasets/cvt_context.py data/VOCdevkit/VOC2010 path/to/trainval --labels path/to/labels.txt

The first form reads the merged JSON of "PASCAL in Detail", the second the .mat label maps
of the data set's own site. Writes SegmentationClassContext/*.png and, when all masks are
there, ImageSets/SegmentationContext/{train,val}.txt. What is there already is not made again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from itaclip.console import make_console, run
from itaclip.errors import ItaclipError
from itaclip.preparation.context import convert_json, convert_mats
from itaclip.preparation.conversion import Running, add_options
from itaclip.preparation.listing import require_folder


def main() -> None:
    """Parse the command line and convert."""
    parser = argparse.ArgumentParser(description="Pascal Context's annotations to masks of 59 classes.")
    parser.add_argument("voc_path", type=Path, help="folder VOC2010, or VOCdevkit around it")
    parser.add_argument("annotations", type=Path, help="trainval_merged.json, or the folder of .mat files")
    parser.add_argument("--labels", type=Path, help="with .mat files: their names (default: labels.txt beside them)")
    parser.add_argument("--allow-missing", action="store_true",
                        help="accept names that lack some of the 59 classes, as the 33-class ones do")  # fmt: skip
    add_options(parser)
    args = parser.parse_args()
    root = require_folder(args.voc_path, "extract VOCtrainval_03-May-2010.tar and give its VOC2010.")
    root = root / "VOC2010" if (root / "VOC2010").is_dir() else root
    running = Running(make_console(), args.workers, args.force)
    if args.annotations.suffix != ".json":
        convert_mats(root, args.annotations, running, args.labels, args.allow_missing)
    elif args.labels is None:
        convert_json(root, args.annotations, running, args.allow_missing)
    else:
        raise ItaclipError("--labels: only of use with .mat files; the JSON has its own names.")


if __name__ == "__main__":
    run(main)
