"""Images that cannot be read: named, counted, and no end of a test."""

from __future__ import annotations

import logging
from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.registry import DATASETS
from mmseg.structures import SegDataSample
from torch.utils.data import Dataset

from itaclip.zero_shot.classes import IGNORED

_LOG = logging.getLogger(__name__)


@DATASETS.register_module()
class SkippingDataset(Dataset[Any]):
    """A data set whose broken images come as black ones without a labelled pixel, which count for nothing.

    So every process of a distributed test keeps its number of results.

    Args:
        dataset: configuration of the data set.
        image_size: side of the stand-in in pixels.
    """

    def __init__(self, dataset: dict[str, Any], image_size: int) -> None:
        self.inner, self._size = DATASETS.build(dataset), image_size

    @property
    def metainfo(self) -> dict[str, Any]:
        """Classes and palette."""
        metainfo: dict[str, Any] = self.inner.metainfo
        return metainfo

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.inner[index]
        except Exception as error:  # decoders and transforms raise whatever they like
            path, reason = path_and_reason(self.inner, index, error)
            _LOG.warning("%s: left out of the test (%s).", path, reason)
            size = (self._size, self._size)
            sample = SegDataSample(gt_sem_seg=PixelData(data=torch.full((1, *size), IGNORED)))
            sample.set_metainfo({"ori_shape": size, "img_shape": size, "img_path": path, "unreadable": True})
            return {"inputs": torch.zeros(3, *size, dtype=torch.uint8), "data_samples": sample}


def path_and_reason(dataset: Any, index: int, error: Exception) -> tuple[str, str]:
    """Which image it is, and in one line why it cannot be read."""
    path = str(dataset.get_data_info(index).get("img_path", f"image {index}"))
    return path, f"{type(error).__name__}: {error}".splitlines()[0]
