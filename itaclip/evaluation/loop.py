"""The evaluation loop: batches in, counts and pictures out; a bad image does not end it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine import dist
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset

from itaclip.evaluation.counts import IoUCounts
from itaclip.figures import result_figure, save_mask
from itaclip.files import atomic_path
from itaclip.openmmlab import ITACLIPSegmentor


@dataclass
class Outcome:
    """What a run leaves behind besides its files.

    Attributes:
        counts: summed over all processes.
        images: how many were evaluated.
        skipped: path and reason of every image that could not be.
        seconds: spent in the model, summed over images of this process.
    """

    counts: IoUCounts
    images: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class _Failure:
    """An image that could not be loaded."""

    path: str
    reason: str


class _Guarded(Dataset[Any]):
    """A data set whose broken items come back as failures instead of ending the loader."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        try:
            return self._dataset[index]
        except Exception as error:  # decoders and transforms raise whatever they like
            path = self._dataset.get_data_info(index).get("img_path", f"image {index}")
            reason = "cannot be decoded" if isinstance(error, AttributeError) else f"{type(error).__name__}: {error}"
            return _Failure(str(path), reason.splitlines()[0])


def evaluate(
    model: ITACLIPSegmentor,
    dataset: Any,
    *,
    batch_size: int = 1,
    num_workers: int = 0,
    limit: int | None = None,
    masks_to: Path | None = None,
    overlays_to: Path | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Segment a data set and count.

    Args:
        model: on its device.
        dataset: MMSegmentation's, in test mode.
        batch_size: images per step; they may differ in size.
        num_workers: loading processes; 0 loads in this one.
        limit: only the first images.
        masks_to: folder for label maps, PNG under each image's own name.
        overlays_to: folder for image, truth, result and legend, side by side.
        advance: told how many images were done, for progress.
    """
    world = dist.get_world_size()
    outcome = Outcome(IoUCounts(len(dataset.metainfo["classes"])))
    for batch, skipped in batches(dataset, batch_size, num_workers, limit):
        outcome.skipped += skipped
        count = len(batch["inputs"])
        if count:
            began = time.perf_counter()
            samples = model.test_step(batch)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            outcome.seconds += time.perf_counter() - began
            for sample in samples:
                predicted = sample.pred_sem_seg.data[0]
                outcome.counts.add(predicted, sample.gt_sem_seg.data[0])
                _write_pictures(sample, predicted.cpu().numpy(), dataset, masks_to, overlays_to)
            outcome.images += count
        advance((count + len(skipped)) * world)
    outcome.counts.add_from_other_processes()
    gathered = dist.all_gather_object((outcome.images, outcome.skipped)) if world > 1 else []
    if gathered:
        outcome.images = sum(images for images, _ in gathered)
        outcome.skipped = [pair for _, pairs in gathered for pair in pairs]
    return outcome


def batches(
    dataset: Any, batch_size: int, num_workers: int, limit: int | None
) -> Iterator[tuple[dict[str, list[Any]], list[tuple[str, str]]]]:
    """This process's share of a data set: no image twice, none left out.

    Yields:
        A batch as a data preprocessor takes it, of images that could be loaded; and path
        and reason of those that could not.
    """
    last = len(dataset) if limit is None else min(limit, len(dataset))
    loader: DataLoader[Any] = DataLoader(
        Subset(_Guarded(dataset), range(dist.get_rank(), last, dist.get_world_size())),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=list,
    )
    for batch in loader:
        items = [item for item in batch if not isinstance(item, _Failure)]
        skipped = [(item.path, item.reason) for item in batch if isinstance(item, _Failure)]
        yield {key: [item[key] for item in items] for key in ("inputs", "data_samples")}, skipped


def _write_pictures(
    sample: Any, predicted: NDArray[np.int64], dataset: Any, masks_to: Path | None, overlays_to: Path | None
) -> None:
    name = _own_name(sample.img_path, dataset)
    if masks_to:
        with atomic_path((masks_to / name).with_suffix(".png")) as partial:
            save_mask(predicted, dataset.metainfo["palette"], partial)
    if overlays_to:
        truth = sample.gt_sem_seg.data[0].cpu().numpy()
        with Image.open(sample.img_path) as opened:
            image = np.asarray(opened.convert("RGB"))
        if image.shape[:2] != predicted.shape:  # a rotated file, as OpenCV shows it
            image = np.asarray(Image.fromarray(image).resize(predicted.shape[::-1]))
        classes, colors = dataset.metainfo["classes"], dataset.metainfo["palette"]
        with atomic_path((overlays_to / name).with_suffix(".png")) as partial:
            result_figure(image, predicted, classes, truth, colors).save(partial)


def _own_name(path: str, dataset: Any) -> Path:
    """The image's path below its data set's image folder, never outside it."""
    try:
        return Path(path).resolve().relative_to(Path(dataset.data_prefix["img_path"]).resolve())
    except (ValueError, KeyError):
        return Path(Path(path).name)
