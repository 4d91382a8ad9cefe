"""IoU counts: MMSegmentation's `IoUMetric`, summed exactly and across processes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from mmengine import dist
from mmseg.evaluation import IoUMetric
from torch import Tensor

from itaclip.evaluation.setup import IGNORED_LABEL


class IoUCounts:
    """Pixels per class, added up image by image.

    Counts are integers in float64, so the sum does not depend on the order of images or
    on how many processes share them (IoUMetric itself adds in float32).
    """

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._total = torch.zeros(4, classes, dtype=torch.float64)

    def add(self, predicted: Tensor, truth: Tensor) -> None:
        """Count one image; both H x W class ids, 255 in the truth is ignored."""
        counts = IoUMetric.intersect_and_union(predicted, truth.to(predicted), self._classes, IGNORED_LABEL)
        self._total += torch.stack([count.double().cpu() for count in counts])

    def add_from_other_processes(self) -> None:
        """Replace the counts by the sum over all processes."""
        if dist.is_distributed():
            device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
            total = self._total.to(device)
            dist.all_reduce(total)
            self._total = total.cpu()

    def metrics(self) -> Metrics:
        """The scores, in percent."""
        intersect, union, predicted, labelled = self._total
        values = IoUMetric.total_area_to_metrics(intersect, union, predicted, labelled, ["mIoU"])
        return Metrics(
            iou=[float(v) for v in 100 * values["IoU"]],
            accuracy=[float(v) for v in 100 * values["Acc"]],
            mean_iou=float(100 * np.nanmean(values["IoU"])) if float(union.sum()) else float("nan"),
            mean_accuracy=float(100 * np.nanmean(values["Acc"])) if float(labelled.sum()) else float("nan"),
            all_accuracy=float(100 * values["aAcc"]),
            pixels=int(labelled.sum()),
        )


@dataclass(frozen=True)
class Metrics:
    """Scores in percent; NaN for a class that neither occurs nor is predicted."""

    iou: list[float]
    accuracy: list[float]
    mean_iou: float
    mean_accuracy: float
    all_accuracy: float
    pixels: int
