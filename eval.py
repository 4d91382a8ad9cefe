"""Evaluate a configuration: ``python eval.py --config configs/cfg_voc.py``."""

from itaclip.console import run
from itaclip.evaluation.command import main

if __name__ == "__main__":
    run(main)
