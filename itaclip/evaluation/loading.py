"""Images of a data set, batch by batch; those that cannot be loaded are named and passed over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, UnidentifiedImageError
from torch.utils.data import DataLoader, Dataset

import itaclip.openmmlab  # noqa: F401 - a loading process started afresh cannot import mmseg without it
from itaclip.core.images import LARGEST
from itaclip.errors import ItaclipError


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
        path = str(self._dataset.get_data_info(index).get("img_path", f"image {index}"))
        try:
            _check_image(path)
            item = self._dataset[index]
            _check_mask(item["data_samples"])
            return item
        except Exception as error:  # decoders and transforms raise whatever they like
            return _Failure(path, _reason(error))


def _reason(error: Exception) -> str:
    if isinstance(error, ItaclipError):
        return str(error)
    if isinstance(error, AttributeError):  # OpenCV gives None, and the next step fails
        return "cannot be decoded"
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _check_image(path: str) -> None:
    """Refuse what OpenCV would take: images of a size that fills the memory, and cut off ones,
    whose missing part it paints grey."""
    try:
        with Image.open(path) as opened:
            width, height = opened.size
            if width * height > LARGEST:
                raise Image.DecompressionBombError(f"{width} x {height} pixels, at most {LARGEST:,} are taken")
            opened.load()
    except (UnidentifiedImageError, FileNotFoundError):
        return  # other formats and places are the data set's own business


def _check_mask(sample: Any) -> None:
    found, expected = tuple(sample.gt_sem_seg.shape), tuple(sample.ori_shape)
    if found != expected:
        raise ItaclipError(f"its mask is {found[0]} x {found[1]}, the image {expected[0]} x {expected[1]}")


def plan_batches(images: int, batch_size: int, limit: int | None = None) -> list[range]:
    """Images by batch. The number of processes has no say: images of one batch share encoder
    passes, and another company can change the last bit of a logit."""
    last = images if limit is None else min(limit, images)
    return [range(first, min(first + batch_size, last)) for first in range(0, last, batch_size)]


def load_batches(
    dataset: Any, plan: Sequence[Sequence[int]], num_workers: int
) -> Iterator[tuple[dict[str, list[Any]], list[tuple[str, str]]]]:
    """Load the images of a plan.

    Yields:
        A batch as a data preprocessor takes it, of images that could be loaded; and path
        and reason of those that could not.

    Raises:
        ItaclipError: a loading process was killed.
    """
    sampler = [list(batch) for batch in plan]
    loader: DataLoader[Any] = DataLoader(
        _Guarded(dataset), batch_sampler=sampler, num_workers=num_workers, collate_fn=list
    )
    loaded = iter(loader)
    for _ in plan:
        try:
            batch = next(loaded)
        except RuntimeError as error:  # images that cannot be loaded are no errors here
            raise ItaclipError(
                "a process that loads images was killed, perhaps for want of memory; set a smaller "
                f"test_dataloader.num_workers ({str(error).splitlines()[0]})."
            ) from error
        items = [item for item in batch if not isinstance(item, _Failure)]
        skipped = [(item.path, item.reason) for item in batch if isinstance(item, _Failure)]
        yield {key: [item[key] for item in items] for key in ("inputs", "data_samples")}, skipped
