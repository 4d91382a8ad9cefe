"""`supervision.Detections`: one entry per class that occurs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from itaclip.formats.segments import Segment, missing_package

if TYPE_CHECKING:
    from supervision import Detections


def to_supervision(segments: Iterable[Segment]) -> Detections:
    """Make detections with bounding boxes, masks, mean scores, class ids and names.

    Masks are `supervision.CompactMask` (run lengths) where supervision has it, else an array of N x H x W bool.

    Args:
        segments: at least one; each is read once, so that an iterator holds one mask in memory at a time.

    Raises:
        ItaclipError: supervision is not installed.
    """
    try:
        import supervision
    except ImportError:
        raise missing_package("to_supervision()", "supervision", "supervision") from None
    compact = getattr(supervision, "CompactMask", None)  # newer versions
    masks: list[Any] = []
    boxes, scores, labels, names = [], [], [], []
    for segment in segments:
        dense = segment.mask[None]
        box = supervision.mask_to_xyxy(dense)
        masks.append(compact.from_dense(dense, box, segment.mask.shape) if compact else dense)
        boxes.append(box)
        scores.append(segment.score)
        labels.append(segment.label)
        names.append(segment.name)
    return supervision.Detections(
        xyxy=np.concatenate(boxes),
        mask=compact.merge(masks) if compact else np.concatenate(masks),
        confidence=np.array(scores, np.float32),
        class_id=np.array(labels),
        data={"class_name": np.array(names)},
    )
