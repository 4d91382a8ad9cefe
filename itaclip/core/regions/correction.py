"""Map correction: one label per region."""

from __future__ import annotations

import torch
from torch import Tensor

_LARGE_TABLE = 1 << 22
"""Cells of a table of regions and classes above which only the classes that occur are counted, although finding
them waits for the GPU."""


def map_correction(labels: Tensor, regions: Tensor, classes: int, count: int) -> Tensor:
    """Assign all pixels of a region its most frequent label; ties go to the smallest label.

    This is CorrCLIP's last step (Zhang et al., ICCV 2025). Region 0 stays unchanged. The numbers of
    classes and regions are parameters because reading them from the data would wait for the GPU.

    Args:
        labels: H x W int64, 0 to `classes` - 1.
        regions: H x W integers, 0 to `count`, on the same device.
        classes: number of classes.
        count: largest region id that may occur.

    Returns:
        H x W int64, a new tensor.
    """
    found = None
    if classes * (count + 1) > _LARGE_TABLE:  # few of so many classes occur
        found, labels = labels.unique(return_inverse=True)
        classes = len(found)
    region = regions.to(torch.int64)
    cells = (region * classes + labels).flatten()
    table = torch.zeros((count + 1) * classes, dtype=torch.int64, device=labels.device)
    table.scatter_add_(0, cells, torch.ones_like(cells))
    # combine count and label into one number: all differ, so every device picks the same maximum
    order = torch.arange(classes - 1, -1, -1, device=labels.device)
    winners = (table.view(count + 1, classes) * classes + order).argmax(dim=1)
    corrected = torch.where(region > 0, winners[region], labels)
    return corrected if found is None else found[corrected]
