"""Focal and dice loss on masks, without storing the masks.

Logits are on the token grid (such as 32 x 32), labels on pixels (512 x 512). The gradients of the
resizing and of both losses are hand-written and computed a few masks at a time, so only
B x K x h x w gradients are stored, never a B x K x H x W tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from mmengine import dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from itaclip.devices import widest_float
from itaclip.research.preparation.masks import IGNORED

FOCAL_ALPHA = 0.25
"""Weight of positives relative to negatives (Lin et al., ICCV 2017, and the published code)."""

# The formulas below assume that the gamma of the focal loss is 2.

_PIXELS_PER_STEP = {"cpu": 2**20, "cuda": 2**25}
"""Mask pixels per step: tensors of 4 MiB fit into a CPU's caches; a GPU needs large kernels."""


@dataclass(frozen=True)
class MaskLosses:
    """Losses of a batch and the accuracy of its masks.

    Attributes:
        focal: scalar, unweighted.
        dice: scalar, unweighted.
        accuracy: percentage of labelled pixels whose highest logit belongs to their class.
    """

    focal: Tensor
    dice: Tensor
    accuracy: Tensor


def mask_losses(grid_logits: Tensor, labels: Tensor, image_size: int) -> MaskLosses:
    """Compute focal and dice loss as published (CLIP-RC and Cascade-CLIP share them).

    Pixels with label 255 are not ignored: they are negatives of every class. The focal term covers
    all B K masks, the dice term those of the M (image, class) pairs that occur; both are divided by
    M, averaged over processes and at least 1.

    Args:
        grid_logits: B x K x h x w.
        labels: B x H x W int64, ranks among the K classes or 255.
        image_size: side to which logits are first resized bilinearly, before the size of the labels.
    """
    classes, (height, width) = grid_logits.shape[1], labels.shape[-2:]
    present = _present(labels, classes)
    pairs = present.sum().float()
    if dist.is_distributed():
        dist.all_reduce(pairs, "mean")
    rows, columns = resizing(grid_logits, image_size, (height, width))
    focal, dice, right = _FocalDice.apply(grid_logits.float(), labels, present, rows, columns, pairs.clamp(min=1))
    valid = (labels != IGNORED).sum()
    return MaskLosses(focal, dice, 100 * right / valid.clamp(min=1))


def resizing(grid: Tensor, image_size: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Make the matrices for `resize`, from (... x h x w) to a square of side `image_size` and then to `size`."""
    rows, columns = (_axis(n, image_size, m) for n, m in zip(grid.shape[-2:], size, strict=True))
    return rows.to(grid.device), columns.to(grid.device)


@lru_cache(maxsize=16)
def _axis(source: int, between: int, target: int) -> Tensor:
    """Make the target x source matrix of linear resizing along one axis in two steps."""
    matrix = torch.eye(source)
    for size in (between, target):
        matrix = F.interpolate(matrix[None], size=size, mode="linear", align_corners=False)[0]
    return matrix.T.contiguous()


def resize(grid: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Resize maps (... x h x w) to ... x H x W: ``R x C'``."""
    return rows @ (grid @ columns.T)


def _present(labels: Tensor, classes: int) -> Tensor:
    """Tell which class occurs in which image: B x K bool."""
    found = torch.zeros(len(labels), 256, dtype=torch.bool, device=labels.device)
    found.scatter_(1, labels.flatten(1), True)
    return found[:, :classes]


class _FocalDice(torch.autograd.Function):
    """Both losses and their gradients with respect to the grid logits, in one pass over the masks."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, present: Tensor, rows: Tensor, columns: Tensor, pairs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        gradients = torch.zeros(2, *logits.shape, device=logits.device) if ctx.needs_input_grad[0] else None
        focal, dice, right = (
            torch.zeros((), dtype=widest_float(logits.device), device=logits.device) for _ in range(3)
        )
        batch, classes = present.shape
        pixels = labels[0].numel()
        step = max(1, _PIXELS_PER_STEP.get(logits.device.type, 2**20) // pixels)
        ids = torch.arange(classes, device=logits.device)
        # autocast would run the products below in half precision
        with torch.autocast(logits.device.type, enabled=False):
            for b in range(batch):
                best: tuple[Tensor, Tensor] | None = None
                for first in range(0, classes, step):
                    part = slice(first, first + step)
                    x = resize(logits[b, part], rows, columns)
                    best = _better(best, x.max(0), first)
                    truth = labels[b] == ids[part, None, None]
                    value, gradient, error = _focal(x, truth)
                    focal += value
                    occurring = present[b, part].nonzero().flatten()
                    value, by_dice = _dice(error[occurring], truth[occurring])
                    dice += value
                    if gradients is not None:
                        gradients[0, b, part] = resize(gradient, rows.T, columns.T)
                        gradients[1, b, first + occurring] = resize(by_dice, rows.T, columns.T)
                assert best is not None
                right += (best[1] == labels[b]).sum()
        if gradients is not None:
            ctx.save_for_backward(gradients / pairs)
        focal, dice, right = (focal / pairs).float(), (dice / pairs).float(), right.float()
        ctx.mark_non_differentiable(right)
        return focal, dice, right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_focal: Tensor, grad_dice: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (gradients,) = ctx.saved_tensors
        return grad_focal * gradients[0] + grad_dice * gradients[1], None, None, None, None, None


def _better(best: tuple[Tensor, Tensor] | None, found: Any, first: int) -> tuple[Tensor, Tensor]:
    """Keep the highest logit and its class so far, H x W each; ties go to the lower class."""
    values, classes = found.values, found.indices + first
    if best is None:
        return values, classes
    higher = values > best[0]
    return torch.where(higher, values, best[0]), torch.where(higher, classes, best[1])


def _focal(x: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the focal loss summed over masks, its gradient with respect to the logits, and the error of every pixel.

    With z = -x where the pixel belongs to the class and z = x elsewhere, and the error e = sigmoid(z),
    the loss is ``a e^2 softplus(z)`` with the derivative ``a e^2 (2 (1 - e) softplus(z) + e)``.

    Args:
        x: C x H x W logits.
        truth: C x H x W bool.
    """
    pixels = truth[0].numel()
    z = torch.where(truth, -x, x)
    error, cost = z.sigmoid(), F.softplus(z)
    weighted = error.square() * torch.where(truth, FOCAL_ALPHA, 1 - FOCAL_ALPHA)
    value = (weighted * cost).sum(dtype=widest_float(x.device)) / pixels
    gradient = weighted * (2 * (1 - error) * cost + error) / pixels
    return value, torch.where(truth, -gradient, gradient), error


def _dice(error: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Compute dice loss ``1 - (2 sum(s Y) + 1) / (sum(s) + sum(Y) + 1)``, summed over masks, and its gradient.

    Args:
        error: C x H x W, 1 - s where the pixel belongs to the class and s elsewhere.
        truth: C x H x W bool.
    """
    score = torch.where(truth, 1 - error, error)
    numerator = 2 * (score * truth).sum((1, 2), keepdim=True) + 1
    denominator = score.sum((1, 2), keepdim=True) + truth.sum((1, 2), keepdim=True) + 1
    slope = error * (1 - error)  # of the sigmoid; equal for s and 1 - s
    gradient = slope * (numerator / denominator**2 - 2 / denominator * truth)
    return (1 - numerator / denominator).sum(dtype=widest_float(error.device)), gradient
