"""Measure the stages of one image, relative to the matrix-multiplication peak measured in the same run.

    python tools/benchmark.py --config configs/cfg_voc.py --weights vit-b-16.pt [--image photo.jpg]
    python tools/benchmark.py --config configs/cfg_voc.py --weights vit-b-16.pt --baseline [--dtype bf16]
    python tools/benchmark.py --config configs/cfg_cityscapes.py --weights vit-b-16.pt --pamr --size 1024 2048
    python tools/benchmark.py --config configs/cfg_voc.py --weights vit-b-16.pt --growth
    python tools/benchmark.py --config configs/cfg_*.py --weights vit-b-16.pt --dtype bf16

`--baseline` also runs a plain implementation on the same image in the same process
(`itaclip.research.benchmark.plain`: one window and one view per pass, in float32), and reports ratios and
the share of equal labels. With several configurations, it measures images per second for each.
`--gpu-memory` computes the memory needed on a GPU from the shapes of all tensors, without a GPU.
The weights may be random ones of the right size (``python tests/make_weights.py vit-b-16 F``).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch

from itaclip.apps.command.options import parse_setting
from itaclip.common.console import make_console, run, table_of
from itaclip.common.environment import machine, versions
from itaclip.core.clip.loading import load_openai_clip
from itaclip.core.clip.open_clip_modules import as_open_clip
from itaclip.core.engines import ENGINES
from itaclip.core.images import normalise
from itaclip.core.methods import METHODS, StitchedBlocks
from itaclip.core.pamr import pamr
from itaclip.core.pipeline import Pipeline
from itaclip.core.resizing import fitted_size
from itaclip.core.settings import Settings
from itaclip.core.settings_checks import PRECISIONS
from itaclip.core.text import TextBank, TextCache, TextEncoder
from itaclip.devices import choose_device
from itaclip.files import refuse_arguments, write_json
from itaclip.formats.configuration import ModelDescription, read_config, read_model
from itaclip.research.benchmark import plain
from itaclip.research.benchmark.machine import matrix_peak, measured, timed
from itaclip.research.benchmark.methods import method_seconds
from itaclip.research.benchmark.pretended import gpu_peak_mib
from itaclip.research.benchmark.stages import (
    TYPICAL_SIZES,
    decode,
    encoder_work,
    fast,
    growth,
    middle_layers,
    photo,
    plainly,
    random_bank,
    throughput,
)  # fmt: skip
from itaclip.research.benchmark.whole_image import whole_image_row

PLAIN_TEXTS = 3  # encoded by the plain implementation; the time for all texts is extrapolated


@torch.no_grad()
def texts(
    description: ModelDescription, clip: Any, device: torch.device, baseline: bool
) -> tuple[TextBank, dict[str, float]]:
    """Build the text bank and measure the seconds: without a cache, with one, and with the plain implementation."""
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        engine = "openvino" if description.settings.engine == "openvino" else "torch"
        encoder = TextEncoder(clip, TextCache(folder), engine).to(device)
        encoder(["warm-up"])
        seconds["anew"], vocabulary = timed(lambda: description.vocabulary(encoder))
        again = TextEncoder(clip, TextCache(folder)).to(device)
        seconds["from the disk"], _ = timed(lambda: description.vocabulary(again))
    if baseline:
        described = sum(text is not None for text in vocabulary.definitions or ())
        words = vocabulary.bank.class_names.queries
        theirs = as_open_clip(clip)
        taken, _ = timed(lambda: [plain.encode_text(theirs, word) for word in words[:PLAIN_TEXTS]])
        seconds["plainly (scaled up)"] = taken / min(PLAIN_TEXTS, len(words)) * (len(words) + described)
    return vocabulary.bank, seconds


@torch.no_grad()
def pamr_alone(size: tuple[int, int], queries: int, settings: Settings) -> dict[str, Any]:
    """Measure refinement, optimised and plain: seconds, extra memory, largest difference."""
    device = choose_device(settings.device)
    masks, guide = torch.randn(queries, *size).to(device), normalise(photo(size)).to(device)
    refine = partial(pamr, steps=settings.pamr_steps, dilations=settings.pamr_stride)
    refine(masks, guide) if device.type == "cuda" else refine(masks[:, :64, :64], guide[:, :64, :64])  # warm-up
    ours, refined = measured(lambda: refine(masks, guide), device)
    theirs, expected = measured(lambda: plain.refine(masks, guide, settings), device)
    return {
        "size": list(size), "queries": queries, "steps": settings.pamr_steps, "seconds": ours.seconds,
        "extra_mib": ours.extra_mib, "plain_seconds": theirs.seconds, "plain_extra_mib": theirs.extra_mib,
        "ratio": theirs.seconds / ours.seconds, "largest_difference": float((refined - expected).abs().max()),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, nargs="+", required=True)
    parser.add_argument("--weights", help="replaces the configuration's")
    parser.add_argument("--image", type=Path, help="a JPEG file (default: a random image of --size)")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="default: typical of the data set")
    parser.add_argument("--batch", type=int, default=1, help="images per batch, with several configurations")
    parser.add_argument("--dtype", choices=PRECISIONS, help="replaces the configuration's")
    parser.add_argument("--engine", choices=ENGINES, help="replaces the configuration's")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings, such as batch_crops=5")
    parser.add_argument("--queries", type=int, help="use this many random text features instead of the class list")
    parser.add_argument("--baseline", action="store_true", help="also measure the plain implementation, in float32")
    parser.add_argument("--pamr", action="store_true", help="only refinement at --size, compared with the plain one")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=tuple(METHODS),
        metavar="METHOD",
        help="only seconds per window of these methods; ratios are relative to the first",
    )
    parser.add_argument("--growth", action="store_true", help="only seconds by image size, queries and stride")
    parser.add_argument("--gpu-memory", action="store_true", help="only the memory needed on a GPU, from tensor shapes")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    refuse_arguments("out", vars(args))
    several = len(args.config) > 1 or args.gpu_memory
    if several and (args.baseline or args.pamr or args.growth or args.image or args.queries):
        parser.error("several configurations and --gpu-memory cannot be combined with other measurements.")
    if args.batch != 1 and (not (several or args.methods) or args.gpu_memory):
        parser.error("--batch requires several configurations or --methods.")
    if args.gpu_memory and args.dtype == "int8":
        parser.error("--gpu-memory: int8 runs only on CPUs.")
    changes = dict(parse_setting(pair) for pair in args.set)
    changes |= {name: value for name in ("dtype", "engine") if (value := getattr(args, name))}
    if args.compile:
        changes["compile"] = True
    console = make_console()
    figures: dict[str, Any] = {
        "config": " ".join(map(str, args.config)), "changes": changes, "machine": machine(), "versions": versions()
    }  # fmt: skip
    descriptions = [read_model(config, args.weights, changes) for config in args.config]
    size = (args.size[0], args.size[1]) if args.size else typical_size(args.config[0])
    if args.methods:
        description = descriptions[0]
        encoder = Pipeline(load_openai_clip(*description.weights), description.settings).encoder
        count = args.queries or len(description.classes.read()[0].queries)
        plain_clip = as_open_clip(load_openai_clip(*description.weights))
        visual = plain_clip.visual  # in float32, whatever the precision of ours
        rows = method_seconds(encoder, args.methods, args.batch if args.batch > 1 else 10, count, visual)
        console.print(table_of(f"seconds per window, {count} queries, {description.settings.dtype}", rows))
        figures["rows"] = rows
        if any(isinstance(METHODS[name], StitchedBlocks) for name in args.methods):
            row = whole_image_row(encoder, visual)
            console.print(table_of(f"a whole image, {description.settings.dtype}", [row]))
            figures["whole image"] = row
    elif args.pamr:
        queries = len(descriptions[0].classes.read()[0].queries)
        figures |= pamr_alone(size, queries, descriptions[0].settings)
        console.print_json(data=figures)
    else:
        figures |= rates(args, descriptions) if several else measure(args, descriptions[0], size)
        for title, rows in figures["tables"].items():
            console.print(table_of(title, rows))
        for line in figures["lines"]:
            console.print(line)
    if args.out:
        write_json(args.out, figures)
    return 0


def typical_size(config: Path) -> tuple[int, int]:
    """Return the height and width of a typical image of a configuration's data set."""
    dataset = read_config(config, import_custom_modules=False).test_dataloader.dataset.type
    return TYPICAL_SIZES.get(dataset, (375, 500))


def rates(args: argparse.Namespace, descriptions: Sequence[ModelDescription]) -> dict[str, Any]:
    """Measure images per second, or GPU memory, with the settings of every configuration and random text features."""
    rows: list[dict[str, Any]] = []
    for config, description in zip(args.config, descriptions, strict=True):
        settings, short_side = description.settings, description.short_side
        clip = load_openai_clip(*description.weights)
        pipeline = Pipeline(clip, settings)
        queries = len(description.classes.read()[0].queries)
        size = (args.size[0], args.size[1]) if args.size else typical_size(config)
        if args.gpu_memory:
            image = fitted_size(size, 2048, short_side)
            found = {"size": f"{size[0]} x {size[1]}", "dtype": settings.dtype, "queries": queries,
                     "MiB": gpu_peak_mib(pipeline, image, size, queries)}  # fmt: skip
        else:
            device = choose_device(settings.device, settings.dtype, settings.engine)
            bank = random_bank(queries, clip.text_projection.shape[1], device)
            found = throughput(pipeline.to(device), size, short_side, bank, args.batch)
        rows.append({"settings": config.stem} | found)
    return {"tables": {"GPU memory" if args.gpu_memory else "images per second": rows}, "lines": []}


def measure(args: argparse.Namespace, description: ModelDescription, size: tuple[int, int]) -> dict[str, Any]:
    """Measure texts, stages and ratios, or growth; returns tables and lines."""
    settings = description.settings
    device = choose_device(settings.device, settings.dtype, settings.engine)
    clip = load_openai_clip(*description.weights).to(device)
    width = clip.text_projection.shape[1]
    text_seconds: dict[str, float] = {}
    if args.queries:
        bank = random_bank(args.queries, width, device)
    else:
        bank, text_seconds = texts(description, clip, device, args.baseline)
    tables: dict[str, list[dict[str, Any]]] = {}
    lines: list[str] = []
    # a second model, because the pipeline may change the dtype of the first
    plain_clip = as_open_clip(load_openai_clip(*description.weights)).to(device) if args.baseline else None
    pipeline = Pipeline(clip, settings).to(device)
    encoder = pipeline.encoder
    if args.growth:
        tables["growth"] = list(growth(pipeline, width, device))
        return {"tables": tables, "lines": lines}
    jpeg = args.image.read_bytes() if args.image else cv2.imencode(".jpg", photo(size)[..., ::-1])[1].tobytes()
    size = decode(jpeg).shape[:2]
    pipeline([torch.zeros(3, encoder.image_size, encoder.image_size, device=device)], [(8, 8)], bank)  # warm-up
    if device.type == "cuda" or settings.compile:
        fast(pipeline, bank, jpeg, description.short_side)  # warm-up of every kernel
    peaks = [matrix_peak(device, settings.dtype)]
    ours = fast(pipeline, bank, jpeg, description.short_side)
    peaks.append(matrix_peak(device, settings.dtype))
    peak = max(peaks)
    passes, flops = encoder_work(pipeline, ours.image)
    achieved = flops / ours.seconds["encoder"] / 1e9
    lines.append(f"{passes} encoder passes, {len(bank.features)} queries, {pipeline.engine}, {pipeline.dtype}: "
                 f"{achieved:.0f} GFLOP/s, {achieved / peak:.1%} of the matrix peak of {peak:.0f} GFLOP/s "
                 "measured in this run")  # fmt: skip
    stages: list[dict[str, Any]] = [
        {"stage": name, "seconds": value, "peak MiB": ours.peak_mib.get(name, "")}
        for name, value in ours.seconds.items()
    ]
    found = {"gflops_encoder": achieved, "gflops_matrix_peak": peak, "share_of_peak": achieved / peak,
             "passes": ours.passes, "passes of all windows and views": passes, "queries": len(bank.features),
             "dtype": pipeline.dtype, "engine": pipeline.engine}  # fmt: skip
    if plain_clip is not None:
        if device.type == "cuda":
            plainly(plain_clip, settings, middle_layers(encoder.method), bank, jpeg, description.short_side)  # warm-up
        theirs = plainly(plain_clip, settings, middle_layers(encoder.method), bank, jpeg, description.short_side)
        for row in stages:
            row["plainly"] = theirs.seconds.get(row["stage"], "")
            row["plain MiB"] = theirs.peak_mib.get(row["stage"], "")
        found["equal_labels"] = equal = float((ours.labels == theirs.labels).float().mean())
        found["largest_logit_difference"] = worst = float((ours.logits - theirs.logits).abs().max())
        found["ratio"] = ratio = theirs.seconds["whole image"] / ours.seconds["whole image"]
        lines.append(f"whole image {ratio:.2f} times as fast as the plain implementation; labels equal on {equal:.4%} "
                     f"of the pixels; logits differ by at most {worst:.1e}")  # fmt: skip
        if settings.pamr_steps:
            found["ratio_pamr"] = theirs.seconds["PAMR"] / ours.seconds["PAMR"]
            lines.append(f"PAMR {found['ratio_pamr']:.1f} times as fast")
        if text_seconds:
            plain_seconds = text_seconds["plainly (scaled up)"]
            found["ratio_text"] = plain_seconds / text_seconds["anew"]
            found["ratio_text_cached"] = plain_seconds / text_seconds["from the disk"]
            lines.append(f"text bank {found['ratio_text']:.1f} times as fast without a cache, "
                         f"{found['ratio_text_cached']:.0f} times with one")  # fmt: skip
    if text_seconds:
        tables["text bank"] = [{"how": how, "seconds": value} for how, value in text_seconds.items()]
    tables[f"{args.config[0].name}, image of {size[0]} x {size[1]}"] = stages
    return {"tables": tables, "lines": lines, **found}


if __name__ == "__main__":
    run(main)
