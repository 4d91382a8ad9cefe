"""Convert loaded images of any sizes to normalised RGB tensors."""

from __future__ import annotations

from typing import Any

import torch
from mmseg.models import SegDataPreProcessor
from mmseg.registry import MODELS
from torch import Tensor

from itaclip.core.clip.towers import MEAN, STD
from itaclip.errors import ItaclipError


@MODELS.register_module()
class ITACLIPPreprocessor(SegDataPreProcessor):
    """Normalises images with CLIP's statistics without stacking them.

    MMSegmentation's own preprocessor stacks a test batch and therefore requires equal sizes.

    Input: ``inputs``, each (1, 3 or 4) x H x W in OpenCV's BGR order, 0..255 (16-bit values are
    scaled down). Output: ``inputs``, a list of 3 x H x W float32 RGB.
    """

    def __init__(self) -> None:
        super().__init__(mean=MEAN, std=STD, bgr_to_rgb=True)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Normalise a batch; `training` has no effect."""
        data = self.cast_data(data)
        inputs = [(_as_bgr(image)[[2, 1, 0]] - self.mean) / self.std for image in data["inputs"]]
        return {"inputs": inputs, "data_samples": data.get("data_samples")}


def _as_bgr(image: Tensor) -> Tensor:
    """Convert to three float channels in 0..255: repeat grey, drop alpha, scale 16-bit values to 8-bit."""
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4) or 0 in image.shape:
        raise ItaclipError(f"image of shape {tuple(image.shape)}: expected (1, 3 or 4) x height x width, not empty.")
    scale = 257.0 if image.dtype == torch.uint16 else 1.0
    image = image.float() / scale
    return image.expand(3, -1, -1) if image.shape[0] == 1 else image[:3]
