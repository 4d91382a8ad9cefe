"""`supervision.Detections`: one entry per class that occurs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from itaclip.formats.segments import Segment, missing_package

if TYPE_CHECKING:
    from supervision import Detections


def to_supervision(segments: Sequence[Segment]) -> Detections:
    """Detections with bounding boxes, masks, mean scores, class ids and names.

    Raises:
        ItaclipError: supervision is not installed.
    """
    try:
        from supervision import Detections, mask_to_xyxy
    except ImportError:
        raise missing_package("to_supervision()", "supervision", "supervision") from None
    masks = np.stack([segment.mask for segment in segments])
    return Detections(
        xyxy=mask_to_xyxy(masks),
        mask=masks,
        confidence=np.array([segment.score for segment in segments], np.float32),
        class_id=np.array([segment.label for segment in segments]),
        data={"class_name": np.array([segment.name for segment in segments])},
    )
