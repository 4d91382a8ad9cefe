"""The report of an ablation: a table, Markdown, JSON and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from itaclip.core.settings import Settings
from itaclip.files import atomic_path
from itaclip.research.comparison.published import published_ablation
from itaclip.research.comparison.variants import Variant
from itaclip.research.evaluation.loop import Outcome

Rows = list[dict[str, Any]]


def ablation_rows(variants: Sequence[Variant], outcomes: Sequence[Outcome], base: Settings, dataset: str,
                  blocks: int) -> Rows:  # fmt: skip
    """Make one flat row per variant.

    Args:
        variants: the variants.
        outcomes: their results.
        base: the configuration's settings; variants that equal them are marked.
        dataset: name of the data set, for the published scores.
        blocks: number of blocks of the image tower.
    """
    rows = []
    for variant, outcome in zip(variants, outcomes, strict=True):
        metrics = outcome.counts.metrics()
        rows.append({
            "ablation": variant.group, "variant": variant.name,
            "configured": _same(variant.settings, base, blocks), "mIoU": metrics.mean_iou,
            "mAcc": metrics.mean_accuracy, "aAcc": metrics.all_accuracy,
            "published": published_ablation(variant.group, variant.name, dataset),
        })  # fmt: skip
    return rows


def _same(settings: Settings, base: Settings, blocks: int) -> bool:
    """Tell whether two settings are equivalent, even if one spells out defaults of the method."""
    left_to_method = dict(attention=None, attn_self=True, residual=None, feed_forward=None, middle_layers=None)
    plain = settings.changed(**left_to_method) == base.changed(**left_to_method)
    return plain and settings.resolved_method(blocks) == base.resolved_method(blocks)


def rich_table(rows: Rows) -> Table:
    """Make the table for a terminal; the configured variant is marked."""
    table = Table(title="mIoU in percent (* as configured)")
    for header in ("ablation", "variant", "mIoU", "published"):
        table.add_column(header, justify="right" if header in ("mIoU", "published") else "left")
    last = None
    for row in rows:
        if row["ablation"] != last:
            table.add_section()
        table.add_row(row["ablation"] if row["ablation"] != last else "", _label(row), f"{row['mIoU']:.2f}",
                      _printed(row))  # fmt: skip
        last = row["ablation"]
    return table


def markdown(rows: Rows, title: str, notes: Sequence[str]) -> str:
    """Write the table as Markdown, with one line per note."""
    lines = [f"# {title}", "", *(f"{note}  " for note in notes), "",
             "| ablation | variant | mIoU | mAcc | aAcc | published mIoU |", "|---|---|---|---|---|---|"]  # fmt: skip
    lines += [
        f"| {row['ablation']} | {_label(row)} | {row['mIoU']:.2f} | {row['mAcc']:.2f} | {row['aAcc']:.2f} | "
        f"{_printed(row)} |"
        for row in rows
    ]
    return "\n".join([*lines, "", "\\* as configured. Published: ITACLIP's paper, ViT-B/16.", ""])


def plot(rows: Rows, path: Path) -> None:
    """Plot bars of mIoU, one panel per ablation, with the configured variant darker."""
    groups = list(dict.fromkeys(row["ablation"] for row in rows))
    sizes = [sum(row["ablation"] == group for row in rows) for group in groups]
    figure = Figure(figsize=(7, 0.3 * sum(sizes) + 0.5 * len(groups) + 0.5), layout="constrained")
    panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=sizes)[:, 0]
    for panel, group in zip(panels, groups, strict=True):
        part = [row for row in rows if row["ablation"] == group]
        scores = [row["mIoU"] for row in part]
        colors = ["#1f5f8b" if row["configured"] else "#9dc3dd" for row in part]
        bars = panel.barh(range(len(part)), scores, color=colors)
        panel.bar_label(bars, [f"{score:.1f}" for score in scores], padding=3, fontsize=8)
        panel.set_yticks(range(len(part)), [row["variant"] for row in part], fontsize=8)
        panel.invert_yaxis()
        panel.set_title(group, loc="left", fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("mIoU in percent")
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=150)


def _label(row: dict[str, Any]) -> str:
    return f"{row['variant']} *" if row["configured"] else row["variant"]


def _printed(row: dict[str, Any]) -> str:
    return "" if row["published"] is None else f"{row['published']:g}"
