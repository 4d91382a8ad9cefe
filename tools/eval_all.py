"""Evaluate several methods on several data sets, under one protocol or the published ones.

    python tools/eval_all.py --configs configs/cfg_voc.py configs/cfg_context.py --presets common published --pamr both

Every cell is run once: a later call with the same settings takes its result from --out.
A cell that fails is reported and the rest goes on (exit status 1). Results: results.json,
.csv, .md beside the published scores, and .xlsx where openpyxl is installed.
"""

from functools import partial
from pathlib import Path

from itaclip.comparison.command import main
from itaclip.console import run

if __name__ == "__main__":
    run(partial(main, Path(__file__).with_name("dist_test.sh")))
