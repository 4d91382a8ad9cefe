"""The command line of `eval.py`."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmengine import dist
from mmengine.config import Config
from rich.console import Console

from itaclip.clip.fingerprint import fingerprint
from itaclip.console import make_console, progress
from itaclip.core.methods import METHODS
from itaclip.errors import ItaclipError
from itaclip.evaluation.distributed import joined
from itaclip.evaluation.identity import identity
from itaclip.evaluation.journal import Journal
from itaclip.evaluation.loop import Outcome, OutputFolders, evaluate
from itaclip.evaluation.protocol import PRESETS, apply_protocol
from itaclip.evaluation.report import as_json, class_table
from itaclip.evaluation.setup import (
    ConfigOptions,
    build_dataset,
    build_model,
    change_config,
    check_classes,
    check_labels,
    load_config,
)
from itaclip.files import write_json
from itaclip.openmmlab import ITACLIPSegmentor

SOME_SKIPPED = 1
"""Exit status when the run finished but images were unreadable."""


def parser() -> argparse.ArgumentParser:
    """The options of `eval.py`."""
    options = argparse.ArgumentParser(prog="eval.py", description="Evaluate a configuration on its data set.")
    options.add_argument("--config", type=Path, required=True, help="configuration, such as configs/cfg_voc.py")
    options.add_argument("--method", help="attention of the image tower: " + ", ".join(METHODS))
    options.add_argument("--preset", choices=PRESETS,
                         help="published: the settings that the method was published with on this data set; "
                              "common: one protocol for all methods")  # fmt: skip
    options.add_argument("--pamr", choices=("on", "off"), help="refinement, whatever preset and configuration say")
    options.add_argument("--data-root", help="folder of the data set; replaces the configuration's")
    options.add_argument("--weights", help="CLIP's name or a weight file; replaces the configuration's")
    options.add_argument("--work-dir", type=Path, help="folder for metrics.json (default: work_dirs/<config>)")
    options.add_argument("--show-dir", type=Path, help="write image, truth, result and legend of every image here")
    options.add_argument("--out", type=Path, help="write label maps here, PNG under each image's own name")
    options.add_argument("--limit", type=int, help="only the first N images")
    options.add_argument("--no-text-cache", action="store_true", help="encode all texts anew, keep none")
    options.add_argument("--no-resume", action="store_true", help="count anew what an unfinished run has counted")
    options.add_argument("--launcher", choices=("none", "pytorch", "slurm"), default="none",
                         help="how the processes of a distributed run were started")  # fmt: skip
    options.add_argument("--cfg-options", nargs="+", action=ConfigOptions, default={}, metavar="KEY=VALUE",
                         help="change entries of the configuration, such as model.pamr_steps=0")  # fmt: skip
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run an evaluation; returns the exit status.

    Raises:
        ItaclipError: bad input, with its message.
    """
    args = parser().parse_args(arguments)
    if args.limit is not None and args.limit < 1:
        raise ItaclipError(f"--limit {args.limit}: expected 1 or more.")
    folder = args.work_dir or Path("work_dirs") / args.config.stem
    config, source = configure(args, folder)
    with joined(args.launcher) as meet:
        return _run(args, config, folder, source, meet)


def _run(args: argparse.Namespace, config: Config, folder: Path, source: str | None, meet: Callable[[], None]) -> int:
    first = dist.get_rank() == 0
    console = make_console() if first else Console(file=open(os.devnull, "w"))  # noqa: SIM115, PTH123

    if first:  # the demo's data set is drawn once, not once per process
        dataset = build_dataset(config)
    dist.barrier()
    dataset = dataset if first else build_dataset(config)
    check_labels(dataset)
    began = time.perf_counter()
    model = build_model(config)
    check_classes(model.classes, dataset)
    console.print(f"{args.config.name}: {len(dataset)} images, {len(model.classes)} classes, "
                  f"{len(model.text_features)} queries; model and texts ready after "
                  f"{time.perf_counter() - began:.1f} s")  # fmt: skip

    journal = _open_journal(folder, config, model, console)
    if args.no_resume:
        dist.barrier()  # nobody looks for other journals any more
        journal.remove()
        dist.barrier()
    loader = config.test_dataloader
    total = len(dataset) if args.limit is None else min(args.limit, len(dataset))
    with progress(console, total, "evaluating") as advance:
        outcome = evaluate(
            model, dataset, batch_size=loader.get("batch_size", 1), num_workers=loader.get("num_workers", 0),
            limit=args.limit, outputs=OutputFolders(args.out, args.show_dir), journal=journal, meet=meet,
            advance=advance,
        )  # fmt: skip
    if first:
        run = {
            "config": str(args.config), "model_name": config.model.get("model_name", "ViT-B/16"),
            "pretrained": config.model.get("pretrained"), "data_root": str(loader.dataset.data_root),
            "preset": args.preset, "preset_source": source, "limit": args.limit,
            "processes": dist.get_world_size(), "resumed_images": outcome.resumed,
        }  # fmt: skip
        _report(args, dataset, model, outcome, run, folder, console)
    dist.barrier()  # until the numbers are written, the journal is needed
    if not outcome.skipped:
        journal.remove()
    return SOME_SKIPPED if first and outcome.skipped else 0


def _open_journal(folder: Path, config: Config, model: ITACLIPSegmentor, console: Console) -> Journal:
    """The journal of this evaluation; an unfinished one of another is left alone, and mentioned."""
    parts: list[dict[str, str]] = [{}]
    if dist.get_rank() == 0:
        tower = model.pipeline.encoder
        parts = [identity(config) | {"image tower": fingerprint(tower.named_parameters()),
                                     "device": next(tower.parameters()).device.type}]  # fmt: skip
    dist.broadcast_object_list(parts)
    journal = Journal(folder / "journal", parts[0])
    if others := journal.others():
        console.print(f"{folder / 'journal'}: an unfinished run with other {', '.join(others)} is not continued.")
    return journal


def _report(args: argparse.Namespace, dataset: Any, model: ITACLIPSegmentor, outcome: Outcome, run: dict[str, Any],
            folder: Path, console: Console) -> None:  # fmt: skip
    """Write `metrics.json` and print the table."""
    metrics = outcome.counts.metrics()
    names = tuple(dataset.metainfo["classes"])
    write_json(folder / "metrics.json", as_json(metrics, names, outcome, model.settings, run))
    console.print(class_table(metrics, names))
    console.print(f"mIoU {metrics.mean_iou:.2f}  mAcc {metrics.mean_accuracy:.2f}  aAcc {metrics.all_accuracy:.2f}  "
                  f"on {outcome.images} images, {outcome.seconds / max(outcome.images, 1):.2f} s each")  # fmt: skip
    if outcome.resumed:
        console.print(f"{outcome.resumed} of them were evaluated by an earlier run, which this one continued")
    console.print(f"written: {folder / 'metrics.json'}"
                  + (f", masks in {args.out}" if args.out else "")
                  + (f", overlays in {args.show_dir}" if args.show_dir else ""))  # fmt: skip
    for path, reason in outcome.skipped:
        console.print(f"skipped: {path} ({reason})", markup=False)
    if outcome.skipped:
        console.print("Mend these and run the same command again: only their batches are evaluated then.")


def configure(args: argparse.Namespace, folder: Path) -> tuple[Config, str | None]:
    """The configuration that the options describe; `--cfg-options` have the last word.

    Args:
        args: parsed options.
        folder: receives a class file when the preset words classes differently.

    Returns:
        The configuration, and where a preset's settings come from.

    Raises:
        ItaclipError: bad input.
    """
    config = load_config(args.config)
    source = apply_protocol(config, folder, args.method, args.preset, args.pamr)
    change_config(config, args.cfg_options)
    if args.data_root is not None:
        config.test_dataloader.dataset.data_root = args.data_root
    if args.weights is not None:
        config.model.model_name = args.weights
    if args.no_text_cache:
        config.model.text_cache = False
    return config, source
