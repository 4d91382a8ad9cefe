"""Compare this code with recorded outputs of the published implementations.

    python tools/check_reference.py tests/golden/itaclip_voc_like.npz --weights tiny.pt
    python tools/check_reference.py tests/golden/clip_rc_seed0.npz

Prints the difference of every stage; exits with status 1 if one exceeds its tolerance. The
recordings in tests/golden use weights that anyone can regenerate with
``python tests/make_weights.py tiny tiny.pt`` (or ``vit-b-16``). Those of Cascade-CLIP and CLIP-RC
contain the seeds of their parameters.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.table import Table

from itaclip.comparison.reference import compare
from itaclip.console import make_console, run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recorded", type=Path, help=".npz of recorded outputs")
    parser.add_argument("--weights", help="the weights it was recorded with, unless it contains their seeds")
    args = parser.parse_args()
    stages = compare(args.recorded, args.weights)
    table = Table(title=args.recorded.name)
    for column in ("stage", "largest difference", "tolerance", ""):
        table.add_column(column)
    for stage in stages:
        label = f"{stage.value:.4%} equal" if stage.is_share else f"{stage.value:.2e}"
        table.add_row(stage.name, label, f"{stage.limit:g}", "ok" if stage.passed else "DIFFERS")
    make_console().print(table)
    return 0 if all(stage.passed for stage in stages) else 1


if __name__ == "__main__":
    run(main)
