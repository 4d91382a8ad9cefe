"""The report of a run: the per-class table and `metrics.json`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from itaclip.common.environment import machine, peak_memory_mib, versions
from itaclip.core.settings import Settings
from itaclip.research.preparation.diagnosis import absent_classes, ignored_share
from itaclip.research.preparation.masks import ignored_label

if TYPE_CHECKING:  # `itaclip env` reports versions where MMSegmentation may be missing
    from itaclip.research.evaluation.counts import Metrics
    from itaclip.research.evaluation.loop import Outcome


def class_table(metrics: Metrics, names: tuple[str, ...], notes: Sequence[str] = ()) -> Table:
    """Make a table of the IoU and accuracy of every class, with summary rows, and notes below."""
    table = Table(title="Results in percent", caption=Text("\n".join(notes)), caption_justify="left")
    table.add_column("class")
    table.add_column("IoU", justify="right")
    table.add_column("Acc", justify="right")
    for name, iou, accuracy in zip(names, metrics.iou, metrics.accuracy, strict=True):
        table.add_row(name, _percent(iou), _percent(accuracy))
    table.add_section()
    table.add_row("mean", _percent(metrics.mean_iou), _percent(metrics.mean_accuracy))
    table.add_row("all pixels", "", _percent(metrics.all_accuracy))
    return table


def mask_notes(metrics: Metrics, names: Sequence[str], outcome: Outcome, dataset: Any) -> list[str]:
    """Tell what a reader of the scores should know about the masks: absent classes, many ignored pixels."""
    where = f"{outcome.images} masks"
    absent = [name for name, pixels in zip(names, metrics.labelled, strict=True) if not pixels]
    note = absent_classes(absent, where) if outcome.images else None
    notes = [f"{note} Where such a class is predicted, its IoU is 0 and counts."] if note else []
    note = ignored_share(outcome.ignored, metrics.pixels + outcome.ignored, where, ignored_label(len(names)))
    if note and getattr(dataset, "reduce_zero_label", False):
        note += " Label 0 is among them (reduce_zero_label)."
    return notes + ([note] if note else [])


def by_reason(skipped: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Group paths by reason."""
    found: dict[str, list[str]] = {}
    for path, reason in skipped:
        found.setdefault(reason, []).append(path)
    return found


def as_json(metrics: Metrics, names: tuple[str, ...], outcome: Outcome, settings: Settings,
            run: dict[str, Any]) -> dict[str, Any]:  # fmt: skip
    """Make the content of `metrics.json`; NaN becomes null."""
    return {
        "mIoU": _number(metrics.mean_iou),
        "mAcc": _number(metrics.mean_accuracy),
        "aAcc": _number(metrics.all_accuracy),
        "per_class": {
            name: {"IoU": _number(iou), "Acc": _number(accuracy)}
            for name, iou, accuracy in zip(names, metrics.iou, metrics.accuracy, strict=True)
        },
        "images": outcome.images,
        "pixels": metrics.pixels,
        "ignored_pixels": outcome.ignored,
        "classes_without_pixels": [name for name, n in zip(names, metrics.labelled, strict=True) if not n],
        "skipped": [{"path": path, "reason": reason} for path, reason in outcome.skipped],
        "seconds_per_image": outcome.seconds / max(outcome.images, 1),
        "peak_memory_mib": peak_memory_mib(),
        "settings": dataclasses.asdict(settings),
        "run": run,
        "versions": versions(),
        "machine": machine(),
    }


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
