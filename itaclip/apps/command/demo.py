"""`itaclip demo`: segment the bundled scenes with the bundled CLIP."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from itaclip.common.console import make_console, progress
from itaclip.errors import ItaclipError


def main(arguments: Sequence[str]) -> int:
    """Segment scenes and print the share of correct pixels.

    Returns:
        The exit status.

    Raises:
        ItaclipError: bad input.
    """
    args = parser().parse_args(arguments)
    import numpy as np

    from itaclip.apps.folders.finding import find_items
    from itaclip.apps.folders.folder import segment_folder
    from itaclip.common.demo.dataset import SCENES, class_lines, ensure_demo_dataset
    from itaclip.core.clip.names import DEMO
    from itaclip.segmenter import Segmenter

    if not 1 <= args.images <= SCENES:
        raise ItaclipError(f"--images {args.images}: expected 1 to {SCENES}.")
    console = make_console()
    root = ensure_demo_dataset(args.out / "scenes")
    items = find_items([root / "JPEGImages"])[: args.images]
    segmenter = Segmenter(DEMO)
    background, *classes = class_lines()
    vocabulary = segmenter.prepare(classes, background.split(", "))
    with progress(console, len(items), "segmenting") as advance:
        segment_folder(segmenter, vocabulary, items, args.out / "results", advance=advance)
    right = [_right(root / f"SegmentationClass/{i.stem}.png", args.out / f"results/masks/{i.stem}.png") for i in items]
    console.print(f"{len(items)} scenes: {np.mean(right):.1%} of the pixels correct; see {args.out}/results/overlays")
    return 0


def parser() -> argparse.ArgumentParser:
    """Declare the options of `itaclip demo`."""
    options = argparse.ArgumentParser(
        prog="itaclip demo",
        description="Segment scenes of the bundled demo with the bundled CLIP: needs no weights, data or network.",
    )
    options.add_argument("--out", type=Path, default=Path("work_dirs/demo"), help="default: work_dirs/demo")
    options.add_argument("--images", type=int, default=6, help="number of scenes (default: 6)")
    return options


def _right(truth: Path, found: Path) -> float:
    import numpy as np
    from PIL import Image

    with Image.open(truth) as expected, Image.open(found) as labels:
        return float((np.asarray(expected) == np.asarray(labels)).mean())
