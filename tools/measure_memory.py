"""Measure the memory of labelling one image, and the seconds of a later start, for engines and precisions.

    python tools/measure_memory.py --weights vit-b-16.pt --out docs/results/memory.json
    python tools/measure_memory.py --weights vit-b-16.pt --against CHECKOUT --out docs/results/memory.json

Every case is a program of its own that loads the model, takes 20 classes and labels one image twice. The first run
converts the model and encodes the classes; the second finds both on disk. `--against` runs the same in a checkout of
another version, such as one made by ``git worktree add CHECKOUT 6d826d1``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from itaclip.common.console import make_console, run, table_of
from itaclip.common.environment import machine, versions
from itaclip.files import write_json

CASES = ("torch fp32", "torch bf16", "openvino fp32", "openvino bf16", "openvino int8")
HERE = Path(__file__).resolve().parents[1]
PROGRAM = """
import json, resource, sys, time
times = [time.perf_counter()]
import numpy
from itaclip import Segmenter
times.append(time.perf_counter())
weights, engine, dtype, *size = sys.argv[1:]
segmenter = Segmenter(weights, engine=engine, dtype=dtype)
segmenter.set_classes([f"thing {number}" for number in range(20)])
image = numpy.random.default_rng(0).integers(0, 256, (int(size[0]), int(size[1]), 3), "uint8")
for _ in range(2):
    segmenter(image)
    times.append(time.perf_counter())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"peak": peak, "times": [b - a for a, b in zip(times, times[1:])]}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="a model, as `itaclip segment --model` takes it")
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="'ENGINE DTYPE'", help=f"default: {CASES}")
    parser.add_argument("--size", type=int, nargs=2, default=(300, 451), metavar=("HEIGHT", "WIDTH"),
                        help="of the image (default: 300 451)")  # fmt: skip
    parser.add_argument("--against", type=Path, help="a checkout of another version, measured side by side")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    name = args.weights if not Path(args.weights).exists() else str(Path(args.weights).resolve())
    rows = []
    for case in args.cases:
        row = {"case": case} | measured(HERE, name, case, args.size)
        if args.against:
            other = measured(args.against.resolve(), name, case, args.size)
            row |= {f"{what}, before": value for what, value in other.items()}
            row["share of the peak before"] = round(row["peak MiB"] / other["peak MiB"], 2)
        rows.append(row)
    make_console().print(table_of("memory and start", rows))
    if args.out:
        write_json(args.out, {"size": list(args.size), "rows": rows, "machine": machine(), "versions": versions()})
    return 0


def measured(checkout: Path, weights: str, case: str, size: tuple[int, int]) -> dict[str, Any]:
    """Run a case twice, with a cache that is empty at first."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"PYTHONPATH": str(checkout), "ITACLIP_CACHE_DIR": cache}
        command = [sys.executable, "-c", PROGRAM, weights, *case.split(), *map(str, size)]
        found = []
        for _ in range(2):
            done = subprocess.run(command, env=environment, cwd=checkout, capture_output=True, text=True, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    first, later = found
    imported, once, again = later["times"]
    return {
        "peak MiB": round(later["peak"]), "peak MiB, first start": round(first["peak"]),
        "import, s": round(imported, 2), "start beyond import, s": round(once - again, 2),
        "an image, s": round(again, 2),
    }  # fmt: skip


if __name__ == "__main__":
    run(main)
