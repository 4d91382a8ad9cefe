"""Evaluate several methods on several data sets, with one protocol or the published ones.

    python tools/eval_all.py --configs configs/cfg_voc.py configs/cfg_context.py --presets common published --pamr both

Every cell runs once: a later call with the same settings takes its result from --out. A failed
cell is reported and the others continue (exit status 1). Results, with published scores for
comparison: results.json, .csv, .md, and .xlsx if openpyxl is installed.
"""

from functools import partial
from pathlib import Path

from itaclip.common.console import run
from itaclip.research.comparison.commands.eval_all import main

if __name__ == "__main__":
    run(partial(main, Path(__file__).with_name("dist_test.sh")))
