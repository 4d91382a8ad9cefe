"""Measure `itaclip raster`: memory as rasters grow, time relative to memory, workers, and kills.

    python tools/measure_raster.py --out docs/results/raster.json
    python tools/measure_raster.py --picture docs/images/raster.png

Every run is a process of its own on a tiled GeoTIFF of the demo's town, repeated. Memory and kills use a CLIP of random
weights, small enough for rasters of hundreds of megapixels on a CPU (`--model`): windows, logits, refinement and
decision are as large as with ViT-B/16. Time and workers use the bundled CLIP. `--only` repeats some measurements and
keeps the others in the JSON file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from PIL import Image
from rasterio.transform import from_origin

from itaclip import RasterOptions, Segmenter, segment_raster
from itaclip.apps.raster.demo import CLASSES
from itaclip.common.console import make_console, run, table_of
from itaclip.common.demo.aerial import draw_town
from itaclip.common.environment import machine, versions
from itaclip.common.figures import overlay
from itaclip.core.images import normalise
from itaclip.files import refuse_arguments, write_json
from itaclip.vocabulary import split_classes, usual_colors

SECTIONS = ("memory", "time", "workers", "kills", "demo")
SETTINGS: dict[str, Any] = {"quality": "fast", "background": False}
NAMES = split_classes(CLASSES)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs=2, default=(5000, 20000), help="of square rasters, for memory")
    parser.add_argument("--side", type=int, default=4000, help="of the raster for time and workers (%(default)s)")
    parser.add_argument("--model", default="demo", help="CLIP for memory and kills: a name or a file (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="what to measure")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--picture", type=Path, help="draw the demo's town beside its labels, and nothing else")
    parser.add_argument("--variant", help=argparse.SUPPRESS)  # used by the measured processes
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    refuse_arguments("out", vars(args))
    if args.picture is not None:
        draw_picture(args.picture)
        return 0
    if args.out is None:
        parser.error("--out or --picture is needed")
    if args.variant is not None:
        _measured(args.variant, args.source, args.out, args.model)
        return 0
    console = make_console()
    found: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}
    with tempfile.TemporaryDirectory(dir=args.out.parent) as name:
        folder = Path(name)
        for section in args.only:
            before = os.getloadavg()
            found[section] = {
                "memory": lambda: memory(folder, args.sides, args.model), "time": lambda: times(folder, args.side),
                "workers": lambda: workers(folder, args.side), "kills": lambda: kills(folder, args.model),
                "demo": share_of_correct_pixels,
            }[section]()  # fmt: skip
            found[section] |= {"load_before": before, "load_after": os.getloadavg()}
            rows = found[section].get("rows", [found[section]])
            console.print(table_of(section, [{k: v for k, v in row.items() if "load" not in k} for row in rows]))
            write_json(args.out, found | {"machine": machine(), "versions": versions()})
    return 0


def memory(folder: Path, sides: tuple[int, int], model: str) -> dict[str, Any]:
    """Peak memory of a whole run at two sizes."""
    rows = [{"side": side} | in_process("raster", town(folder, side), folder, model) for side in sides]
    return {"model": Path(model).stem, "rows": rows, "ratio": rows[1]["peak_mib"] / rows[0]["peak_mib"]}


def times(folder: Path, side: int) -> dict[str, Any]:
    """Seconds per megapixel, in memory and as a raster, alternately; CPU seconds do not depend on other programs."""
    source = town(folder, side)
    rows = [{"variant": variant, "side": side} | in_process(variant, source, folder, "demo")
            for variant in ("in memory", "raster", "in memory", "raster")]  # fmt: skip
    least = {
        (key, variant): min(row[key] for row in rows if row["variant"] == variant)
        for key in ("seconds", "cpu_seconds") for variant in ("in memory", "raster")
    }  # fmt: skip
    ratios = {f"ratio_{key}": least[key, "raster"] / least[key, "in memory"] for key in ("seconds", "cpu_seconds")}
    return {"rows": rows, **ratios}


def workers(folder: Path, side: int) -> dict[str, Any]:
    """Seconds between the first task and the last, with one worker on Ray and with two, of a thread each."""
    source = town(folder, side)
    rows = [{"variant": variant} | in_process(variant, source, folder, "demo") for variant in ("1 worker", "2 workers")]
    return {"rows": rows, "speedup": rows[0]["working"] / rows[1]["working"]}


def kills(folder: Path, model: str, side: int = 1500, count: int = 10) -> dict[str, Any]:
    """Kill a run at random moments, continue it, and compare the file with that of a run in one piece."""
    source = town(folder, side)
    whole = in_process("raster", source, folder, model)
    moments, killed, rng = whole["seconds"], 0, random.Random(0)
    out = folder / "killed.tif"
    while killed < count:
        process = subprocess.Popen(_command("killed", source, out, model), stdout=subprocess.DEVNULL)
        try:
            process.wait(timeout=rng.uniform(0.2, 1.0) * moments / 3)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
            assert not out.exists()
        else:
            break
    subprocess.run(_command("killed", source, out, model), check=True, stdout=subprocess.DEVNULL)
    return {"kills": killed, "same_file": hashlib.sha256(out.read_bytes()).hexdigest() == whole["sha256"]}


def in_process(variant: str, source: Path, folder: Path, model: str) -> dict[str, Any]:
    """Measure in a process of its own."""
    done = subprocess.run(
        _command(variant, source, folder / "labels.tif", model), stdout=subprocess.PIPE, text=True, check=True
    )
    (folder / "labels.tif").unlink(missing_ok=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _command(variant: str, source: Path, out: Path, model: str) -> list[str]:
    return [
        sys.executable,
        __file__,
        "--variant",
        variant,
        "--source",
        str(source),
        "--out",
        str(out),
        "--model",
        model,
    ]


def _measured(variant: str, source: Path, out: Path, model: str) -> None:
    """Label a raster; the last line of output is JSON."""
    began, pixels, working = time.perf_counter(), _pixels(source), 0.0
    if variant == "in memory":
        labels = _in_memory(source, model)
        digest = hashlib.sha256(labels.tobytes()).hexdigest()
    else:
        options = RasterOptions()
        if "worker" in variant:  # one worker runs on Ray too
            options = RasterOptions(workers=int(variant[0]), threads=1, address="local")
        report = segment_raster(source, NAMES, out, background=False, options=options, model=model, quality="fast")
        working, digest = report.seconds, hashlib.sha256(out.read_bytes()).hexdigest()
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = time.perf_counter() - began
    found = {
        "seconds": seconds, "working": working, "cpu_seconds": used.ru_utime + used.ru_stime,
        "cpu_seconds_per_megapixel": (used.ru_utime + used.ru_stime) / pixels * 1e6, "peak_mib": used.ru_maxrss / 1024,
        "sha256": digest,
    }  # fmt: skip
    sys.stdout.write(json.dumps(found) + "\n")


def _in_memory(source: Path, model: str) -> Any:
    """Label the whole raster at once, with the pipeline of images."""
    segmenter = Segmenter(model, "fast")
    vocabulary = segmenter.prepare(NAMES, False)
    with rasterio.open(source) as dataset:
        pixels = dataset.read().transpose(1, 2, 0)
    with torch.no_grad():
        image = normalise(np.ascontiguousarray(pixels))
        settings = [(segmenter.for_vocabulary(vocabulary), vocabulary.bank)]
        (found,) = segmenter.pipeline.variants([image], [pixels.shape[:2]], settings)
    return found[2].labels.numpy().astype(np.uint8)


def town(folder: Path, side: int) -> Path:
    """Write a tiled GeoTIFF of the demo's town, repeated, side x side pixels; written tile row by tile row."""
    path = folder / f"town_{side}.tif"
    if path.exists():
        return path
    image = draw_town().image.transpose(2, 0, 1)
    across = np.tile(image, (1, 1, -(-side // image.shape[2])))[:, :, :side]
    profile = dict(
        driver="GTiff", height=side, width=side, count=3, dtype="uint8", crs="EPSG:32631", tiled=True, blockxsize=512,
        blockysize=512, photometric="rgb", transform=from_origin(500_000, 1_000, 0.25, 0.25), BIGTIFF="IF_SAFER",
    )  # fmt: skip
    with rasterio.open(path, "w", **profile) as dataset:
        for top in range(0, side, 512):
            rows = np.arange(top, min(top + 512, side)) % image.shape[1]
            dataset.write(across[:, rows], window=((top, top + len(rows)), (0, side)))
    return path


def _pixels(source: Path) -> int:
    with rasterio.open(source) as dataset:
        return int(dataset.height * dataset.width)


def _labelled_town() -> tuple[Any, Any, Any]:
    """Return the demo's town: image, true class numbers and those of `itaclip raster --demo --quality fast`."""
    scene = draw_town()
    with tempfile.TemporaryDirectory() as name:
        source, out = Path(name) / "town.tif", Path(name) / "labels.tif"
        profile = dict(driver="GTiff", height=scene.image.shape[0], width=scene.image.shape[1], count=3, dtype="uint8")
        with rasterio.open(source, "w", **profile) as dataset:
            dataset.write(scene.image.transpose(2, 0, 1))
        segment_raster(source, NAMES, out, background=False, model="demo", quality="fast")
        with rasterio.open(out) as dataset:
            labels = dataset.read(1)
    return scene.image, scene.labels, labels


def share_of_correct_pixels() -> dict[str, float]:
    """Share of the pixels of the demo's town that get their true class."""
    from itaclip.common.demo.world import CLASS_ID

    _, truth, labels = _labelled_town()
    numbers = np.array([CLASS_ID[entry.split(",")[0]] for entry in NAMES])
    return {"correct": float((numbers[labels] == truth).mean())}


def draw_picture(path: Path) -> None:
    """Draw the demo's town beside its labels."""
    image, _, labels = _labelled_town()
    shown = overlay(image, labels, usual_colors(len(NAMES), False), 0.6)
    gap = np.full((image.shape[0], 12, 3), 255, np.uint8)
    picture = Image.fromarray(np.concatenate([image, gap, shown], axis=1))
    picture = picture.resize((picture.width * 2 // 3, picture.height * 2 // 3))
    picture.quantize(160, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    run(main)
