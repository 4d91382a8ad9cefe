"""`fiftyone.Segmentation`: the label map as a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from itaclip.errors import ItaclipError
from itaclip.formats.segments import missing_package

if TYPE_CHECKING:
    from fiftyone import Segmentation


def to_fiftyone(labels: NDArray[np.int32], start: int) -> Segmentation:
    """Make a FiftyOne segmentation whose mask values are class ids plus `start`.

    Args:
        labels: H x W int32 class ids.
        start: mask value of class 0.

    Raises:
        ItaclipError: FiftyOne is not installed, or `start` is negative.
    """
    if start < 0:
        raise ItaclipError(f"start = {start}: expected 0 or more.")
    try:
        from fiftyone import Segmentation
    except ImportError:
        raise missing_package("to_fiftyone()", "fiftyone", "fiftyone") from None
    values = labels + start
    return Segmentation(mask=values.astype(np.min_scalar_type(values.max())))
