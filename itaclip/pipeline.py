"""The pipeline: normalised images and a text bank to label maps.

image -> windows -> views -> tokens -> logits -> stitching -> refinement -> labels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor, nn

from itaclip.clip import DenseEncoder, get_method
from itaclip.decision import class_scores, label_map
from itaclip.errors import ItaclipError
from itaclip.pamr import pamr
from itaclip.settings import Settings
from itaclip.text import TextBank
from itaclip.views import VIEWS, view_logits
from itaclip.windows import WindowPlan, cut_windows, stitch

# CLIP's channel statistics of 0..255 RGB values, as every published configuration rounds them.
MEAN = (122.771, 116.746, 104.094)
STD = (68.501, 66.632, 70.323)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Segmentation:
    """Result for one image.

    Attributes:
        labels: H x W int64 class ids.
        scores: K x H x W float32 in [0, 1], class scores after the area rule.
    """

    labels: Tensor
    scores: Tensor


class Pipeline(nn.Module):
    """Image tower and settings; stateless but for its weights.

    Args:
        clip: open_clip's CLIP of OpenAI's layout; only the image tower is kept.
        settings: how to run it.
    """

    def __init__(self, clip: CLIP, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        method = get_method(settings.method, settings.residual, settings.attn_self, settings.middle_layers)
        self.encoder = DenseEncoder(clip.visual, method).to(DTYPES[settings.dtype])

    @torch.no_grad()
    def forward(self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]], bank: TextBank) -> list[Segmentation]:
        """Segment a batch of images of any sizes.

        Args:
            images: each 3 x h x w float32 RGB, normalised with `MEAN` and `STD`.
            sizes: original height and width of each, which the results have.
            bank: the classes.

        Raises:
            ItaclipError: an image without pixels, or not of 3 channels.
        """
        settings = self.settings
        results = []
        for image, size, patches in zip(images, sizes, self.patch_logits(images, bank), strict=True):
            logits = stitch(patches, self.plan(image), size)
            if settings.pamr_steps:
                guide = F.interpolate(image[None].float(), size=size, mode="bilinear", align_corners=False)[0]
                logits = pamr(logits, guide, settings.pamr_steps, settings.pamr_stride)
            scores = class_scores(logits, bank.query_to_class, settings)
            results.append(Segmentation(label_map(scores, settings), scores))
        return results

    def patch_logits(self, images: Sequence[Tensor], bank: TextBank) -> list[Tensor]:
        """Logits of every patch of every window: per image, windows x r x c x Q float32.

        Windows of different images share an encoder pass when their sizes agree.
        """
        plans = [self.plan(image) for image in images]
        outputs = [
            torch.empty(plan.count, *plan.grid, len(bank.features), device=image.device)
            for plan, image in zip(plans, images, strict=True)
        ]
        text = bank.features.to(outputs[0].device) if outputs else bank.features
        per_pass = max(1, self.settings.batch_crops // (VIEWS if self.settings.img_engineering else 1))
        waiting: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for i, plan in enumerate(plans):
            waiting.setdefault(plan.padded, []).extend((i, window) for window in range(plan.count))
        for windows in waiting.values():
            for start in range(0, len(windows), per_pass):
                runs = _runs(windows[start : start + per_pass])
                crops = torch.cat([cut_windows(images[i], plans[i], a, b) for i, a, b in runs])
                logits = view_logits(crops, self._encode, text, plans[runs[0][0]].grid, self.settings)
                for (i, a, b), part in zip(runs, logits.split([b - a for _, a, b in runs]), strict=True):
                    outputs[i][a:b] = part
        return outputs

    def _encode(self, pixels: Tensor) -> Tensor:
        tokens: Tensor = self.encoder(pixels.to(DTYPES[self.settings.dtype]))
        return tokens

    def plan(self, image: Tensor) -> WindowPlan:
        """The windows that the settings lay over an image of 3 x H x W."""
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise ItaclipError(f"image of shape {tuple(image.shape)}: expected 3 x height x width with pixels in it.")
        settings = self.settings
        return WindowPlan.of(
            (image.shape[1], image.shape[2]), settings.slide_crop, settings.slide_stride, self.encoder.patch_size
        )


def _runs(windows: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Consecutive (image, window) pairs as (image, first, last + 1)."""
    runs: list[tuple[int, int, int]] = []
    for image, window in windows:
        if runs and runs[-1][0] == image:
            runs[-1] = (image, runs[-1][1], window + 1)
        else:
            runs.append((image, window, window + 1))
    return runs
