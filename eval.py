"""Evaluate a configuration: ``python eval.py --config configs/cfg_voc.py``."""

from itaclip.command.eval import main
from itaclip.console import run

if __name__ == "__main__":
    run(main)
