"""Charts of an evaluation: IoU per class and confusion between classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from numpy.typing import NDArray

from itaclip.common.figures.fonts import font, writable

_MAX_NUMBERED = 24  # classes up to which a confusion matrix shows its values


def iou_chart(iou: Sequence[float], names: Sequence[str], title: str = "IoU by class") -> Figure:
    """Draw a bar chart of IoU in percent, best class on top; omit classes without a value."""
    rows = sorted((value, writable(names[i], i)) for i, value in enumerate(iou) if not np.isnan(value))
    figure = Figure(figsize=(7, 1.2 + 0.24 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    positions = range(len(rows))
    bars = axes.barh(positions, [value for value, _ in rows], color="#3b6ea5")
    axes.set_yticks(positions, [name for _, name in rows])
    _use_fonts(axes.get_yticklabels())
    axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    mean = float(np.mean([value for value, _ in rows])) if rows else float("nan")
    axes.axvline(mean, color="#d62839", linewidth=1)
    axes.set(xlim=(0, 112), xticks=range(0, 101, 20), xlabel="IoU in percent")
    axes.set_title(f"{title} (mean {mean:.1f}, red line)")
    axes.margins(y=0.01)
    return figure


def confusion_chart(counts: NDArray[np.integer], names: Sequence[str], title: str = "Confusion") -> Figure:
    """Draw the confusion matrix: predictions for the pixels of each true class, in percent of that class.

    Args:
        counts: K x K pixel counts; rows are true classes, columns predicted ones.
        names: K class names.
        title: title of the chart.
    """
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.5 + 0.34 * min(len(names), 60)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    ticks = range(len(names))
    names = [writable(name, i) for i, name in enumerate(names)]
    axes.set_xticks(ticks, names, rotation=90, fontsize=8)
    axes.set_yticks(ticks, names, fontsize=8)
    _use_fonts([*axes.get_xticklabels(), *axes.get_yticklabels()])
    axes.set(xlabel="result", ylabel="truth", title=f"{title}, percent of the true class")
    figure.colorbar(image, ax=axes, shrink=0.8)
    if len(names) <= _MAX_NUMBERED:
        for row, column in np.argwhere(share >= 1):
            color = "white" if share[row, column] > 55 else "black"
            axes.text(column, row, f"{share[row, column]:.0f}", ha="center", va="center", color=color, fontsize=7)
    return figure


def _use_fonts(labels: Sequence[Text]) -> None:
    """Set for every label a font that has its characters."""
    for label in labels:
        if found := font(10, label.get_text()):
            size = label.get_fontsize()
            label.set_fontproperties(FontProperties(fname=str(found.path), size=size))


def save_chart(figure: Figure, path: Path) -> None:
    """Write a chart as PNG."""
    figure.savefig(path, dpi=110, format="png")
