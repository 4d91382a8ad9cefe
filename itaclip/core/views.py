"""Image engineering: five views of every crop, and their logits put together.

ITACLIP, section 4. Shapes: n crops, h x w pixels, r x c patches, E channels, Q queries.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from itaclip.core.settings import Settings

VIEWS = 5


def make_views(crops: Tensor, settings: Settings) -> Tensor:
    """Crops, grey, blurred, flipped down, flipped sideways: n x 3 x h x w to 5n x 3 x h x w.

    Grey is the ITU-R 601 luma of the *normalised* RGB; the blur reflects at the borders
    of its crop. Without image engineering the crops come back as they are.
    """
    if not settings.img_engineering:
        return crops
    return torch.cat([make_view(crops, view, settings) for view in range(VIEWS)])


def make_view(crops: Tensor, view: int, settings: Settings) -> Tensor:
    """One view of the crops, by its place in the order of `make_views`."""
    if view == 1:
        return tv.rgb_to_grayscale(crops, num_output_channels=3)
    if view == 2:
        kernel = settings.blur_kernel
        return tv.gaussian_blur(crops, [kernel, kernel], [settings.blur_sigma, settings.blur_sigma])
    return turned(crops, view, 2)


def turned(maps: Tensor, view: int, rows: int) -> Tensor:
    """Maps flipped as a view is, or turned back again; `rows` is the dimension of rows, columns follow it."""
    return maps.flip(rows + view - 3) if view >= 3 else maps


def view_maps(maps: Tensor, settings: Settings) -> Tensor:
    """Maps of the crops, n x h x w, for all views in the order of `make_views`: 5n x h x w."""
    if not settings.img_engineering:
        return maps
    return torch.cat([turned(maps, view, 1) for view in range(VIEWS)])


def view_features(tokens: Tensor, crops: int) -> Tensor:
    """Unit features of every view.

    Args:
        tokens: (V * n) x r x c x E, as `make_views` orders them.
        crops: n.

    Returns:
        V x n x r x c x E float32, flipped views still flipped.
    """
    return F.normalize(tokens.float(), dim=-1).unflatten(0, (-1, crops))


def mix_views(features: Tensor, text: Tensor, settings: Settings) -> Tensor:
    """Cosine-like logits of every patch of every crop.

    ``logits = w * mean(features of plain, grey, blurred) t' + (1 - w) * mean(unflipped logits)``

    Args:
        features: V x n x r x c x E from `view_features`.
        text: Q x E text bank.
        settings: `img_engineering` and `img_eng_coefficient` are read; without image
            engineering the first view counts alone.

    Returns:
        n x r x c x Q in the dtype of `text`.
    """
    if not settings.img_engineering:
        return features[0] @ text.T
    plain, grey, blurred, down, sideways = features
    kept = (plain + grey + blurred) / 3 @ text.T
    # flipping back, averaging and the text product are linear and commute
    turned = (down.flip(1) + sideways.flip(2)) / 2 @ text.T
    weight = settings.img_eng_coefficient
    return weight * kept + (1 - weight) * turned
