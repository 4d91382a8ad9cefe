"""Evaluate a configuration: ``python eval.py --config configs/cfg_voc.py``."""

from itaclip.apps.command.eval import main
from itaclip.common.console import run

if __name__ == "__main__":
    run(main)
