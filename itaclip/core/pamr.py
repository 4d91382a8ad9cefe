"""Pixel-adaptive mask refinement (PAMR; Araslanov & Roth, CVPR 2020).

Each round replaces a pixel's logits by a mean over 8 neighbours per dilation, weighted by the
similarity of the pixels in the guide image. This is what an embedding bag computes: pixels are the
rows of a table, neighbours the rows that a bag sums, and weights its sample weights. PyTorch's
kernel gathers and sums in one step, without storing the neighbours side by side (docs/record.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.common.progress import report
from itaclip.devices import kernel_device

# Masks refined together: as many as fit into 128 MiB. On CPUs at most 32, the fastest of 4 to 80:
# enough to fill the vector registers, few enough for the caches.
_VALUES = 1 << 25
MASKS_ON_A_CPU = 32


class Refinement:
    """Refine masks along the edges of an image, some at a time.

    Args:
        guide: 3 x H x W, the normalised RGB image at the size of the masks.
        steps: number of rounds, 1 or more.
        dilations: distances of the neighbours in pixels.
    """

    def __init__(self, guide: Tensor, steps: int, dilations: Sequence[int]) -> None:
        self._steps, self._done = steps, 0
        # MPS has the kernel since PyTorch 2.10
        self._place = kernel_device("_embedding_bag_forward_only", guide.device)
        guide = guide.to(self._place)
        self._near = neighbours(guide.shape[1], guide.shape[2], tuple(dilations), self._place)
        self._weights = affinity(guide, dilations).flatten(1).T.contiguous()

    def __call__(self, masks: Tensor, total: int) -> Tensor:
        """Refine masks.

        Args:
            masks: q x H x W, floating point.
            total: number of all masks that are refined with this guide, for the report of progress.

        Returns:
            q x H x W; `masks` stays unchanged.
        """
        moved = masks.to(self._place)
        weights = self._weights.to(masks.dtype)
        together = masks_together(masks[0].numel(), self._place)
        refined = torch.empty_like(moved)
        for first in range(0, len(masks), together):
            table = moved[first : first + together].flatten(1).T.contiguous()
            for step in range(self._steps):
                table = F.embedding_bag(self._near, table, mode="sum", per_sample_weights=weights)
                done = self._done * self._steps + (step + 1) * table.shape[1]
                report("edges", min(done, total * self._steps), total * self._steps)
            self._done += table.shape[1]
            refined[first : first + together] = table.T.unflatten(1, masks.shape[1:])
        return refined.to(masks.device)


def pamr(masks: Tensor, guide: Tensor, steps: int = 10, dilations: Sequence[int] = (8, 16)) -> Tensor:
    """Refine masks along the edges of an image.

    Args:
        masks: Q x H x W, floating point.
        guide: 3 x H x W, the normalised RGB image at the same size.
        steps: number of rounds.
        dilations: distances of the neighbours in pixels.

    Returns:
        Q x H x W, refined; `masks` stays unchanged.
    """
    return Refinement(guide, steps, dilations)(masks, len(masks)) if steps else masks


def masks_together(pixels: int, device: torch.device) -> int:
    """Return how many masks of so many pixels are refined together."""
    together = max(1, _VALUES // pixels)
    return together if device.type == "cuda" else min(together, MASKS_ON_A_CPU)


def affinity(guide: Tensor, dilations: Sequence[int]) -> Tensor:
    """Compute the weights of the neighbours of every pixel: (8 * len(dilations)) x H x W, summing to 1.

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


@lru_cache(maxsize=4)
def neighbours(
    rows: int, width: int, dilations: tuple[int, ...], device: torch.device, lead: int = 0, above: int = 0,
    below: int = 0,
) -> Tensor:  # fmt: skip
    """List the flat indices of each pixel's neighbours: (rows * W) x (8 * len(dilations)) int32; borders repeat.

    Args:
        rows: number of rows: of the image, or of a part of it.
        width: pixels of a row.
        dilations: distances of the neighbours in pixels.
        device: of the result.
        lead: rows before them where the indices point to.
        above: rows of the image before them, as far as a neighbour can lie.
        below: rows of the image after them, likewise.
    """
    y = torch.arange(rows, device=device, dtype=torch.int32)[:, None]
    x = torch.arange(width, device=device, dtype=torch.int32)
    near = [
        (lead + (y + dy).clamp(-above, rows - 1 + below)) * width + (x + dx).clamp(0, width - 1)
        for dy, dx in _offsets(dilations)
    ]
    return torch.stack(near, dim=-1).flatten(0, 1)


def _shifted(image: Tensor, dilations: Sequence[int]) -> list[Tensor]:
    """Get views of the image shifted by every neighbour's offset; borders repeat."""
    height, width = image.shape[1:]
    reach = max(dilations)
    padded = F.pad(image[None], (reach,) * 4, mode="replicate")[0]
    return [
        padded[:, reach + dy : reach + dy + height, reach + dx : reach + dx + width] for dy, dx in _offsets(dilations)
    ]


def _offsets(dilations: Sequence[int]) -> list[tuple[int, int]]:
    steps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
    return [(d * dy, d * dx) for d in dilations for dy, dx in steps]
