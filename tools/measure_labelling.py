"""Measure the cost of labelling a collection on Ray: by stage, relative to `Segmenter.stream`, and with more workers.

    python tools/measure_labelling.py --images 1000 --out docs/results/labelling_demo.json

Uses scenes of the bundled demo, the bundled CLIP, quality `fast` without refinement, and one thread
per worker. The variants alternate, `--rounds` times; the fastest run of each counts. CPU seconds
include all processes that a variant starts, so they are meaningful even on a busy machine. `--only`
repeats some measurements and keeps the others in the JSON file.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from itaclip import LabelOptions, Segmenter, label
from itaclip.apps.collection.locations import Location
from itaclip.apps.collection.segmenting import row_of
from itaclip.apps.collection.sources import open_source
from itaclip.apps.collection.store import Store, part_bytes
from itaclip.common.console import make_console, run, table_of
from itaclip.common.demo.dataset import ensure_demo_dataset
from itaclip.common.environment import machine, versions
from itaclip.common.images import decode_image
from itaclip.files import refuse_arguments, write_json

SECTIONS = ("stages", "runs", "entries")
CLASSES = ["car, taxi", "house", "cloud", "tree"]
# by default, Ray's workers run at low priority
ALONE = {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
SETTINGS: dict[str, Any] = {"model": "demo", "quality": "fast", "pamr_steps": 0}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="number of scenes (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="runs of every variant (%(default)s)")
    parser.add_argument("--entries", type=int, default=100_000,
                        help="two-byte entries for measuring Ray alone (%(default)s)")  # fmt: skip
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="what to measure")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--variant", help=argparse.SUPPRESS)  # used by the measured processes
    parser.add_argument("folder", nargs="?", help=argparse.SUPPRESS)
    args = parser.parse_args()
    refuse_arguments("out", vars(args))
    if args.variant is not None:
        _label(args.variant, Path(args.folder), args.out)
        return 0
    console = make_console()
    found: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = ensure_demo_dataset(Path(name) / "demo", args.images) / "JPEGImages"
        if "stages" in args.only:
            found["stages"] = stages(folder)
            console.print(table_of("CPU milliseconds per image", [found["stages"]]))
        if "runs" in args.only:
            found["runs"] = runs(folder, Path(name), args.rounds)
            console.print(table_of("whole runs, including startup", found["runs"]["rows"]))
        if "entries" in args.only:
            sizes = ((args.entries, 2000), (args.entries // 50, 2))  # number of entries, and entries per file
            found["entries"] = [entries(Path(name), count, part) for count, part in sizes]
            console.print(table_of("entries of two bytes", found["entries"]))
    write_json(args.out, found | {"machine": machine(), "versions": versions()})
    return 0


def runs(folder: Path, out: Path, rounds: int) -> dict[str, Any]:
    """Measure `Segmenter.stream`, Ray with one worker and Ray with two, alternately."""
    before = os.getloadavg()
    variants = [(variant, out / f"{variant}{n}") for n in range(rounds) for variant in ("stream", "ray1", "ray2")]
    rows: list[dict[str, Any]] = [
        {"variant": variant} | measured(variant, folder, results) for variant, results in variants
    ]
    best = {
        key: {variant: min(row[key] for row in rows if row["variant"] == variant) for variant, _ in variants}
        for key in ("seconds", "working", "CPU seconds")
    }
    return {
        "images": len(list(folder.iterdir())), "rows": rows,
        "ray_over_stream": {key: best[key]["ray1"] / best[key]["stream"] for key in best},
        "two_over_one": best["working"]["ray1"] / best["working"]["ray2"],
        "load_before": before, "load_after": os.getloadavg(),
    }  # fmt: skip


def stages(folder: Path, count: int = 60) -> dict[str, float]:
    """Measure CPU milliseconds per image of each stage alone, using the functions that workers call."""
    segmenter = Segmenter(**SETTINGS)
    vocabulary = segmenter.prepare(CLASSES)
    source = open_source(str(folder))
    took: dict[str, float] = {}

    def timed(name: str, function: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = function()
        took[name] = 1000 * (time.process_time() - began) / count
        return result

    with tempfile.TemporaryDirectory() as out:
        store = Store(Location(out))
        timed("list", lambda: store.write_plan(source.units(128)))
        took["list"] *= count / len(list(folder.iterdir()))
        listed = next(iter(source.units(count)))
        read = timed("read", lambda: list(source.entries(listed)))
        images = timed("decode", lambda: [decode_image(entry.content or b"", entry.key) for entry in read])
        batches = [images[i : i + 4] for i in range(0, count, 4)]
        segmenter(batches[0], vocabulary)
        results = timed("segment", lambda: [r for batch in batches for r in segmenter(batch, vocabulary)])
        pairs = list(zip(read, results, strict=True))
        rows = timed("run lengths", lambda: [row_of(entry.key, result) for entry, result in pairs])
        content = timed("Parquet", lambda: part_bytes(rows, "{}"))
        timed("write", lambda: store.write_part("range=000000/x", content, None))
        assert pq.read_table(io.BytesIO(content)).num_rows == count
    took["kB read"] = sum(len(entry.content or b"") for entry in read) / count / 1000
    took["kB written"] = len(content) / count / 1000
    return took


def measured(variant: str, folder: Path, out: Path) -> dict[str, float]:
    """Measure wall-clock and CPU seconds of a process and its children; seconds from its first image to its last."""
    command = [sys.executable, __file__, "--variant", variant, "--out", str(out), str(folder)]
    began = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | ALONE, stdout=subprocess.PIPE, text=True)
    spent: dict[int, float] = {}
    while process.poll() is None:
        spent |= _cpu_seconds(process.pid)
        time.sleep(0.5)
    assert process.stdout is not None
    output = process.stdout.read().split()
    assert process.returncode == 0, f"{variant} failed"
    return {"seconds": time.perf_counter() - began, "working": float(output[-1]), "CPU seconds": sum(spent.values())}


def entries(folder: Path, count: int, part: int) -> dict[str, Any]:
    """Measure entries that are not images: the cost of Ray, reading and writing without segmentation."""
    images = folder / f"tiny{part}"
    images.mkdir()
    for n in range(count):
        (images / f"{n:06d}.png").write_bytes(b"no")
    return {"entries": count, "per file": part} | measured(f"tiny{part}", images, folder / f"tiny{part}.out")


def _cpu_seconds(root: int) -> dict[int, float]:
    """Measure CPU seconds so far of a process and its descendants, by process."""
    parents, seconds = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # gone
            continue
        pid = int(path.parent.name)
        parents[pid], seconds[pid] = int(fields[1]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    below = {root}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return {pid: seconds[pid] for pid in below if pid in seconds}


def _label(variant: str, folder: Path, out: Path) -> None:
    """Label everything; the last line of output is the seconds from the first image or part to the last."""
    if variant == "stream":
        segmenter = Segmenter(**SETTINGS)
        segmenter.set_classes(CLASSES)
        times = [time.perf_counter() for _ in segmenter.stream(sorted(folder.iterdir()))]
        sys.stdout.write(f"{times[-1] - times[0]}\n")
        return
    size = int(variant.removeprefix("tiny")) if variant.startswith("tiny") else 25
    options = LabelOptions(part_size=size, threads=1, workers=2 if variant == "ray2" else 1)
    reports: list[tuple[float, int]] = []
    label(folder, CLASSES, out, options=options, watch=lambda report: reports.append((report.seconds, report.done)),
          **SETTINGS)  # fmt: skip
    (first, early), (last, done) = reports[1], reports[-1]
    sys.stdout.write(f"{(last - first) * done / max(1, done - early)}\n")


if __name__ == "__main__":
    run(main)
