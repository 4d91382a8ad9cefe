"""From 8-bit RGB to CLIP's normalised input, and back."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itaclip.core.clip.towers import MEAN, STD


def normalise(rgb: NDArray[np.uint8]) -> Tensor:
    """Convert H x W x 3 uint8 RGB to 3 x H x W float32 with CLIP's mean and standard deviation."""
    pixels = torch.from_numpy(rgb.astype(np.float32)).permute(2, 0, 1)
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def denormalise(image: Tensor) -> NDArray[np.uint8]:
    """Invert `normalise`: 3 x H x W, normalised, to H x W x 3 uint8 RGB."""
    pixels = image.detach().float().cpu() * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    return pixels.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
