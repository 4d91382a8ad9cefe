"""Convert Pascal Context annotations to masks (59 classes and background, or all 459) and list files.

    python datasets/cvt_context.py data/VOCdevkit/VOC2010 trainval_merged.json
    python datasets/cvt_context.py data/VOCdevkit/VOC2010 path/to/trainval --labels path/to/labels.txt
    python datasets/cvt_context.py data/VOCdevkit/VOC2010 path/to/trainval --all-classes

The first form reads the merged JSON of "PASCAL in Detail", the second the .mat label maps of
the data set's website. Writes SegmentationClassContext/*.png and, once all masks exist,
ImageSets/SegmentationContext/{train,val}.txt. With --all-classes it writes the validation set of 459 classes:
annotations_detectron2/pc459_val/*.tif and pascalcontext_val.txt. Keeps existing masks. Needs no extra packages.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from itaclip.common.console import run
from itaclip.errors import ItaclipError
from itaclip.research.preparation.commands.options import add_run_options, run_options
from itaclip.research.preparation.context import convert_all_classes, convert_json, convert_mats
from itaclip.research.preparation.listing import require_folder


def main() -> None:
    """Parse the command line and convert."""
    parser = argparse.ArgumentParser(description="Convert Pascal Context annotations to masks of 59 classes.")
    parser.add_argument("voc_path", type=Path, help="folder VOC2010 or its parent VOCdevkit")
    parser.add_argument("annotations", type=Path, help="trainval_merged.json, or the folder of .mat files")
    parser.add_argument("--labels", type=Path,
                        help="with .mat files: file of class names (default: labels.txt next to them)")  # fmt: skip
    parser.add_argument("--allow-missing", action="store_true",
                        help="accept annotations without some of the 59 classes, as the 33-class ones are")  # fmt: skip
    parser.add_argument("--all-classes", action="store_true",
                        help="with .mat files: write the validation masks of all 459 classes instead")  # fmt: skip
    add_run_options(parser)
    args = parser.parse_args()
    root = require_folder(args.voc_path, "extract VOCtrainval_03-May-2010.tar and pass its folder VOC2010.")
    root = root / "VOC2010" if (root / "VOC2010").is_dir() else root
    options = run_options(args)
    if args.all_classes:
        if args.annotations.suffix == ".json" or args.allow_missing:
            raise ItaclipError("--all-classes: needs the .mat files, and goes without --allow-missing.")
        convert_all_classes(root, args.annotations, options, args.labels)
    elif args.annotations.suffix != ".json":
        convert_mats(root, args.annotations, options, args.labels, args.allow_missing)
    elif args.labels is None:
        convert_json(root, args.annotations, options, args.allow_missing)
    else:
        raise ItaclipError("--labels: only for .mat files; the JSON file contains its own names.")


if __name__ == "__main__":
    run(main)
