"""The pipeline: normalised images and a text bank to label maps.

image -> windows -> views -> tokens -> logits -> stitching -> refinement -> labels
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor, nn

from itaclip.clip import METHODS, DenseEncoder
from itaclip.decision import class_scores, label_map
from itaclip.errors import ItaclipError
from itaclip.pamr import pamr
from itaclip.settings import Settings
from itaclip.sharing import Reading, grouped, shared_logits
from itaclip.text import TextBank
from itaclip.windows import WindowPlan, stitch

_LOG = logging.getLogger(__name__)

# CLIP's channel statistics of 0..255 RGB values, as every published configuration rounds them.
MEAN = (122.771, 116.746, 104.094)
STD = (68.501, 66.632, 70.323)


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
        blocks = len(clip.visual.transformer.resblocks)
        method = settings.resolved_method(blocks)
        if settings.middle_layers is None and method.middle_layers != METHODS[settings.method].middle_layers:
            _LOG.info("%s: its middle layers became %s of %d, in proportion; no publication has tested that.",
                      settings.method, method.middle_layers, blocks)  # fmt: skip
        self.encoder = DenseEncoder(clip.visual, method).lower(settings.dtype)
        if settings.compile:
            self.encoder.compiled()

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
        return [result for _, _, result in self.variants(images, sizes, [(self.settings, bank)])]

    @torch.no_grad()
    def variants(
        self,
        images: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        variants: Sequence[tuple[Settings, TextBank]],
    ) -> Iterator[tuple[int, int, Segmentation]]:
        """Segment a batch under several settings, doing once what they have in common.

        Args:
            images: as for `forward`.
            sizes: as for `forward`.
            variants: settings, all of the pipeline's dtype, and the classes of each.

        Yields:
            Places of image and variant, and the result; image by image, and of each image
            one after the other the variants that share most.

        Raises:
            ItaclipError: as `forward`, or another dtype.
        """
        readings = [self._reading(settings, bank) for settings, bank in variants]
        plans = [[self.plan(image, reading.settings) for image in images] for reading in readings]
        logits: list[list[Tensor]] = [[] for _ in readings]
        for group in grouped(readings):
            found = shared_logits(self.encoder, images, plans[group[0]], [readings[i] for i in group])
            for i, maps in zip(group, found, strict=True):
                logits[i] = maps
        for n, (image, size) in enumerate(zip(images, sizes, strict=True)):
            alike: dict[int, list[int]] = {}  # variants by the logits that they share
            for i, maps in enumerate(logits):
                alike.setdefault(id(maps[n]), []).append(i)
            for places in alike.values():
                first = places[0]
                stitched = stitch(logits[first][n], plans[first][n], size)
                refined: dict[Hashable, Tensor] = {}
                for i in places:
                    settings, bank = variants[i]
                    key = settings.pamr_steps, settings.pamr_stride if settings.pamr_steps else None
                    if key not in refined:
                        refined[key] = _refine(stitched, image, settings)
                    scores = class_scores(refined[key], bank.class_names.queries_per_class, settings)
                    yield n, i, Segmentation(label_map(scores, settings), scores)

    def patch_logits(self, images: Sequence[Tensor], bank: TextBank) -> list[Tensor]:
        """Logits of every patch of every window: per image, windows x r x c x Q float32."""
        plans = [self.plan(image) for image in images]
        return shared_logits(self.encoder, images, plans, [self._reading(self.settings, bank)])[0]

    def _reading(self, settings: Settings, bank: TextBank) -> Reading:
        if settings.dtype != self.settings.dtype:
            raise ItaclipError(f"dtype = {settings.dtype!r}: the encoder was loaded as {self.settings.dtype!r}.")
        return Reading(settings, settings.resolved_method(len(self.encoder.blocks)), bank.features)

    def plan(self, image: Tensor, settings: Settings | None = None) -> WindowPlan:
        """The windows that the settings (the pipeline's own by default) lay over an image of 3 x H x W."""
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise ItaclipError(f"image of shape {tuple(image.shape)}: expected 3 x height x width with pixels in it.")
        settings = settings or self.settings
        return WindowPlan.of(
            (image.shape[1], image.shape[2]), settings.slide_crop, settings.slide_stride, self.encoder.patch_size,
            settings.padding,
        )  # fmt: skip


def _refine(logits: Tensor, image: Tensor, settings: Settings) -> Tensor:
    """PAMR along the edges of the image, resized to the logits (Q x H x W)."""
    if not settings.pamr_steps:
        return logits
    size = (logits.shape[1], logits.shape[2])
    guide = F.interpolate(image[None].float(), size=size, mode="bilinear", align_corners=False)[0]
    return pamr(logits, guide, settings.pamr_steps, settings.pamr_stride, settings.compile)
