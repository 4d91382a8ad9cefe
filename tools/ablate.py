"""Run the ablations of the paper on any configuration, in one run.

    python tools/ablate.py --config configs/cfg_demo.py
    python tools/ablate.py --config configs/cfg_voc.py --only attention residual --limit 100

One setting varies at a time: attention, residual, feed-forward network, middle layers,
image engineering, auxiliary text, PAMR, logit scale, thresholds. Variants share all common
computation. Results: ablation.json, .md and .png.
"""

from itaclip.common.console import run
from itaclip.research.comparison.commands.ablate import main

if __name__ == "__main__":
    run(main)
