"""Resize images before they are encoded, exactly as MMSegmentation's `Resize` step does.

It calls mmcv, which calls OpenCV; here OpenCV is called directly, so that nothing of OpenMMLab's need be installed.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def fitted_size(size: tuple[int, int], long_side: int, short_side: int) -> tuple[int, int]:
    """Compute the largest size with the same aspect ratio whose long and short side are at most these.

    Args:
        size: both sides in pixels, in either order.
        long_side: maximum of the long side.
        short_side: maximum of the short side. The two maxima may come in either order.

    Returns:
        Both sides in pixels, in the order of `size`, at least 1 each.
    """
    factor = min(max(long_side, short_side) / max(size), min(long_side, short_side) / min(size))
    first, second = (max(1, int(side * factor + 0.5)) for side in size)
    return first, second


def resize(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize H x W x 3 uint8 to a height and a width, bilinearly."""
    height, width = size
    resized: NDArray[np.uint8] = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return resized


def fit(image: NDArray[np.uint8], long_side: int, short_side: int) -> NDArray[np.uint8]:
    """Resize H x W x 3 uint8 to `fitted_size`, bilinearly."""
    height, width = image.shape[:2]
    return resize(image, fitted_size((height, width), long_side, short_side))
