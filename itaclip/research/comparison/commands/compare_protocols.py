"""The command line of `tools/compare_protocols.py`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itaclip.common.console import make_console
from itaclip.errors import ItaclipError
from itaclip.research.evaluation.fingerprint import differences

DIFFERENT = 1
"""Exit status when the two scores are not comparable."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Tell in what two evaluations differ.

    Returns:
        0 if their protocols are the same, else `DIFFERENT`.

    Raises:
        ItaclipError: a file that is no result of an evaluation.
    """
    options = argparse.ArgumentParser(prog="compare_protocols.py", description="Tell in what two evaluations differ.")
    options.add_argument("results", nargs=2, type=Path, metavar="RESULT", help="metrics.json of eval.py, or its folder")
    args = options.parse_args(arguments)
    found = [_read(path) for path in args.results]
    console = make_console()
    for path, metrics in zip(args.results, found, strict=True):
        run, protocol = metrics["run"], metrics["protocol"]
        ran = f"{metrics['settings']['method']}, {run['model_name']}, vocabulary {run['vocabulary']}"
        console.print(f"{path}: mIoU {metrics['mIoU']}, {ran}, protocol {protocol['fingerprint']}", markup=False)
    lines = differences(*(metrics["protocol"]["parts"] for metrics in found))
    for line in lines:
        console.print(line, markup=False)
    if not lines:
        console.print("The protocols are the same.")
    return DIFFERENT if lines else 0


def _read(path: Path) -> dict[str, Any]:
    file = path / "metrics.json" if path.is_dir() else path
    try:
        metrics: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ItaclipError(f"{file}: no such file; eval.py writes it into --work-dir.") from None
    except (OSError, ValueError) as error:
        raise ItaclipError(f"{file}: cannot be read as JSON ({error}).") from error
    if not isinstance(metrics, dict) or not {"mIoU", "protocol", "run", "settings"} <= metrics.keys():
        raise ItaclipError(
            f"{file}: has no protocol; it is no result of eval.py, or one of an earlier version. Evaluate again."
        )
    return metrics
