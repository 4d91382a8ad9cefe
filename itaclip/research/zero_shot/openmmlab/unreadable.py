"""Handling of images that cannot be read: report and count them without stopping the run."""

from __future__ import annotations

import logging
from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.registry import DATASETS
from mmseg.structures import SegDataSample
from torch.utils.data import Dataset

from itaclip.research.preparation.masks import IGNORED

_LOG = logging.getLogger(__name__)


class DatasetWrapper(Dataset[Any]):
    """A wrapper for a data set that may contain unreadable images.

    Args:
        dataset: configuration of the data set.
    """

    def __init__(self, dataset: dict[str, Any]) -> None:
        self.inner = DATASETS.build(dataset)

    @property
    def metainfo(self) -> dict[str, Any]:
        """Classes and palette."""
        metainfo: dict[str, Any] = self.inner.metainfo
        return metainfo

    def __len__(self) -> int:
        return len(self.inner)

    def report(self, index: int, error: Exception, use: str) -> tuple[str, str]:
        """Warn that an image is skipped in `use`; return its path and the reason in one line."""
        path = str(self.inner.get_data_info(index).get("img_path", f"image {index}"))
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        _LOG.warning("%s: skipped in %s (%s).", path, use, reason)
        return path, reason


@DATASETS.register_module()
class SkippingDataset(DatasetWrapper):
    """A data set that replaces broken images by black ones without labelled pixels, which do not count.

    Hence every process of a distributed test has the expected number of results.

    Args:
        dataset: configuration of the data set.
        image_size: side of the substitute in pixels.
    """

    def __init__(self, dataset: dict[str, Any], image_size: int) -> None:
        super().__init__(dataset)
        self._size = (image_size, image_size)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.inner[index]
        except Exception as error:  # decoders and transforms raise all kinds of exceptions
            path, _ = self.report(index, error, "the test")
            size = self._size
            sample = SegDataSample(gt_sem_seg=PixelData(data=torch.full((1, *size), IGNORED)))
            sample.set_metainfo({"ori_shape": size, "img_shape": size, "img_path": path, "unreadable": True})
            return {"inputs": torch.zeros(3, *size, dtype=torch.uint8), "data_samples": sample}
