"""Tell why two scores may differ: windows, thresholds, class words, label conversion, ...

    python tools/compare_protocols.py work_dirs/one/metrics.json work_dirs/other/metrics.json

Compares the protocols that eval.py stores with every score. Exit status 1 if they differ.
"""

from __future__ import annotations

from itaclip.common.console import run
from itaclip.research.comparison.commands.compare_protocols import main

if __name__ == "__main__":
    run(main)
