"""Regions from SAM 2 (Ravi et al., 2024): automatic masks for a grid of points, using transformers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itaclip.core.local_models import load_local
from itaclip.core.regions.unsupervised import require_rgb
from itaclip.devices import choose_device

LARGE = "facebook/sam2-hiera-large"
"""The model behind the published masks."""


@dataclass(frozen=True)
class Sampling:
    """How many masks are tried, and which are kept.

    Attributes:
        points: points per side of the grid; each gives one mask.
        min_iou: masks whose IoU, as predicted by the model, is lower are dropped.
        min_stability: masks whose stability under changes of their threshold is lower are dropped.
    """

    points: int
    min_iou: float
    min_stability: float


SAMPLINGS = {"sam2": Sampling(8, 0.4, 0.4), "sam2-64": Sampling(64, 0.7, 0.7)}
"""Published settings by name: CorrCLIP's (Zhang et al., ICCV 2025) and OV-Stitcher's (Moon et al., arXiv
2604.08110), which takes 64 times as many passes of the mask decoder."""

NMS = 0.7
"""If the boxes of two masks overlap more than this, keep only the better one; SAM 2's own default."""
POINTS_AT_ONCE = 16
"""Points processed together, to bound memory: each needs 4 bytes per pixel of the full-size image."""


class Sam2Masks:
    """Region maps from SAM 2.

    Args:
        model: a Hugging Face Hub name whose files are in the local cache, or a folder (safetensors).
        sampling: a key of `SAMPLINGS`.
        device: device of the model.

    Raises:
        ItaclipError: the model is in no folder or cache, or its files are damaged.
    """

    def __init__(self, model: str = LARGE, *, sampling: str = "sam2", device: str = "cpu") -> None:
        self.name = f"{sampling}:{model}"
        self.sampling = SAMPLINGS[sampling]
        self._device = choose_device(device)
        self._model, self._processor = _load(model)
        self._model.to(self._device)
        settings = f"{self.sampling.points} {self.sampling.min_iou} {self.sampling.min_stability} {NMS} "
        weights = hashlib.sha256(settings.encode())
        for key, value in sorted(self._model.state_dict().items()):
            weights.update(key.encode() + value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        self.fingerprint = f"sam2 {weights.hexdigest()[:16]}"

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8], name: str | None = None) -> NDArray[np.int32]:
        """Segment into H x W int32: 0 is in no mask, regions are numbered from 1 by ascending area; see
        `RegionSource`."""
        require_rgb(image, name)
        return paint(self.masks(image), image.shape[:2])

    def masks(self, image: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Compute the masks of all points after thresholds and non-maximum suppression: n x H x W bool."""
        processor = self._processor
        size = image.shape[:2]
        inputs = processor(images=image, return_tensors="pt").to(self._device)
        pixels = inputs["pixel_values"]
        points = point_grid(self.sampling.points, pixels.shape[-2:]).to(self._device)
        labels = torch.ones(points.shape[:-1], dtype=torch.int32, device=self._device)
        whole = torch.tensor([0, 0, size[1], size[0]], device=self._device)
        embeddings = self._model.get_image_embeddings(pixels)
        found: list[Any] = []
        scores: list[Tensor] = []
        boxes: list[Tensor] = []
        for start in range(0, points.shape[1], POINTS_AT_ONCE):
            part = slice(start, start + POINTS_AT_ONCE)
            output = self._model(
                image_embeddings=embeddings, input_points=points[:, part],
                input_labels=labels[:, part], multimask_output=False,
            )  # fmt: skip
            large = processor.post_process_masks(output.pred_masks, [size], binarize=False)[0]
            kept, kept_scores, kept_boxes = processor.filter_masks(
                large, output.iou_scores[0], size, whole, self.sampling.min_iou, self.sampling.min_stability
            )
            found.extend(kept)
            scores.append(kept_scores)
            boxes.append(kept_boxes)
        if not found:
            return np.zeros((0, *size), bool)
        chosen = processor.post_process_for_mask_generation(found, torch.cat(scores), torch.cat(boxes), NMS)[0]
        return np.stack([np.asarray(mask, bool) for mask in chosen])


def point_grid(side: int, size: tuple[int, ...]) -> Tensor:
    """Compute the centres of side x side cells of the model's input: 1 x points x 1 x 2 (x, y) float32.

    The grid in transformers scales by the longer side, as SAM 1 requires. SAM 2 stretches images
    to a square, so with that grid the lower part of a wide image would get no points.
    """
    centres = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(centres * size[0], centres * size[1], indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(1, -1, 1, 2)


def paint(masks: NDArray[np.bool_], size: tuple[int, ...]) -> NDArray[np.int32]:
    """Combine masks that may overlap into one map: n x H x W bool to H x W int32.

    Masks are painted and numbered from 1 by ascending area, so a larger mask overwrites smaller
    ones. The numbers of completely covered masks do not occur.
    """
    regions = np.zeros(size, np.int32)
    for number, index in enumerate(np.argsort(masks.sum(axis=(1, 2)), kind="stable"), start=1):
        regions[masks[index]] = number
    return regions


def _load(model: str) -> tuple[Any, Any]:
    """Load SAM 2 and its image processor from a folder or the hub cache; never download."""
    from transformers import Sam2ImageProcessor, Sam2Model

    def load(source: str) -> tuple[tuple[Any, Any], dict[str, Any]]:
        processor = Sam2ImageProcessor.from_pretrained(source, local_files_only=True)
        loaded, report = Sam2Model.from_pretrained(
            source, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
        return (loaded, processor), report

    loaded, processor = load_local(
        model, load, title="SAM 2", files="config.json, preprocessor_config.json, model.safetensors",
        remedy="  put them in:    a folder, and pass it as sam2:FOLDER; or download them once: "
        f"hf download {model}\n",
    )  # fmt: skip
    return loaded.requires_grad_(False).eval(), processor
