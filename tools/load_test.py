"""Load-test the HTTP API with clients on this machine, and record client and server statistics.

python tools/load_test.py --clients 32 --seconds 60 --out docs/results/http_load_demo.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from itaclip.common.console import run
from itaclip.common.demo.dataset import ensure_demo_dataset
from itaclip.common.environment import machine, versions
from itaclip.errors import ItaclipError
from itaclip.files import write_json
from itaclip.research.benchmark.server import running_server

CLIENTS = Path(__file__).with_name("load_clients.py")
SERVER = ("--model", "demo", "--quality", "fast", "--set", "pamr_steps=0", "--api", "alone")


def main() -> int:
    """Run server and clients; the exit status is 1 if an image was lost."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--clients", type=int, default=32)
    options.add_argument("--seconds", type=int, default=60)
    options.add_argument("--queue-size", type=int, default=20, help="queue size of the server")
    options.add_argument("--scenes", type=int, default=8, help="number of different images")
    options.add_argument("--note", default="", help="a remark about the machine, stored with the results")
    options.add_argument("--out", type=Path, help="JSON file for the results")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = ensure_demo_dataset(folder / "demo", scenes=args.scenes)
        report = measure(args, root / "JPEGImages", folder / "server.log")
    if args.out:
        write_json(args.out, report)
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 1 if report["failures"] else 0


def measure(args: argparse.Namespace, scenes: Path, log: Path) -> dict[str, Any]:
    """Start the server, run the clients, and collect the statistics.

    Raises:
        ItaclipError: the server or the clients did not start.
    """
    with running_server(log, *SERVER, "--queue-size", str(args.queue_size)) as (address, server):
        clients = subprocess.Popen(
            [sys.executable, "-m", "locust", "-f", str(CLIENTS), "--headless", "--json", "--host", address,
             "-u", str(args.clients), "-r", str(args.clients), "-t", f"{args.seconds}s", "--stop-timeout", "120"],
            env=os.environ | {"ITACLIP_LOAD_SCENES": str(scenes)}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        began, memory = time.monotonic(), []
        while clients.poll() is None:
            memory.append((round(time.monotonic() - began, 1), metrics(address)["process_resident_memory_bytes"]))
            time.sleep(1)
        assert clients.stdout is not None
        entries = {entry["name"]: entry for entry in json.loads(clients.stdout.read() or "[]")}
        if "image" not in entries:
            raise ItaclipError(f"the clients received no result; the server's log ends:\n{log.read_text()[-2000:]}")
        seen = metrics(address)
    images = entries["image"]
    settled = [size for second, size in memory if second >= min(10, args.seconds / 3)]
    return {
        "clients": args.clients, "seconds": args.seconds, "queue": args.queue_size, "server": " ".join(SERVER),
        "images": images["num_requests"],
        "images_per_second": round(images["num_requests"] / memory[-1][0], 2),
        "failures": images["num_failures"] + entries["request"]["num_failures"],
        "told_to_come_back": entries.get("told to come back", {}).get("num_requests", 0),
        "answered_by_server": int(seen["itaclip_segment_seconds_count"]),
        "seconds_per_image": {"p50": percentile(images, 50), "p95": percentile(images, 95)},
        "seconds_per_request": {"p50": percentile(entries["request"], 50), "p95": percentile(entries["request"], 95)},
        "computing_seconds_mean": round(
            seen["itaclip_segment_seconds_sum"] / seen["itaclip_segment_seconds_count"], 4
        ),
        "server_memory_mib": {
            "after_10_s": round(settled[0] / 2**20, 1), "at_the_end": round(settled[-1] / 2**20, 1),
            "highest": round(max(settled) / 2**20, 1),
        },
        "server_exit_status": server.returncode, "machine": machine(), "versions": versions(), "note": args.note,
    }  # fmt: skip


def metrics(address: str) -> dict[str, float]:
    """Read the server's counters without labels."""
    with urllib.request.urlopen(f"{address}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value) for name, value in (line.split() for line in lines if line[0] != "#" and "{" not in line)
    }


def percentile(entry: dict[str, Any], share: float) -> float:
    """Compute a percentile in seconds, from locust's counts by rounded milliseconds."""
    times = sorted((float(milliseconds), count) for milliseconds, count in entry["response_times"].items())
    sums = itertools.accumulate(count for _, count in times)
    needed = entry["num_requests"] * share / 100
    return next((time_ for (time_, _), total in zip(times, sums, strict=True) if total >= needed), 0.0) / 1000


if __name__ == "__main__":
    run(main)
