"""A straightforward implementation of the losses, with full masks and autograd, for tests and benchmarks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.research.preparation.masks import IGNORED
from itaclip.research.zero_shot.losses import FOCAL_ALPHA, MaskLosses


def plain_mask_losses(grid_logits: Tensor, labels: Tensor, image_size: int) -> MaskLosses:
    """Compute `itaclip.research.zero_shot.losses.mask_losses` from its formulas, in one process.

    Stores about ten B x K x H x W tensors at a time.
    """
    square = (image_size, image_size)
    masks = F.interpolate(grid_logits.float(), size=square, mode="bilinear", align_corners=False)
    if labels.shape[-2:] != square:
        masks = F.interpolate(masks, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    truth = F.one_hot(labels, 256)[..., : masks.shape[1]].permute(0, 3, 1, 2).float()
    present = truth.flatten(2).any(dim=2)
    pairs = present.sum().clamp(min=1)

    scores = masks.sigmoid()
    right = scores * truth + (1 - scores) * (1 - truth)
    weight = FOCAL_ALPHA * truth + (1 - FOCAL_ALPHA) * (1 - truth)
    entropy = F.binary_cross_entropy_with_logits(masks, truth, reduction="none")
    focal = (weight * (1 - right) ** 2 * entropy).mean(dim=(2, 3)).sum() / pairs

    overlap = 2 * (scores * truth).sum((2, 3)) + 1
    dice = ((1 - overlap / (scores.sum((2, 3)) + truth.sum((2, 3)) + 1)) * present).sum() / pairs

    valid = labels != IGNORED
    hits = (masks.argmax(1) == labels) & valid
    return MaskLosses(focal, dice, 100 * hits.sum() / torch.clamp(valid.sum(), min=1))
