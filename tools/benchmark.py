"""Where the time goes: stages of one image, against the matrix peak measured in the same run.

    python tools/benchmark.py --config configs/cfg_voc.py --weights vit-b-16.pt [--image photo.jpg]
    python tools/benchmark.py --config configs/cfg_voc.py --weights vit-b-16.pt --baseline [--dtype bf16]
    python tools/benchmark.py --config configs/cfg_cityscapes.py --weights vit-b-16.pt --pamr --size 1024 2048
    python tools/benchmark.py --config configs/cfg_voc.py --weights vit-b-16.pt --growth

`--baseline` runs the same image plainly (`itaclip.benchmark.plain`: one window and one view
a pass, in float32) in the same process, and tells the ratios and the share of equal labels.
The weights may be stand-ins of the right size (``python tests/make_weights.py vit-b-16 F``).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from itaclip.benchmark import plain
from itaclip.benchmark.machine import encoder_flops, matrix_peak, timed
from itaclip.benchmark.stages import fast, growth, photo, plainly, random_bank
from itaclip.clip import load_clip
from itaclip.command.options import parse_setting
from itaclip.configuration import ModelDescription, read_model
from itaclip.console import make_console, run, table_of
from itaclip.devices import choose_device
from itaclip.evaluation.report import machine, peak_memory_mib, versions
from itaclip.files import write_json
from itaclip.images import normalise
from itaclip.pamr import pamr
from itaclip.pipeline import Pipeline
from itaclip.text import TextBank, TextCache, TextEncoder
from itaclip.views import VIEWS

PLAIN_TEXTS = 3  # encoded plainly; the time of all of them is scaled up


@torch.no_grad()
def texts(
    description: ModelDescription, clip: Any, device: torch.device, baseline: bool
) -> tuple[TextBank, dict[str, float]]:
    """The text bank, and seconds to make it: anew, from the disk, and plainly."""
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        encoder = TextEncoder(clip, TextCache(folder)).to(device)
        seconds["anew"], vocabulary = timed(lambda: description.vocabulary(encoder))
        again = TextEncoder(clip, TextCache(folder)).to(device)
        seconds["from the disk"], _ = timed(lambda: description.vocabulary(again))
    if baseline:
        described = sum(text is not None for text in vocabulary.definitions or ())
        words = vocabulary.bank.class_names.queries
        taken, _ = timed(lambda: [plain.encode_text(clip, word) for word in words[:PLAIN_TEXTS]])
        seconds["plainly (scaled up)"] = taken / min(PLAIN_TEXTS, len(words)) * (len(words) + described)
    return vocabulary.bank, seconds


def pamr_alone(size: tuple[int, int], queries: int, description: ModelDescription) -> dict[str, Any]:
    """Refinement alone, and plainly: seconds, extra memory, largest difference."""
    settings = description.settings
    masks, guide = torch.randn(queries, *size), normalise(photo(size))
    pamr(masks[:, :64, :64], guide[:, :64, :64], 1, settings.pamr_stride)
    found: dict[str, Any] = {"size": list(size), "queries": queries, "steps": settings.pamr_steps}
    before = peak_memory_mib()["process"]
    found["seconds"], ours = timed(lambda: pamr(masks, guide, settings.pamr_steps, settings.pamr_stride))
    found["extra_mib"] = peak_memory_mib()["process"] - before
    before = peak_memory_mib()["process"]
    found["plain_seconds"], theirs = timed(lambda: plain.refine(masks, guide, settings))
    found["plain_extra_mib"] = peak_memory_mib()["process"] - before
    found["ratio"] = found["plain_seconds"] / found["seconds"]
    found["largest_difference"] = float((ours - theirs).abs().max())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--weights", help="replaces the configuration's")
    parser.add_argument("--image", type=Path, help="a JPEG file; without it a random picture of --size")
    parser.add_argument("--size", type=int, nargs=2, default=(375, 500), metavar=("H", "W"))
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), help="replaces the configuration's")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings, such as batch_crops=5")
    parser.add_argument("--queries", type=int, help="so many random text features, instead of encoding the class list")
    parser.add_argument("--baseline", action="store_true", help="also plainly, in float32")
    parser.add_argument("--pamr", action="store_true", help="only refinement at --size, against the plain one")
    parser.add_argument("--growth", action="store_true", help="only seconds over image size, queries and stride")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    changes = dict(parse_setting(pair) for pair in args.set)
    if args.dtype:
        changes["dtype"] = args.dtype
    description = read_model(args.config, args.weights, changes)
    console = make_console()
    figures: dict[str, Any] = {"config": str(args.config), "machine": machine(), "versions": versions()}
    size = (args.size[0], args.size[1])
    if args.pamr:
        names = description.name_path
        queries = sum(len(line.split(", ")) for line in Path(names).read_text().splitlines())
        figures |= pamr_alone(size, queries, description)
        console.print_json(data=figures)
    else:
        figures |= measure(args, description, size)
        for title, rows in figures["tables"].items():
            console.print(table_of(title, rows))
        for line in figures["lines"]:
            console.print(line)
    figures["peak_memory_mib"] = peak_memory_mib()
    console.print(f"peak memory {figures['peak_memory_mib']}")
    if args.out:
        write_json(args.out, figures)
    return 0


def measure(args: argparse.Namespace, description: ModelDescription, size: tuple[int, int]) -> dict[str, Any]:
    """Texts, stages, ratios, or growth, as tables and lines."""
    settings = description.settings
    device = choose_device(settings.device)
    clip = load_clip(*description.weights).to(device)
    width = clip.text_projection.shape[1]
    text_seconds: dict[str, float] = {}
    if args.queries:
        bank = random_bank(args.queries, width, device)
    else:
        bank, text_seconds = texts(description, clip, device, args.baseline)
    tables: dict[str, list[dict[str, Any]]] = {}
    lines: list[str] = []
    plain_clip = load_clip(*description.weights).to(device) if args.baseline else None  # the first may change its dtype
    pipeline = Pipeline(clip, settings).to(device)
    encoder = pipeline.encoder
    if args.growth:
        tables["growth"] = list(growth(pipeline, width, device))
        return {"tables": tables, "lines": lines}
    jpeg = args.image.read_bytes() if args.image else cv2.imencode(".jpg", photo(size)[..., ::-1])[1].tobytes()
    pipeline([torch.zeros(3, encoder.image_size, encoder.image_size, device=device)], [(8, 8)], bank)  # warm-up
    peaks = [matrix_peak(device, encoder.visual.conv1.weight.dtype)]
    ours = fast(pipeline, bank, jpeg, description.short_side)
    peaks.append(matrix_peak(device, encoder.visual.conv1.weight.dtype))
    peak = max(peaks)
    bgr: Any = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    factor = min(2048 / max(bgr.shape[:2]), description.short_side / min(bgr.shape[:2]))
    plan = pipeline.plan(torch.empty(3, *(int(side * factor + 0.5) for side in bgr.shape[:2])))
    passes = plan.count * (VIEWS if settings.img_engineering else 1)
    flops = passes * encoder_flops(encoder.visual, plan.grid[0] * plan.grid[1], len(encoder.method.middle_layers))
    achieved = flops / ours.seconds["encoder"] / 1e9
    lines.append(f"{passes} encoder passes, {len(bank.features)} queries, {settings.dtype}: {achieved:.0f} GFLOP/s, "
                 f"{achieved / peak:.1%} of the matrix peak of {peak:.0f} GFLOP/s measured in this run")  # fmt: skip
    stages: list[dict[str, Any]] = [{"stage": name, "seconds": value} for name, value in ours.seconds.items()]
    found = {"gflops_encoder": achieved, "gflops_matrix_peak": peak, "share_of_peak": achieved / peak,
             "passes": passes, "queries": len(bank.features), "dtype": settings.dtype}  # fmt: skip
    if plain_clip is not None:
        theirs = plainly(plain_clip, settings, encoder.method.middle_layers, bank, jpeg, description.short_side)
        for row in stages:
            row["plainly"] = theirs.seconds.get(row["stage"], "")
        found["equal_labels"] = equal = float((ours.labels == theirs.labels).float().mean())
        found["largest_logit_difference"] = worst = float((ours.logits - theirs.logits).abs().max())
        found["ratio"] = ratio = theirs.seconds["whole image"] / ours.seconds["whole image"]
        lines.append(f"whole image {ratio:.2f} times as fast as plainly; labels equal on {equal:.4%} of the pixels; "
                     f"logits differ by at most {worst:.1e}")  # fmt: skip
        if settings.pamr_steps:
            found["ratio_pamr"] = theirs.seconds["PAMR"] / ours.seconds["PAMR"]
            lines.append(f"PAMR {found['ratio_pamr']:.1f} times as fast")
        if text_seconds:
            plain_seconds = text_seconds["plainly (scaled up)"]
            found["ratio_text"] = plain_seconds / text_seconds["anew"]
            found["ratio_text_cached"] = plain_seconds / text_seconds["from the disk"]
            lines.append(f"text bank {found['ratio_text']:.1f} times as fast anew, "
                         f"{found['ratio_text_cached']:.0f} times from the disk")  # fmt: skip
    if text_seconds:
        tables["text bank"] = [{"how": how, "seconds": value} for how, value in text_seconds.items()]
    tables[f"{args.config.name}, image of {bgr.shape[0]} x {bgr.shape[1]}"] = stages
    return {"tables": tables, "lines": lines, **found}


if __name__ == "__main__":
    run(main)
