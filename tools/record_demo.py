"""Record the demo's numbers and the README's picture, as they come out.

    python tools/record_demo.py

Evaluates configs/cfg_demo.py in full and with ITACLIP's parts switched off, writes
docs/results/demo.json, docs/results/demo.md and docs/images/demo.png.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from itaclip.console import make_console, run
from itaclip.demo.dataset import ensure_demo_dataset
from itaclip.demo.textures import TEXTURES
from itaclip.evaluation.command import main as evaluate
from itaclip.figures import result_figure
from itaclip.files import atomic_path, write_json, write_text

ROOT = Path(__file__).parent.parent
_BARE = ["model.img_engineering=False", "model.pamr_steps=0", "model.auxiliary_text_path=None"]
# From CLIP's own last block to all of ITACLIP; windows, class file and thresholds are the same.
RUNS: dict[str, tuple[str, list[str]]] = {
    "clip": ("CLIP, dense", ["model.method=clip", *_BARE]),
    "attention": ("+ self-self attention, middle layers, no feed-forward network", _BARE),
    "without_pamr": ("+ image engineering, definitions", ["model.pamr_steps=0"]),
    "itaclip": ("+ PAMR = ITACLIP", []),
}
SHOWN = (3, 11, 19, 27)  # fixed scenes, chosen before any result was seen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, help="only the first N scenes, to try it out; nothing is recorded")
    args = parser.parse_args()
    data = ensure_demo_dataset("data/demo")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        masks = Path(folder) / "masks"
        for name, (_, options) in RUNS.items():
            arguments = ["--config", str(ROOT / "configs/cfg_demo.py"), "--data-root", str(data),
                         "--work-dir", f"{folder}/{name}", "--out", str(masks / name)]  # fmt: skip
            arguments += ["--limit", str(args.limit)] if args.limit else []
            evaluate(arguments + (["--cfg-options", *options] if options else []))
            metrics = json.loads(Path(f"{folder}/{name}/metrics.json").read_text())
            kept = ("mIoU", "mAcc", "aAcc", "images", "seconds_per_image", "peak_memory_mib", "versions", "machine")
            results[name] = {key: metrics[key] for key in kept}
        if args.limit:
            return 0
        picture = picture_of(data, masks)
    write_json(ROOT / "docs/results/demo.json", results)
    rows = ["| on the bundled demo | mIoU | pixel accuracy | s per image |", "|---|---:|---:|---:|"]
    for name, (title, _) in RUNS.items():
        r = results[name]
        rows.append(f"| {title} | {r['mIoU']:.1f} | {r['aAcc']:.1f} | {r['seconds_per_image']:.2f} |")
    write_text(ROOT / "docs/results/demo.md", "\n".join(rows) + "\n")
    with atomic_path(ROOT / "docs/images/demo.png") as partial:
        picture.save(partial, optimize=True)
    make_console().print("\n".join(rows))
    return 0


def picture_of(data: Path, masks: Path) -> Image.Image:
    """The shown scenes below each other: image, truth, CLIP, ITACLIP, legend."""
    names = [texture.names[0] for texture in TEXTURES]
    rows = []
    for number in SHOWN:
        stem = f"scene_{number:03d}"
        image = np.asarray(Image.open(data / f"JPEGImages/{stem}.jpg"))
        truth, plain, ours = (
            np.asarray(Image.open(folder / f"{stem}.png"))
            for folder in (data / "SegmentationClass", masks / "clip", masks / "itaclip")
        )
        rows.append(result_figure(image, ours, names, truth, compared={"CLIP": plain}))
    width = max(row.width for row in rows)
    canvas = Image.new("RGB", (width, sum(row.height for row in rows) + 4 * (len(rows) - 1)), (255, 255, 255))
    top = 0
    for row in rows:
        canvas.paste(row, (0, top))
        top += row.height + 4
    return canvas


if __name__ == "__main__":
    run(main)
