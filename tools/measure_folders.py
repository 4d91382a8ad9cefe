"""Measure the images per second of `itaclip segment` on a folder of photographs' size, masks written.

    python tools/measure_folders.py --weights vit-b-16.pt --out docs/results/folders.json
    python tools/measure_folders.py --weights vit-b-16.pt --against CHECKOUT --out docs/results/folders.json

Every case labels the same drawn scenes with 20 classes, in a program of its own; the seconds are those that the
command reports, without its start. A first run converts the model and encodes the classes. `--against` runs the same in
a checkout of another version, such as one made by ``git worktree add CHECKOUT 6d826d1``, in turns with this one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from itaclip.common.console import make_console, run, table_of
from itaclip.common.demo.scenes import draw_scene
from itaclip.common.environment import machine, versions
from itaclip.core.quality import QUALITIES
from itaclip.files import write_json

HERE = Path(__file__).resolve().parents[1]
CLASSES = "; ".join(f"thing {number}" for number in range(20))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="a model, as `itaclip segment --model` takes it")
    parser.add_argument("--qualities", nargs="+", default=["balanced", "fast"], choices=tuple(QUALITIES))
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--size", type=int, nargs=2, default=(375, 500), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--set", nargs="+", default=["engine=openvino", "dtype=int8"], metavar="KEY=VALUE")
    parser.add_argument("--repeats", type=int, default=2, help="the fastest run counts (default: 2)")
    parser.add_argument("--against", type=Path, help="a checkout of another version, measured in turns")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    name = args.weights if not Path(args.weights).exists() else str(Path(args.weights).resolve())
    checkouts = [HERE] if args.against is None else [HERE, args.against.resolve()]
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        draw(root / "all", args.images, args.size)
        draw(root / "few", 4, args.size)
        for quality in args.qualities:
            options = ["--model", name, "--quality", quality, "--set", *args.set]
            for checkout in checkouts:
                seconds_of(checkout, root, "few", options)
            found: dict[Path, list[float]] = {checkout: [] for checkout in checkouts}
            for _ in range(args.repeats):
                for checkout in checkouts:
                    found[checkout].append(seconds_of(checkout, root, "all", options))
            rates = [args.images / min(seconds) for seconds in found.values()]
            row = {"quality": quality, "images per second": round(rates[0], 2)}
            if args.against:
                row |= {"before": round(rates[1], 2), "times as fast": round(rates[0] / rates[1], 2)}
            rows.append(row)
    make_console().print(table_of("images per second", rows))
    if args.out:
        write_json(args.out, {"images": args.images, "size": list(args.size), "settings": args.set, "rows": rows,
                              "machine": machine(), "versions": versions()})  # fmt: skip
    return 0


def draw(folder: Path, images: int, size: tuple[int, int]) -> None:
    folder.mkdir()
    for number in range(images):
        scene = draw_scene((size[0], size[1]), np.random.default_rng(number)).image
        Image.fromarray(scene).save(folder / f"{number:04d}.jpg", quality=92)


def seconds_of(checkout: Path, root: Path, folder: str, options: list[str]) -> float:
    """Label a folder with a version, which has a cache of its own, and return what the command reports."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "itaclip", "segment", str(root / folder), "--out", f"{out}/run",
                   "--no-overlays", "--classes", CLASSES, "--json", *options]  # fmt: skip
        cache = root / f"cache-{abs(hash(checkout))}"
        environment = os.environ | {"PYTHONPATH": str(checkout), "ITACLIP_CACHE_DIR": str(cache)}
        done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True)
        return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


if __name__ == "__main__":
    run(main)
