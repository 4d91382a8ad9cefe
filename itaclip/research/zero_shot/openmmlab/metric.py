"""Seen, unseen and harmonic mean IoU and pixel accuracy, as an MMSegmentation metric."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.logging import print_log
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS
from numpy.typing import NDArray

from itaclip.research.zero_shot.classes import ClassSplit


@METRICS.register_module()
class ZeroShotIoU(IoUMetric):
    """Generalised zero-shot scores: predictions range over all classes.

    Args:
        unseen: unseen classes, by name or class id; without any, U and hIoU are NaN.
        options: arguments of MMSegmentation's `IoUMetric`.
    """

    def __init__(self, unseen: Sequence[str | int] = (), **options: Any) -> None:
        super().__init__(iou_metrics=["mIoU"], **options)
        self.unseen = unseen

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Count the pixels of a batch, and mark substitutes for unreadable images."""
        super().process(data_batch, data_samples)
        for i, sample in zip(range(-len(data_samples), 0), data_samples, strict=True):
            self.results[i] = (*self.results[i], bool(sample.get("unreadable", False)))

    def compute_metrics(self, results: list[tuple[Any, ...]]) -> dict[str, float]:
        """Compute the scores in percent, from areas summed over the data set.

        Returns:
            ``mIoU(S)``, ``mIoU(U)``, ``hIoU``, ``pAcc``, ``mIoU`` over all classes, and the number
            of ``unreadable`` images.

        Raises:
            ItaclipError: an unseen class is not in the data set.
        """
        names = self.dataset_meta["classes"]
        split = ClassSplit.of(names, self.unseen)
        # float64, because float32 sums are inexact beyond 2^24 pixels
        *areas, unreadable = zip(*results, strict=True)
        intersect, union, _, labelled = (sum(area.double().numpy() for area in column) for column in areas)
        with np.errstate(invalid="ignore", divide="ignore"):
            iou = 100 * intersect / union
        seen, unseen = _mean(iou[list(split.seen)]), _mean(iou[list(split.unseen)])
        side = ["unseen" if k in split.unseen else "seen" for k in range(len(names))]
        lines = [f"{name:24s} {side[k]:7s} {iou[k]:6.2f}" for k, name in enumerate(names)]
        print_log("IoU per class:\n" + "\n".join(lines), logger="current", level=logging.INFO)
        return {
            "mIoU(S)": seen,
            "mIoU(U)": unseen,
            "hIoU": harmonic_mean(seen, unseen),
            "pAcc": float(100 * intersect.sum() / labelled.sum()) if labelled.sum() else float("nan"),
            "mIoU": _mean(iou),
            "unreadable": sum(unreadable),
        }


def harmonic_mean(seen: float, unseen: float) -> float:
    """Compute ``2 S U / (S + U)``, or 0 if both are 0."""
    return 2 * seen * unseen / (seen + unseen) if seen + unseen != 0 else 0.0


def _mean(iou: NDArray[np.float64]) -> float:
    """Average over the classes that occur or are predicted; NaN if there are none."""
    known = iou[~np.isnan(iou)]
    return float(known.mean()) if len(known) else float("nan")
