"""The command line of `tools/make_masks.py`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from itaclip.research.preparation.region_masks import default_jobs, find_images, images_of_config, make_masks


def main(arguments: Sequence[str] | None = None) -> int:
    """Create region maps; returns the exit status.

    Raises:
        ItaclipError: bad input, with its message.
    """
    parser = argparse.ArgumentParser(description="Create the region maps of images in advance.")
    inputs = parser.add_mutually_exclusive_group(required=True)
    inputs.add_argument("--images", nargs="+", help="folders (searched recursively), files or patterns")
    inputs.add_argument("--config", help="configuration of a data set")
    parser.add_argument("--data-root", help="the data set's folder, with --config")
    parser.add_argument(
        "--source",
        default="sam2",
        help="sam2 (8 points a side, CorrCLIP's), sam2-64 (64, OV-Stitcher's), sam2:NAME, sam2:FOLDER, "
        "gram (GramSeg's), gram-fast, gram:ENCODER, felzenszwalb, slic (default: %(default)s)",
    )
    parser.add_argument("--out", required=True, type=Path, help="folder for the maps")
    parser.add_argument("--jobs", type=int, help="processes (default: one per core, or one with a model on a GPU)")
    parser.add_argument("--device", default="auto", help="device for SAM 2 and second encoders (default: %(default)s)")
    options = parser.parse_args(arguments)
    images = images_of_config(options.config, options.data_root) if options.config else find_images(options.images)
    jobs = default_jobs(options.source, options.device) if options.jobs is None else options.jobs
    return make_masks(images, options.source, options.out, jobs, options.device)
