"""What `itaclip eval` and `eval.py` run."""

from __future__ import annotations

import itaclip.research.openmmlab  # noqa: F401 - first: it makes mmseg importable, or says what to install

# isort: split

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmengine import dist
from mmengine.config import Config
from rich.console import Console

from itaclip.common.console import make_console, progress
from itaclip.common.shipped import find_configuration
from itaclip.core.choices import follow
from itaclip.core.clip.fingerprint import fingerprint, structure
from itaclip.errors import ItaclipError
from itaclip.files import write_json
from itaclip.formats.configuration import weights_and_settings
from itaclip.research.evaluation.distributed import joined
from itaclip.research.evaluation.fingerprint import protocol_of
from itaclip.research.evaluation.identity import digest, identity
from itaclip.research.evaluation.journal import Journal
from itaclip.research.evaluation.loop import Outcome, OutputFolders, evaluate
from itaclip.research.evaluation.options import parser as parser
from itaclip.research.evaluation.protocol import apply_protocol
from itaclip.research.evaluation.report import as_json, by_reason, class_table, mask_notes
from itaclip.research.evaluation.setup import build_dataset, build_model, check_classes, check_model
from itaclip.research.evaluation.vocabulary import apply_wording, parse_wording
from itaclip.research.openmmlab import ITACLIPSegmentor
from itaclip.research.openmmlab.configuration import change_config, load_config
from itaclip.research.preparation.checks import check_labels

SOME_SKIPPED = 1
"""Exit status of a run that finished although some images could not be evaluated, or no pixel was labelled."""

_NAMED = 3
_CHOICES = "choices.json"  # what an unfinished run chose by measuring


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the evaluation that a command line describes, see `run`."""
    return run(parser().parse_args(arguments))


def run(args: argparse.Namespace) -> int:
    """Run an evaluation.

    Args:
        args: parsed by `itaclip.research.evaluation.options.parser`.

    Returns:
        The exit status: 0, or `SOME_SKIPPED`.

    Raises:
        ItaclipError: bad input.
    """
    args.config = find_configuration(args.config)
    if args.limit is not None and args.limit < 1:
        raise ItaclipError(f"--limit {args.limit}: expected 1 or more.")
    folder = args.work_dir or Path("work_dirs") / args.config.stem
    config, source = configure(args, folder)
    with joined(args.launcher) as meet:
        return _evaluate(args, config, folder, source, meet)


def _evaluate(
    args: argparse.Namespace, config: Config, folder: Path, source: str | None, meet: Callable[[], None]
) -> int:
    first = dist.get_rank() == 0
    console = make_console() if first else Console(file=open(os.devnull, "w"))  # noqa: SIM115, PTH123

    if first:  # draws the demo's data set once, not once per process
        dataset = build_dataset(config)
    dist.barrier()
    dataset = dataset if first else build_dataset(config)
    check_classes(check_model(config), dataset)
    for note in check_labels(dataset):
        console.print(f"note: {note}", markup=False)
    began = time.perf_counter()
    model = _same_model(config, folder)
    console.print(f"{args.config.name}: {len(dataset)} images, {len(model.classes)} classes, "
                  f"{len(model.text_features)} queries; model and texts ready after "
                  f"{time.perf_counter() - began:.1f} s")  # fmt: skip
    if config.model.get("background_words"):
        console.print(f"background: {model.background_choice} ({', '.join(model.classes.synonyms[0])})", markup=False)

    journal = _open_journal(folder, config, model, console)
    if args.no_resume:
        dist.barrier()  # no process looks for other journals any more
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
            "preset": args.preset, "preset_source": source, "limit": args.limit, "vocabulary": args.vocabulary,
            "background_choice": model.background_choice, "engine": model.pipeline.engine,
            "dtype": model.pipeline.dtype, "choices": model.pipeline.choices,
            "processes": dist.get_world_size(), "resumed_images": outcome.resumed,
        }  # fmt: skip
        _report(args, config, dataset, model, outcome, run, folder, console)
    dist.barrier()  # the journal is needed until the numbers are written
    if not outcome.skipped:
        journal.remove()
        (folder / _CHOICES).unlink(missing_ok=True)
    return SOME_SKIPPED if first and (outcome.skipped or not outcome.counts.metrics().pixels) else 0


def _same_model(config: Config, folder: Path) -> ITACLIPSegmentor:
    """Build the model, in every process with the same choices: those of an unfinished run, or else of the first."""
    if not weights_and_settings(config.model)[1].measures:
        return build_model(config)
    first, path = dist.get_rank() == 0, folder / _CHOICES
    choices: list[dict[str, str]] = [{}]
    if first:
        run = digest(identity(config))
        follow(_recorded(path, run))
        model = build_model(config)
        model.pipeline.settle(model.bank)
        choices = [model.pipeline.choices]
        write_json(path, {"run": run, "choices": choices[0]})
    dist.broadcast_object_list(choices)
    if not first:
        follow(choices[0])
        model = build_model(config)
        model.pipeline.settle(model.bank)
    return model


def _recorded(path: Path, run: str) -> dict[str, str]:
    """Read what an unfinished run chose by measuring; nothing if it is another run."""
    try:
        found = json.loads(path.read_bytes())
        return dict(found["choices"]) if found["run"] == run else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _open_journal(folder: Path, config: Config, model: ITACLIPSegmentor, console: Console) -> Journal:
    """Open the journal of this evaluation. Journals of other unfinished evaluations are mentioned and kept."""
    parts: list[dict[str, str]] = [{}]
    if dist.get_rank() == 0:
        tower = model.pipeline.encoder
        parts = [identity(config) | {"image tower": f"{fingerprint(tower.named_parameters())} {structure(tower)}",
                                     "device": next(tower.parameters()).device.type}]  # fmt: skip
    dist.broadcast_object_list(parts)
    journal = Journal(folder / "journal", parts[0])
    if others := journal.others():
        console.print(f"{folder / 'journal'}: an unfinished run with other {', '.join(others)} is not continued.")
    return journal


def _report(args: argparse.Namespace, config: Config, dataset: Any, model: ITACLIPSegmentor, outcome: Outcome,
            run: dict[str, Any], folder: Path, console: Console) -> None:  # fmt: skip
    """Write `metrics.json` and print the table."""
    metrics = outcome.counts.metrics()
    names = tuple(dataset.metainfo["classes"])
    notes = mask_notes(metrics, names, outcome, dataset)
    protocol = protocol_of(config, model.settings, model.classes, dataset, metrics, outcome.ignored, outcome.images)
    found = as_json(metrics, names, outcome, model.settings, run)
    write_json(folder / "metrics.json", found | {"protocol": protocol, "notes": notes})
    if metrics.pixels:
        console.print(class_table(metrics, names, notes))
        scores = f"mIoU {metrics.mean_iou:.2f}  mAcc {metrics.mean_accuracy:.2f}  aAcc {metrics.all_accuracy:.2f}  "
        console.print(f"{scores}on {outcome.images} images, {outcome.seconds / outcome.images:.2f} s each")
        console.print(f"protocol {protocol['fingerprint']}, vocabulary {args.vocabulary}", highlight=False)
    else:
        console.print(f"no scores: {outcome.images} images evaluated, and their masks contain no pixel of any class.")
    if outcome.resumed:
        console.print(f"{outcome.resumed} of them come from an earlier run, which this one continued")
    console.print(f"written: {folder / 'metrics.json'}"
                  + (f", masks in {args.out}" if args.out else "")
                  + (f", overlays in {args.show_dir}" if args.show_dir else ""))  # fmt: skip
    for reason, paths in by_reason(outcome.skipped).items():
        named = ", ".join(paths[:_NAMED]) + (", ..." if len(paths) > _NAMED else "")
        count = f"{len(paths)} images: " if len(paths) > 1 else ""
        console.print(f"skipped: {count}{named} ({reason})", markup=False)
    if outcome.skipped:
        console.print(
            "Repair or add these files and run the same command again: only their batches are evaluated then."
        )


def configure(args: argparse.Namespace, folder: Path) -> tuple[Config, str | None]:
    """Load the configuration that the options describe; `--cfg-options` override presets.

    Args:
        args: parsed options.
        folder: receives a class file when the preset words classes differently.

    Returns:
        The configuration, and the source of the preset's settings.

    Raises:
        ItaclipError: bad input.
    """
    config = load_config(args.config)
    source = apply_protocol(config, folder, args.method, args.preset, args.pamr)
    change_config(config, args.cfg_options, args.data_root, args.weights)
    apply_wording(config, folder, parse_wording(args.vocabulary))
    if args.no_text_cache:
        config.model.text_cache = False
    return config, source
