"""Measure what the words of the classes are worth: every method with official, plain and other words.

    python tools/measure_vocabulary.py --configs configs/cfg_demo_things.py configs/cfg_demo.py \\
        --out docs/results/vocabulary_demo.json

One run for all methods: they share the windows and the ordinary blocks of every image, and differ in their
last steps and text banks. The protocol is `--preset common` of eval.py, so the scores equal those of
``eval.py --preset common --method METHOD --vocabulary WORDS``.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from itaclip.common.console import make_console, progress, run, table_of
from itaclip.common.environment import machine, versions
from itaclip.core.methods import COMPARED
from itaclip.core.text import TextCache
from itaclip.errors import ItaclipError
from itaclip.files import refuse_arguments, write_json
from itaclip.research.comparison.ablation import Ablation
from itaclip.research.evaluation.counts import IoUCounts
from itaclip.research.evaluation.loading import load_batches, plan_batches
from itaclip.research.evaluation.protocol import apply_protocol
from itaclip.research.evaluation.setup import build_dataset, check_model
from itaclip.research.evaluation.vocabulary import apply_wording, parse_wording
from itaclip.research.openmmlab.configuration import change_config, load_config

WORDINGS = ("official", "plain", "plain+auto", "synonyms", "synonyms+auto", "distractors:50")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", type=Path, required=True)
    parser.add_argument("--data-root", help="replaces the configurations'")
    parser.add_argument("--methods", nargs="+", default=list(COMPARED), help="default: all published ones")
    parser.add_argument("--vocabularies", nargs="+", default=list(WORDINGS), help="default: %(default)s")
    parser.add_argument("--limit", type=int, help="only the first N images")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    args = parser.parse_args()
    refuse_arguments("out", vars(args))
    console = make_console()
    found: dict[str, Any] = {}
    for path in args.configs:
        found[path.stem.removeprefix("cfg_")] = measure(args, path)
        table = found[path.stem.removeprefix("cfg_")]["rows"]
        console.print(table_of(f"mIoU, {path.name}", table))
    write_json(args.out, {"protocol": "common", "datasets": found, "machine": machine(), "versions": versions()})
    return 0


def measure(args: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Evaluate all methods with all wordings on one data set."""
    cache = TextCache()
    with tempfile.TemporaryDirectory() as folder:
        models = {wording: _model(args, path, wording, Path(folder), cache) for wording in args.vocabularies}
    dataset = build_dataset(_config(args, path, "official", Path()))
    first = next(iter(models.values()))
    chosen = [(method, wording) for method, wording in product(args.methods, models)]
    pairs = [(first.base.changed(method=m), models[w].bank(models[w].base)) for m, w in chosen]
    counts = [IoUCounts(len(dataset.metainfo["classes"])) for _ in chosen]
    plan = plan_batches(len(dataset), 1, args.limit)
    with progress(make_console(), len(plan), path.stem) as advance:
        for batch, skipped in load_batches(dataset, plan, 0):
            if skipped:
                raise ItaclipError(f"{skipped[0][0]}: {skipped[0][1]}")
            truth = batch["data_samples"][0].gt_sem_seg.data[0]
            for _, variant, result in first.segment(batch, pairs):
                counts[variant].add(result.labels, truth)
            advance(1)
    scores = {pair: round(count.metrics().mean_iou, 2) for pair, count in zip(chosen, counts, strict=True)}
    rows = [{"method": method} | {wording: scores[method, wording] for wording in models} for method in args.methods]
    mean = {wording: round(float(np.mean([row[wording] for row in rows])), 2) for wording in models}
    return {
        "images": len(plan), "rows": [*rows, {"method": "mean"} | mean],
        "background": {
            wording: {"words": model.classes.synonyms[0], "choice": model.background_choice}
            for wording, model in models.items()
        },
    }  # fmt: skip


def _model(args: argparse.Namespace, path: Path, wording: str, folder: Path, cache: TextCache) -> Ablation:
    config = _config(args, path, wording, folder)
    check_model(config)
    return Ablation(config, cache)


def _config(args: argparse.Namespace, path: Path, wording: str, folder: Path) -> Config:
    config = load_config(path)
    apply_protocol(config, folder, None, "common")
    change_config(config, {}, args.data_root)
    apply_wording(config, folder, parse_wording(wording))
    return config


if __name__ == "__main__":
    run(main)
