"""Image engineering: five views of every crop, and their logits put together.

ITACLIP, section 4. Shapes: n crops, h x w pixels, r x c patches, E channels, Q queries.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from itaclip.settings import Settings

VIEWS = 5


def make_views(crops: Tensor, settings: Settings) -> Tensor:
    """Crops, grey, blurred, flipped down, flipped sideways: n x 3 x h x w to 5n x 3 x h x w.

    Grey is the ITU-R 601 luma of the *normalised* RGB; the blur reflects at the borders
    of its crop. Without image engineering the crops come back as they are.
    """
    if not settings.img_engineering:
        return crops
    grey = tv.rgb_to_grayscale(crops, num_output_channels=3)
    kernel = settings.blur_kernel
    blurred = tv.gaussian_blur(crops, [kernel, kernel], [settings.blur_sigma, settings.blur_sigma])
    return torch.cat([crops, grey, blurred, tv.vertical_flip(crops), tv.horizontal_flip(crops)])


def view_logits(
    crops: Tensor, encode: Callable[[Tensor], Tensor], text: Tensor, grid: tuple[int, int], settings: Settings
) -> Tensor:
    """Cosine-like logits of every patch of every crop.

    ``logits = w * mean(features of plain, grey, blurred) t' + (1 - w) * mean(unflipped logits)``

    Args:
        crops: n x 3 x h x w, normalised RGB.
        encode: image tower, B x 3 x h x w to B x (1 + r * c) x E.
        text: Q x E text bank.
        grid: r, c.
        settings: `img_engineering` and `img_eng_coefficient` are read.

    Returns:
        n x r x c x Q in the dtype of `text`.
    """
    tokens = encode(make_views(crops, settings))[:, 1:]
    features = F.normalize(tokens.to(text.dtype), dim=-1)
    if not settings.img_engineering:
        return (features @ text.T).view(-1, *grid, len(text))
    plain, grey, blurred, down, sideways = features.view(VIEWS, len(crops), *grid, -1)
    kept = (plain + grey + blurred) / 3 @ text.T
    # flipping back, averaging and the text product are linear and commute
    turned = (down.flip(1) + sideways.flip(2)) / 2 @ text.T
    weight = settings.img_eng_coefficient
    return weight * kept + (1 - weight) * turned
