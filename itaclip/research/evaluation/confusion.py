"""The confusion matrix of a label map and its ground truth, and the IoU computed from it."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from itaclip.core.decision import count_values
from itaclip.errors import ItaclipError
from itaclip.research.preparation.masks import ignored_label


def confusion_matrix(predicted: Tensor | NDArray[Any], truth: Tensor | NDArray[Any], classes: int) -> Tensor:
    """Count the pixels of one image by true and predicted class.

    Counts in integers: MMSegmentation's float32 histograms are inexact from 2^24 pixels on.

    Args:
        predicted: H x W class ids; those from K on are distractors, which are no class of the data set.
        truth: H x W labels; 255 is ignored, or 65535 if there are more than 255 classes.
        classes: number of classes, K.

    Returns:
        (K + 1) x (K + 1) int64 on the CPU: rows are true classes, columns predicted ones. The last row
        counts labels that are not a class; IoUMetric counts them as errors of the predicted class. The
        last column counts predictions that are not a class: errors of the true class only.

    Raises:
        ItaclipError: the sizes differ.
    """
    predicted, truth = torch.as_tensor(predicted).long(), torch.as_tensor(truth).long()
    if predicted.shape != truth.shape:
        mask, image = (" x ".join(map(str, labels.shape)) for labels in (truth, predicted))
        raise ItaclipError(f"the mask is {mask}, but its image is {image}.")
    # ignored pixels get their own row: selecting the others would make the host wait for the GPU
    row = torch.where(truth == ignored_label(classes), classes + 1, truth.clamp(max=classes))
    width = classes + 1
    cells = count_values(row * width + predicted.clamp(max=classes), (classes + 2) * width)
    return cells.view(classes + 2, width)[:-1].cpu()


def class_iou(matrix: Tensor) -> Tensor:
    """Compute the IoU in percent of every class, K float64, from `confusion_matrix`; NaN for classes that never
    occur."""
    both = matrix.diagonal()[:-1].double()
    return 100 * (both / (matrix[:-1].sum(1) + matrix[:, :-1].sum(0) - both))
