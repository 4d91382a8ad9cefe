"""Figures: overlays, legends, predictions next to the ground truth, errors, scores, charts.

Charts (`itaclip.common.figures.charts`) and the gallery (`itaclip.research.evaluation.gallery`) are imported only
where they are used, because matplotlib is slow to import.
"""

from itaclip.common.figures.pictures import (
    error_map,
    heat_map,
    legend,
    mask_png,
    overlay,
    paint_labels,
    result_figure,
    save_mask,
    score_figure,
    side_by_side,
    stacked,
    titled,
    with_legend,
)

__all__ = [
    "error_map",
    "heat_map",
    "legend",
    "mask_png",
    "overlay",
    "paint_labels",
    "result_figure",
    "save_mask",
    "score_figure",
    "side_by_side",
    "stacked",
    "titled",
    "with_legend",
]
