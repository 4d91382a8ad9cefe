"""The confusion matrix of a label map and its truth, and the IoU that follows from it."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from itaclip.core.decision import count_values
from itaclip.errors import ItaclipError

IGNORED_LABEL = 255
"""Pixels that count neither for nor against."""


def confusion_matrix(predicted: Tensor | NDArray[Any], truth: Tensor | NDArray[Any], classes: int) -> Tensor:
    """Count the pixels of one image by true and predicted class.

    Integers all the way: MMSegmentation's histograms in float32 are wrong from 2^24 pixels on.

    Args:
        predicted: H x W class ids in 0..K-1.
        truth: H x W labels; 255 is ignored.
        classes: K.

    Returns:
        (K + 1) x K int64 on the CPU: row truth, column predicted. The last row counts labels
        that are no class; IoUMetric holds such pixels against the class predicted there.

    Raises:
        ItaclipError: sizes that differ.
    """
    predicted, truth = torch.as_tensor(predicted).long(), torch.as_tensor(truth).long()
    if predicted.shape != truth.shape:
        mask, image = (" x ".join(map(str, labels.shape)) for labels in (truth, predicted))
        raise ItaclipError(f"the mask is {mask}, its image {image}.")
    # ignored pixels go to a row of their own: choosing the others would make the host wait for a GPU
    row = torch.where(truth == IGNORED_LABEL, classes + 1, truth.clamp(max=classes))
    cells = count_values(row * classes + predicted, (classes + 2) * classes)
    return cells.view(classes + 2, classes)[:-1].cpu()


def class_iou(matrix: Tensor) -> Tensor:
    """IoU in percent of every class, K float64, from `confusion_matrix`; NaN for classes that nowhere occur."""
    both = matrix.diagonal().double()
    return 100 * (both / (matrix[:-1].sum(1) + matrix.sum(0) - both))
