"""Pixel-adaptive mask refinement (PAMR; Araslanov & Roth, CVPR 2020).

Every round replaces a pixel's logits by a mean over 8 neighbours per dilation, weighed
by how alike the pixels of the guide image are. Neither the neighbours of the masks nor
those of the guide are ever stored side by side: the weights (16 x H x W for two
dilations) and one padded block of masks are all the memory it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

# Masks refined together, and values of one tile of them: small enough that a tile, its
# neighbours and its weights stay in a core's second-level cache.
_MASKS = 4
_TILE = 1 << 15
# A GPU takes as many masks at once as 256 MiB hold, which keeps kernels few and large.
_GPU_VALUES = 1 << 26


def pamr(
    masks: Tensor, guide: Tensor, steps: int = 10, dilations: Sequence[int] = (8, 16), compile: bool = False
) -> Tensor:
    """Refine masks along the edges of an image.

    Args:
        masks: Q x H x W, floating point.
        guide: 3 x H x W, the normalised RGB image at the same size.
        steps: rounds.
        dilations: distances of the neighbours in pixels.
        compile: on a GPU, a round in one kernel, made by torch.compile. A CPU's tiles are as fast.

    Returns:
        Q x H x W, refined; `masks` is left as it is.
    """
    if steps < 1:
        return masks
    weights = affinity(guide, dilations).to(masks.dtype)
    refined = torch.empty_like(masks)
    one_round = _compiled_round() if compile and masks.is_cuda else _round
    together = max(_MASKS, _GPU_VALUES // guide[0].numel()) if masks.is_cuda else _MASKS
    for first in range(0, len(masks), together):
        block = masks[first : first + together]
        for _ in range(steps):
            block = one_round(block, weights, dilations)
        refined[first : first + together] = block
    return refined


def affinity(guide: Tensor, dilations: Sequence[int]) -> Tensor:
    """Weights of the neighbours of every pixel: (8 * len(dilations)) x H x W, summing to 1.

    ``softmax_n( mean_rgb( -|x - x_n| / (1e-8 + 0.1 sigma) ) )``, sigma per channel over the
    3 x 3 neighbourhoods of all dilations together, centres included, unbiased.
    """
    count = 9 * len(dilations)
    mean = (sum(_shifted(guide, dilations)) + len(dilations) * guide) / count
    spread = sum((x - mean).square() for x in _shifted(guide, dilations))
    spread = spread + len(dilations) * (guide - mean).square()
    sigma = (spread / (count - 1)).sqrt()
    scale = -1 / (1e-8 + 0.1 * sigma)
    weights = torch.empty(8 * len(dilations), *guide.shape[1:], dtype=guide.dtype, device=guide.device)
    for n, x in enumerate(_shifted(guide, dilations)):
        weights[n] = ((guide - x).abs() * scale).mean(0)
    return weights.softmax(0)


def _round(block: Tensor, weights: Tensor, dilations: Sequence[int]) -> Tensor:
    """One round over a few masks: ``m <- sum_n a_n m_n``, tile of rows by tile of rows."""
    height, width = block.shape[1:]
    reach = max(dilations)
    padded = _pad(block, reach)
    out = torch.empty_like(block)
    rows = height if block.is_cuda else max(1, _TILE // (len(block) * width))
    for top in range(0, height, rows):
        tile = out[:, top : top + rows]
        near = padded[:, top : top + rows + 2 * reach]
        for n, (dy, dx) in enumerate(_offsets(dilations)):
            neighbour = near[:, reach + dy : reach + dy + tile.shape[1], reach + dx : reach + dx + width]
            weight = weights[n, top : top + rows]
            if n == 0:
                torch.mul(neighbour, weight, out=tile)
            else:
                tile.addcmul_(neighbour, weight)
    return out


def _fused_round(block: Tensor, weights: Tensor, dilations: Sequence[int]) -> Tensor:
    """As `_round`, in one expression for a compiler to fuse."""
    parts = [x * weights[n] for n, x in enumerate(_shifted(block, dilations))]
    return sum(parts[1:], parts[0])


@lru_cache(maxsize=1)
def _compiled_round() -> Callable[[Tensor, Tensor, Sequence[int]], Tensor]:
    return torch.compile(_fused_round, dynamic=True)


def _shifted(image: Tensor, dilations: Sequence[int]) -> list[Tensor]:
    """Views of the image moved by every neighbour's offset; borders repeat."""
    height, width = image.shape[1:]
    reach = max(dilations)
    padded = _pad(image, reach)
    return [
        padded[:, reach + dy : reach + dy + height, reach + dx : reach + dx + width] for dy, dx in _offsets(dilations)
    ]


def _offsets(dilations: Sequence[int]) -> list[tuple[int, int]]:
    steps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
    return [(d * dy, d * dx) for d in dilations for dy, dx in steps]


def _pad(image: Tensor, reach: int) -> Tensor:
    return F.pad(image[None], (reach,) * 4, mode="replicate")[0]
