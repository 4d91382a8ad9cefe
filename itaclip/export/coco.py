"""COCO JSON with run-length encoded masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from itaclip.export.segments import Segment, missing_package


def to_coco(
    segments: Sequence[Segment], names: Sequence[str], size: tuple[int, int], file_name: str, image_id: int
) -> dict[str, Any]:
    """A COCO data set of one image: one annotation per segment, in the given order.

    Args:
        segments: classes that occur.
        names: names of all K classes; category ids are indices into it.
        size: height and width of the image in pixels.
        file_name: file name of the image.
        image_id: id of the image.

    Raises:
        ItaclipError: pycocotools is not installed.
    """
    try:
        from pycocotools import mask as rle
    except ImportError:
        raise missing_package("COCO export", "pycocotools", "coco") from None
    annotations = []
    for number, segment in enumerate(segments, 1):
        encoded = rle.encode(np.asfortranarray(segment.mask.astype(np.uint8)))
        annotations.append(
            {
                "id": number, "image_id": image_id, "category_id": segment.label, "iscrowd": 0,
                "segmentation": {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")},
                "area": int(segment.mask.sum()), "bbox": [float(side) for side in rle.toBbox(encoded)],
                "score": segment.score,
            }
        )  # fmt: skip
    height, width = size
    return {
        "images": [{"id": image_id, "file_name": file_name, "height": height, "width": width}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
        "annotations": annotations,
    }
