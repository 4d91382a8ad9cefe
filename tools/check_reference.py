"""Compare this code with recorded outputs of the published implementations.

    python tools/check_reference.py tests/golden/itaclip_voc_like.npz --weights tiny.pt
    python tools/check_reference.py tests/golden/clip_rc_seed0.npz
    python tools/check_reference.py tests/golden/*_like.npz --weights tiny.pt --out agreement.json

Prints the difference of every stage, and with --out also writes them to a file; exits with status 1
if one exceeds its tolerance. The recordings in tests/golden use weights that anyone can regenerate with
``python tests/make_weights.py tiny tiny.pt --jit`` (or ``vit-b-16``). Those of Cascade-CLIP and CLIP-RC
contain the seeds of their parameters.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.table import Table

from itaclip.common.console import make_console, run
from itaclip.common.environment import machine, versions
from itaclip.files import write_json
from itaclip.research.comparison.reference import compare


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recorded", nargs="+", type=Path, help=".npz of recorded outputs")
    parser.add_argument("--weights", help="the weights they were recorded with, unless they contain their seeds")
    parser.add_argument("--out", type=Path, help="JSON file for the differences, the machine and the versions")
    args = parser.parse_args()
    console = make_console()
    found = {path.stem: compare(path, args.weights) for path in args.recorded}
    for name, stages in found.items():
        table = Table(title=f"{name}.npz")
        for column in ("stage", "largest difference", "tolerance", ""):
            table.add_column(column)
        for stage in stages:
            label = f"{stage.value:.4%} equal" if stage.name == "pred" else f"{stage.value:.2e}"
            table.add_row(stage.name, label, f"{stage.limit:g}", "ok" if stage.passed else "DIFFERS")
        console.print(table)
    if args.out:
        recordings = {
            name: [{"stage": stage.name, "value": stage.value, "limit": stage.limit} for stage in stages]
            for name, stages in found.items()
        }
        write_json(args.out, {"recordings": recordings, "machine": machine(), "versions": versions()})
    return 0 if all(stage.passed for stages in found.values() for stage in stages) else 1


if __name__ == "__main__":
    run(main)
