"""The command line of `tools/ablate.py`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itaclip.common.console import make_console, progress
from itaclip.common.environment import machine, versions
from itaclip.errors import ItaclipError
from itaclip.files import write_json, write_text
from itaclip.research.comparison.ablation import Ablation
from itaclip.research.comparison.ablation_report import ablation_rows, markdown, plot, rich_table
from itaclip.research.comparison.variants import GROUPS, Variant, make_variants
from itaclip.research.evaluation.command import SOME_SKIPPED
from itaclip.research.evaluation.options import add_changes
from itaclip.research.evaluation.presets import DATASETS, PRESETS
from itaclip.research.evaluation.protocol import apply_protocol
from itaclip.research.evaluation.setup import build_dataset, check_classes
from itaclip.research.openmmlab.configuration import change_config, load_config
from itaclip.research.preparation.checks import check_labels


def parser() -> argparse.ArgumentParser:
    """Declare the options of `ablate.py`."""
    options = argparse.ArgumentParser(prog="ablate.py", description="Vary one setting at a time on a configuration.")
    options.add_argument("--config", type=Path, required=True, help="configuration, such as configs/cfg_voc.py")
    options.add_argument("--only", nargs="+", metavar="ABLATION", help=f"default: all of {', '.join(GROUPS)}")
    options.add_argument("--out", type=Path, help="folder for the results (default: work_dirs/ablate_<config>)")
    options.add_argument(
        "--preset", choices=PRESETS, help="start from a preset instead of the configuration's settings"
    )
    options.add_argument("--method", help="start from another method")
    add_changes(options)
    options.add_argument("--limit", type=int, help="only the first N images")
    options.add_argument("--measure-savings", action="store_true",
                         help="also run every variant separately; report times and differences")  # fmt: skip
    return options


def main(given: Sequence[str] | None = None) -> int:
    """Run the ablations; returns the exit status.

    Raises:
        ItaclipError: bad input.
    """
    args = parser().parse_args(given)
    if args.limit is not None and args.limit < 1:
        raise ItaclipError(f"--limit {args.limit}: expected 1 or more.")
    out = args.out or Path("work_dirs") / f"ablate_{args.config.stem}"
    config = load_config(args.config)
    apply_protocol(config, out, args.method, args.preset)
    change_config(config, args.cfg_options, args.data_root, args.weights)
    console = make_console()
    dataset = build_dataset(config)
    for note in check_labels(dataset):
        console.print(f"note: {note}", markup=False)
    ablation = Ablation(config)
    check_classes(ablation.classes, dataset)
    variants = make_variants(ablation.base, ablation.blocks, ablation.auxiliary is not None, args.only)

    loader = config.test_dataloader
    total = len(dataset) if args.limit is None else min(args.limit, len(dataset))
    how: dict[str, Any] = dict(batch_size=loader.get("batch_size", 1), num_workers=loader.get("num_workers", 0),
                               limit=args.limit)  # fmt: skip
    distinct = len({variant.settings for variant in variants})
    console.print(f"{args.config.name}: {len(variants)} variants ({distinct} distinct) on {total} images")
    with progress(console, total, "ablating") as advance:
        outcomes = ablation.run(dataset, [variant.settings for variant in variants], **how, advance=advance)
    if not outcomes[0].images:
        raise ItaclipError(f"no image could be read; the first: {' ('.join(outcomes[0].skipped[0])}).")
    savings = _savings(ablation, dataset, variants, how) if args.measure_savings else None

    name = DATASETS.get(config.test_dataloader.dataset.type, config.test_dataloader.dataset.type)
    rows = ablation_rows(variants, outcomes, ablation.base, name, ablation.blocks)
    notes = [f"{args.config}, {outcomes[0].images} images, {config.model.get('model_name', 'ViT-B/16')}.",
             f"All variants in one run: {outcomes[0].seconds:.1f} s."]  # fmt: skip
    if savings:
        notes.append(f"Every distinct variant separately: {savings['separate_seconds']:.1f} s, largest difference in "
                     f"mIoU {savings['largest_difference']:.4f}.")  # fmt: skip
    write_json(out / "ablation.json", {
        "rows": rows, "images": outcomes[0].images, "distinct_variants": distinct,
        "shared_seconds": outcomes[0].seconds, "savings": savings, "config": str(args.config),
        "skipped": outcomes[0].skipped, "versions": versions(), "machine": machine(),
    })  # fmt: skip
    write_text(out / "ablation.md", markdown(rows, f"Ablations on {name}", notes))
    plot(rows, out / "ablation.png")
    console.print(rich_table(rows))
    console.print(*notes, sep="\n", markup=False)
    console.print(f"written: {out / 'ablation.json'}, .md, .png")
    for path, reason in outcomes[0].skipped:
        console.print(f"skipped: {path} ({reason})", markup=False)
    return SOME_SKIPPED if outcomes[0].skipped else 0


def _savings(ablation: Ablation, dataset: Any, variants: Sequence[Variant], how: dict[str, Any]) -> dict[str, float]:
    """Run all variants together once more, then each distinct one separately, and compare scores and times.

    The joint run is repeated because the first run of a process includes its warm-up. Times
    include encoding the texts.
    """
    settings = list(dict.fromkeys(variant.settings for variant in variants))
    ablation.clear_texts()
    together = ablation.run(dataset, settings, **how)
    separate, difference = 0.0, 0.0
    for one, shared in zip(settings, together, strict=True):
        ablation.clear_texts()
        alone = ablation.run(dataset, [one], **how)[0]
        separate += alone.seconds
        difference = max(difference, abs(alone.counts.metrics().mean_iou - shared.counts.metrics().mean_iou))
    return {"shared_seconds": together[0].seconds, "separate_seconds": separate, "largest_difference": difference}
