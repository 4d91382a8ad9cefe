"""Load the images of a data set as the rest of the package reads them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mmcv
import mmengine.fileio
import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS
from numpy.typing import NDArray

from itaclip.common.images import ReadOptions, ValueRange, decode_image, read_image
from itaclip.errors import ItaclipError
from itaclip.research.preparation.masks import DEEP_IGNORED, read_label_map


@TRANSFORMS.register_module()
class ITACLIPLoadImage(BaseTransform):
    """Takes the place of ``LoadImageFromFile`` for images of more than 8 bits, and for TIFF with transparency.

    8-bit images are the same as with ``LoadImageFromFile``, pixel by pixel. docs/images.md lists the rules.

    Args:
        largest: maximum number of pixels of an image; larger ones are rejected.
        value_range: ``(low, high)``, "stretch" or None, see `itaclip.common.images.ValueRange`.
        backend_args: where files are, as for ``LoadImageFromFile``.

    Raises:
        ItaclipError: a bad value; in calls, see `itaclip.common.images.read_image`.
    """

    def __init__(
        self, largest: int | None = None, value_range: ValueRange = None, backend_args: dict[str, Any] | None = None
    ) -> None:
        limit = "largest= of ITACLIPLoadImage, ITACLIP_LARGEST in the environment"
        self.options = replace(ReadOptions.of(largest, value_range), limit=limit)
        self.backend_args = backend_args

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``img`` (H x W x 3 uint8 BGR), ``img_shape`` and ``ori_shape``."""
        path = results["img_path"]
        image = decode_image(mmengine.fileio.get(path, backend_args=self.backend_args), str(path), self.options)
        shape = image.shape[:2]
        return results | {"img": np.ascontiguousarray(image[..., ::-1]), "img_shape": shape, "ori_shape": shape}


@TRANSFORMS.register_module()
class ITACLIPLoadAnnotations(BaseTransform):
    """Takes the place of ``LoadAnnotations`` in data sets of more than 255 classes: it keeps all 16 bits of a mask.

    Pixels of label 65535 are ignored; so is label 0 if the data set says so (`reduce_zero_label`).

    Raises:
        ItaclipError: in calls, a mask that `itaclip.research.preparation.masks.read_label_map` refuses, or a
            data set that selects some of its classes.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``gt_seg_map``, H x W int64 class ids."""
        if results.get("label_map") is not None:
            raise ItaclipError("metainfo.classes: a selection of classes is not supported with masks of 16 bits.")
        labels = read_label_map(Path(results["seg_map_path"]), deep=True).astype(np.int64)
        if results["reduce_zero_label"]:
            labels = np.where((labels == 0) | (labels == DEEP_IGNORED), DEEP_IGNORED, labels - 1)
        fields = [*results["seg_fields"], "gt_seg_map"]
        return results | {"gt_seg_map": labels, "seg_fields": fields}


def loading_of(dataset: Any) -> ReadOptions | str:
    """Tell how the first step of a data set's pipeline reads images: by our options, or by a flag of `mmcv.imread`.

    mmcv's step applies the EXIF orientation unless its `color_type` disables it.
    """
    steps = getattr(getattr(dataset, "pipeline", None), "transforms", None)
    loader = steps[0] if steps else None
    if isinstance(loader, ITACLIPLoadImage):
        return loader.options
    kind = getattr(loader, "color_type", None)
    if kind is None:
        return ReadOptions()
    return "color" if kind in ("color", "grayscale") else "color_ignore_orientation"


def image_as_loaded(path: str, loading: ReadOptions | str) -> NDArray[np.uint8]:
    """Read an image with the values and in the orientation in which its data set loads it.

    Args:
        path: the image file.
        loading: see `loading_of`.

    Returns:
        H x W x 3 uint8 RGB.

    Raises:
        ItaclipError: see `itaclip.common.images.read_image`.
    """
    if isinstance(loading, ReadOptions):
        return read_image(path, loading)
    return mmcv.imread(path, loading)[..., ::-1]
