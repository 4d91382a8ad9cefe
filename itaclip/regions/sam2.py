"""Regions by SAM 2 (Ravi et al., 2024): automatic masks of a grid of points, through transformers."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itaclip.devices import choose_device
from itaclip.errors import ItaclipError
from itaclip.regions.unsupervised import require_rgb

LARGE = "facebook/sam2-hiera-large"
"""The model of the published masks."""

POINTS = 8
"""Points a side; one mask each. With the thresholds, CorrCLIP's settings (Zhang et al., ICCV 2025)."""
LEAST_IOU = 0.4
"""Masks that the model itself rates lower are dropped."""
LEAST_STABILITY = 0.4
"""Masks that change more when their threshold moves are dropped."""
NMS = 0.7
"""Of two masks whose boxes overlap more than this, the better rated stays; SAM 2's own default."""
POINTS_AT_ONCE = 16
"""Bounds memory: masks at the image's full size, 4 bytes a pixel and point."""


class Sam2Masks:
    """Region maps by SAM 2.

    Args:
        model: a name on the hub whose files are in its cache, or a folder with them (safetensors).
        device: where it runs.

    Raises:
        ItaclipError: neither folder nor cache has the model, or its files are damaged.
    """

    def __init__(self, model: str = LARGE, *, device: str = "cpu") -> None:
        self.name = f"sam2:{model}"
        self._device = choose_device(device)
        self._model, self._processor = _load(model)
        self._model.to(self._device)
        settings = f"{POINTS} {LEAST_IOU} {LEAST_STABILITY} {NMS} "
        weights = hashlib.sha256(settings.encode())
        for key, value in sorted(self._model.state_dict().items()):
            weights.update(key.encode() + value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        self.fingerprint = f"sam2 {weights.hexdigest()[:16]}"

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8], name: str | None = None) -> NDArray[np.int32]:
        """H x W int32, 0 = in no mask, regions from 1 by ascending area; see `RegionSource`."""
        require_rgb(image, name)
        return paint(self.masks(image), image.shape[:2])

    def masks(self, image: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """The masks of an image: n x H x W, of all points, after thresholds and suppression."""
        processor = self._processor
        size = image.shape[:2]
        inputs = processor(images=image, return_tensors="pt").to(self._device)
        pixels = inputs["pixel_values"]
        points = point_grid(POINTS, pixels.shape[-2:]).to(self._device)
        labels = torch.ones(points.shape[:-1], dtype=torch.int32, device=self._device)
        whole = torch.tensor([0, 0, size[1], size[0]], device=self._device)
        seen = self._model.get_image_embeddings(pixels)
        found: list[Any] = []
        scores: list[Tensor] = []
        frames: list[Tensor] = []
        for start in range(0, points.shape[1], POINTS_AT_ONCE):
            part = slice(start, start + POINTS_AT_ONCE)
            output = self._model(
                image_embeddings=seen, input_points=points[:, part],
                input_labels=labels[:, part], multimask_output=False,
            )  # fmt: skip
            large = processor.post_process_masks(output.pred_masks, [size], binarize=False)[0]
            kept, rated, framed = processor.filter_masks(
                large, output.iou_scores[0], size, whole, LEAST_IOU, LEAST_STABILITY
            )
            found.extend(kept)
            scores.append(rated)
            frames.append(framed)
        if not found:
            return np.zeros((0, *size), bool)
        chosen = processor.post_process_for_mask_generation(found, torch.cat(scores), torch.cat(frames), NMS)[0]
        return np.stack([np.asarray(mask, bool) for mask in chosen])


def point_grid(side: int, size: tuple[int, ...]) -> Tensor:
    """Points in the middles of side x side cells of the model's input: 1 x points x 1 x 2 (x, y) float32.

    transformers has such a grid for crops, but scales it by the longer side as SAM 1 wants it;
    SAM 2 stretches images to a square, so that a wide image's lower part would get no points.
    """
    middles = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(middles * size[0], middles * size[1], indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(1, -1, 1, 2)


def paint(masks: NDArray[np.bool_], size: tuple[int, ...]) -> NDArray[np.int32]:
    """One map of masks that may overlap: n x H x W bool to H x W int32.

    Painted by ascending area, so that a larger mask overwrites smaller ones; numbers follow that
    order from 1. Those of masks that are covered wholly do not occur.
    """
    regions = np.zeros(size, np.int32)
    for number, index in enumerate(np.argsort(masks.sum(axis=(1, 2)), kind="stable"), start=1):
        regions[masks[index]] = number
    return regions


def _load(model: str) -> tuple[Any, Any]:
    """SAM 2 and its image processor, from a folder or the hub's cache; nothing is downloaded."""
    from transformers import Sam2ImageProcessor, Sam2Model
    from transformers.utils import logging

    folder = Path(model).expanduser()
    if model.startswith(("/", "./", "../", "~")) and not folder.is_dir():
        raise ItaclipError(f"{model}: no such folder of a SAM 2 model.")
    source = str(folder) if folder.is_dir() else model
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        processor = Sam2ImageProcessor.from_pretrained(source, local_files_only=True)
        loaded, report = Sam2Model.from_pretrained(
            source, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
    except Exception as error:  # the hub's, transformers' and safetensors' own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if folder.is_dir():
            raise ItaclipError(
                f"{model}: no SAM 2 model that can be read ({reason}). Expected config.json, "
                "preprocessor_config.json and model.safetensors of a whole download."
            ) from error
        raise ItaclipError(
            f"{model}: SAM 2 is not on this machine ({type(error).__name__}: {reason}).\n"
            "  expected files: config.json, preprocessor_config.json, model.safetensors\n"
            "  put them in:    a folder, and name it: sam2:FOLDER; or fetch them once: "
            f"hf download {model}\n"
            f"  address:        https://huggingface.co/{model}"
        ) from error
    finally:
        if bars:
            logging.enable_progress_bar()
    wrong = [*report["missing_keys"], *map(str, report["mismatched_keys"])]
    if wrong:
        raise ItaclipError(
            f"{model}: {len(wrong)} tensor{'s' if len(wrong) > 1 else ''} missing or of a wrong shape: "
            f"{', '.join(sorted(wrong)[:3])}. The files are of another model, or damaged."
        )
    return loaded.requires_grad_(False).eval(), processor
