"""Measure the start of a program that labels one image: seconds and memory, in fresh processes.

    python tools/measure_start.py --out docs/results/start.json

A program imports `Segmenter`, loads a model, takes three classes and labels one image. Reports the
seconds after each step, the peak of its memory, and the modules whose import takes longest
(`python -X importtime`). PyTorch alone is measured beside it.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from itaclip.apps.command.options import parse_setting
from itaclip.common.console import make_console, run, table_of
from itaclip.common.environment import machine, versions
from itaclip.files import write_json

PROGRAMS = {
    "torch alone": "import torch",
    "import": "from itaclip import Segmenter",
    "first image": """
from itaclip import Segmenter
segmenter = Segmenter({model!r}, text_cache=False, **{settings!r})
segmenter.set_classes(["sky", "tree", "car, taxi"])
segmenter(__import__("numpy").zeros((120, 160, 3), "uint8"))
""",
}
MEASURED = """
import json, resource, time
began = time.perf_counter()
{program}
seconds = time.perf_counter() - began
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""
_LONGEST = 12
_IMPORT = re.compile(r"import time:\s+\d+ \|\s+(\d+) \|\s+(\S+)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="as `itaclip segment --model`")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings, such as engine=openvino")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--note", default="", help="a remark about the machine, stored with the results")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    given = {"model": args.model, "settings": dict(parse_setting(setting) for setting in args.set)}
    rows = []
    for name, program in PROGRAMS.items():
        found = [measured(program.format(**given)) for _ in range(1 + args.repeats)][1:]  # the first warms up
        seconds, mib = (statistics.median(values) for values in zip(*found, strict=True))
        rows.append({"until": name, "seconds": round(seconds, 2), "peak MiB": round(mib)})
    longest = imports(PROGRAMS["first image"].format(**given))
    console = make_console()
    console.print(table_of("start, median of fresh processes", rows))
    console.print(table_of("longest imports, with what they import", longest))
    if args.out:
        write_json(args.out, {**given, "repeats": args.repeats, "rows": rows, "imports": longest,
                              "machine": machine(), "versions": versions(), "note": args.note})  # fmt: skip
    return 0


def measured(program: str) -> tuple[float, float]:
    """Measure seconds and peak memory in MiB of a program in a process of its own."""
    code = MEASURED.format(program=program)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, mib = json.loads(done.stdout.splitlines()[-1])
    return seconds, mib


def imports(program: str) -> list[dict[str, Any]]:
    """List the imports of a program that take longest, each with all that it imports."""
    command = [sys.executable, "-X", "importtime", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [(int(m.group(1)), m.group(2)) for line in done.stderr.splitlines() if (m := _IMPORT.match(line))]
    return [
        {"module": name, "seconds": round(spent / 1e6, 3)} for spent, name in sorted(found, reverse=True)[:_LONGEST]
    ]


if __name__ == "__main__":
    run(main)
