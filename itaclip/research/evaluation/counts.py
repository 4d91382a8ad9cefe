"""Confusion matrices, added up exactly and across processes."""

from __future__ import annotations

import itaclip.research.openmmlab  # noqa: F401 - first: it makes mmseg importable, or says what to install

# isort: split

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from mmengine import dist
from mmseg.evaluation import IoUMetric
from torch import Tensor

from itaclip.research.evaluation.confusion import confusion_matrix

Sparse: TypeAlias = list[int]
"""The non-zero cells of a matrix: cell, pixels, cell, pixels, ...; cell = row * columns + column."""


def to_sparse(matrix: Tensor) -> Sparse:
    """Return the non-zero cells of a matrix."""
    cells = matrix.flatten().nonzero().flatten()
    return torch.stack([cells, matrix.flatten()[cells]], dim=1).flatten().tolist()


class IoUCounts:
    """The sum of the confusion matrices of images.

    It is exact (int64), so it depends neither on the order of images nor on the number of processes.
    """

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._total = torch.zeros(classes + 1, classes + 1, dtype=torch.int64)

    def add(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """Add one image and return its own matrix, see `confusion_matrix`."""
        matrix = confusion_matrix(predicted, truth, self._classes)
        self._total += matrix
        return matrix

    def add_sparse(self, cells: Sparse) -> None:
        """Add a matrix from `to_sparse`."""
        pairs = torch.tensor(cells, dtype=torch.int64).view(-1, 2)
        self._total.view(-1).index_add_(0, pairs[:, 0], pairs[:, 1])

    def add_from_other_processes(self) -> None:
        """Replace the counts with the sum over all processes."""
        if dist.is_distributed():
            device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
            total = self._total.to(device)
            dist.all_reduce(total)
            self._total = total.cpu()

    def metrics(self) -> Metrics:
        """Compute the scores, in percent."""
        counts = self._total.double()
        intersect, labelled, predicted = counts.diagonal()[:-1], counts[:-1].sum(1), counts[:, :-1].sum(0)
        union = labelled + predicted - intersect
        values = IoUMetric.total_area_to_metrics(intersect, union, predicted, labelled, ["mIoU"])
        return Metrics(
            iou=[float(v) for v in 100 * values["IoU"]],
            accuracy=[float(v) for v in 100 * values["Acc"]],
            mean_iou=float(100 * np.nanmean(values["IoU"])) if float(union.sum()) else float("nan"),
            mean_accuracy=float(100 * np.nanmean(values["Acc"])) if float(labelled.sum()) else float("nan"),
            all_accuracy=float(100 * values["aAcc"]),
            pixels=int(labelled.sum()),
            labelled=[int(v) for v in labelled],
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
    """Pixels of all classes."""
    labelled: list[int]
    """Pixels of each class."""
