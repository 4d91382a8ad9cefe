"""Image engineering: make five views of every crop, and combine their logits.

ITACLIP, section 4. Shapes: n crops, h x w pixels, r x c patches, E channels, Q queries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:  # settings know the encoder, and it the views
    from itaclip.core.settings import Settings

VIEWS = 5


def make_views(crops: Tensor, settings: Settings) -> Tensor:
    """Make the views: plain, grey, blurred, flipped down, flipped sideways; n x 3 x h x w to 5n x 3 x h x w.

    Grey is the ITU-R 601 luma of the *normalised* RGB. The blur reflects at the borders
    of its crop. Without image engineering the crops are returned unchanged.
    """
    if not settings.img_engineering:
        return crops
    return torch.cat([make_view(crops, view, settings) for view in range(VIEWS)])


def make_view(crops: Tensor, view: int, settings: Settings) -> Tensor:
    """Make one view of the crops, given its index in the order of `make_views`."""
    if view == 1:
        return grey(crops)
    if view == 2:
        return blurred(crops, settings.blur_kernel, settings.blur_sigma)
    return turned(crops, view, 2)


def grey(crops: Tensor) -> Tensor:
    """Set all three channels to the ITU-R 601 luma; n x 3 x h x w."""
    red, green, blue = crops.unbind(1)
    luma = 0.2989 * red + 0.587 * green + 0.114 * blue
    return luma[:, None].expand_as(crops)


def blurred(crops: Tensor, kernel: int, sigma: float) -> Tensor:
    """Apply a Gaussian blur with an odd kernel, reflected at the borders; n x 3 x h x w."""
    offsets = torch.arange(kernel, device=crops.device, dtype=crops.dtype) - kernel // 2
    line = (-(offsets**2) / (2 * sigma**2)).softmax(0)
    weights = (line[:, None] * line).expand(crops.shape[1], 1, kernel, kernel)
    padded = F.pad(crops, [kernel // 2] * 4, mode="reflect")
    return F.conv2d(padded, weights, groups=crops.shape[1])


def turned(maps: Tensor, view: int, rows: int) -> Tensor:
    """Flip maps like a view, or undo the flip. Rows are dimension `rows`, and columns the next one."""
    return maps.flip(rows + view - 3) if view >= 3 else maps


def turn_views(maps: Tensor) -> Tensor:
    """Flip the maps of flipped views, or undo it: V x n x r x c x ...; unchanged if V is 1."""
    if len(maps) == 1:
        return maps
    return torch.stack([turned(one, view, 1) for view, one in enumerate(maps)])


def view_maps(maps: Tensor, settings: Settings) -> Tensor:
    """Repeat maps of the crops, n x h x w, for all views in the order of `make_views`: 5n x h x w."""
    if not settings.img_engineering:
        return maps
    return torch.cat([turned(maps, view, 1) for view in range(VIEWS)])


def view_features(tokens: Tensor, crops: int, unit: bool = True) -> Tensor:
    """Normalise the features of every view.

    Args:
        tokens: (V * n) x r x c x E, in the order of `make_views`.
        crops: number of crops, n.
        unit: False leaves them as they are, because they are logits.

    Returns:
        V x n x r x c x E float32, flipped views still flipped.
    """
    found = tokens.float()
    return (F.normalize(found, dim=-1) if unit else found).unflatten(0, (-1, crops))


def mix_views(features: Tensor, text: Tensor | None, settings: Settings) -> Tensor:
    """Mix the views into cosine-like logits of every patch of every crop.

    ``logits = w * mean(features of plain, grey, blurred) t' + (1 - w) * mean(unflipped logits)``

    Args:
        features: V x n x r x c x E from `view_features`.
        text: Q x E text bank; None leaves out the product: of features, which is linear, so that the result has
            E channels, or of logits, V x n x r x c x Q.
        settings: uses `img_engineering` and `img_eng_coefficient`. Without image engineering
            only the first view counts.

    Returns:
        n x r x c x Q float32.
    """

    def product(maps: Tensor) -> Tensor:
        return maps if text is None else maps @ text.T

    if not settings.img_engineering:
        return product(features[0])
    kept = product((features[0] + features[1] + features[2]) / 3)
    # flipping back, averaging and the text product are linear and commute
    flipped = product((features[3].flip(1) + features[4].flip(2)) / 2)
    weight = settings.img_eng_coefficient
    return weight * kept + (1 - weight) * flipped
