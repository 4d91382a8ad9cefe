"""The output format of Transformers' image-segmentation pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from itaclip.formats.segments import Segment


def to_hf(segments: Sequence[Segment]) -> list[dict[str, Any]]:
    """List the segments as ``{"score": float, "label": str, "mask": PIL image of mode "L" with 0 and 255}``."""
    return [
        {
            "score": segment.score,
            "label": segment.name,
            "mask": Image.fromarray(segment.mask.astype(np.uint8) * 255),
        }
        for segment in segments
    ]
