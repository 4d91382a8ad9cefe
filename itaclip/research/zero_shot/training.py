"""Labels and losses of a training step."""

from __future__ import annotations

import torch
from torch import Tensor

from itaclip.research.zero_shot import losses
from itaclip.research.zero_shot.classes import ClassSplit, is_unseen
from itaclip.research.zero_shot.settings import LossSettings, Mode


def training_losses(
    grid_logits: Tensor,
    recovery: dict[str, Tensor],
    raw_labels: Tensor,
    table: Tensor,
    split: ClassSplit,
    mode: Mode,
    image_size: int,
    weights: LossSettings,
) -> tuple[dict[str, Tensor], Tensor]:
    """Compute the weighted losses of a batch.

    In transductive mode, unseen pixels get pseudo labels from the same forward pass.

    Args:
        grid_logits: B x K x h x w for the K classes given to the head.
        recovery: CLIP-RC's unweighted recovery losses; empty for Cascade-CLIP.
        raw_labels: B x H x W int64 labels of the data set.
        table: result of `itaclip.research.zero_shot.classes.label_table`, on the labels' device.
        split: seen and unseen classes.
        mode: training mode.
        image_size: side to which masks are resized, in pixels.
        weights: weights of the losses.

    Returns:
        ``loss_mask``, ``loss_dice``, recovery losses, and ``acc_seg`` (percentage, only for the
        log); and the labels used for training, B x H x W.
    """
    labels = table[raw_labels]
    if mode == "transductive":
        pseudo = pseudo_labels(grid_logits, split, image_size, (labels.shape[-2], labels.shape[-1]))
        labels = torch.where(is_unseen(raw_labels, split), pseudo, labels)
    found = losses.mask_losses(grid_logits, labels, image_size)
    weighted = {"loss_mask": weights.mask * found.focal, "loss_dice": weights.dice * found.dice}
    weighted |= {name: weights.recovery * value for name, value in recovery.items()}
    return {**weighted, "acc_seg": found.accuracy}, labels


@torch.no_grad()
def pseudo_labels(grid_logits: Tensor, split: ClassSplit, image_size: int, size: tuple[int, int]) -> Tensor:
    """Find the most likely unseen class of every pixel, without a threshold: B x H x W int64."""
    unseen = torch.tensor(split.unseen, device=grid_logits.device)
    rows, columns = losses.resizing(grid_logits, image_size, size)
    with torch.autocast(grid_logits.device.type, enabled=False):
        masks = losses.resize(grid_logits[:, unseen].float(), rows, columns)
    return unseen[masks.sigmoid().argmax(1)]
