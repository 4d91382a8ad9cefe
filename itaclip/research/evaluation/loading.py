"""Load the images of a data set in batches; report and skip those that cannot be loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

import itaclip.research.openmmlab  # a loading process started afresh cannot import mmseg without it
from itaclip.common.images import ImageTooLargeError, ReadOptions, check_for_opencv
from itaclip.common.images.orientation import TURNS, stored_orientation, turn_remedy
from itaclip.errors import ItaclipError
from itaclip.research.openmmlab.loading import loading_of

_LOADER = "dict(type='ITACLIPLoadImage', value_range=...)"


@dataclass(frozen=True)
class _Failure:
    """An image that could not be loaded."""

    path: str
    reason: str


class _Guarded(Dataset[Any]):
    """A data set that returns failures for broken items instead of stopping the loader."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        steps = getattr(getattr(dataset, "pipeline", None), "transforms", [])
        self._by_opencv = not any(isinstance(step, itaclip.research.openmmlab.ITACLIPLoadImage) for step in steps)
        self._loading = loading_of(dataset)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        info = self._dataset.get_data_info(index)
        path = str(info.get("img_path", f"image {index}"))
        try:
            if self._by_opencv:
                _check_image(path)
            item = self._dataset[index]
            _check_mask(item["data_samples"], path)
            item["data_samples"].set_metainfo({"loading": self._loading})  # for region maps
            return item
        except FileNotFoundError as error:
            return _Failure(path, f"its {'mask' if error.filename == info.get('seg_map_path') else 'file'} is missing")
        except Exception as error:  # decoders and transforms raise all kinds of exceptions
            return _Failure(path, _reason(error))


def _reason(error: Exception) -> str:
    if isinstance(error, ItaclipError):
        return str(error)
    if isinstance(error, AttributeError):  # OpenCV returns None, and the next step fails
        return "cannot be decoded"
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _check_image(path: str) -> None:
    """Reject images that OpenCV would accept and read wrongly: truncated ones, whose missing part it fills with
    grey; dark ones of more than 8 bits; and huge ones that would fill the memory."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return  # the data set may read other locations itself
    try:
        check_for_opencv(content, path, ReadOptions(limit=f"largest= of {_LOADER}, ITACLIP_LARGEST in the environment"))
    except ImageTooLargeError:
        raise
    except ItaclipError as error:
        if isinstance(error.__cause__, Exception):  # damaged
            raise
        raise ItaclipError(f"{error} In an evaluation, put {_LOADER} in the place of LoadImageFromFile.") from None


def _check_mask(sample: Any, path: str) -> None:
    found, expected = tuple(sample.gt_sem_seg.shape), tuple(sample.ori_shape)
    if found != expected:
        turned = stored_orientation(path) if found == expected[::-1] and Path(path).is_file() else 1
        remedy = f". {turn_remedy(turned)}" if turned in TURNS else ""
        raise ItaclipError(
            f"the mask is {found[0]} x {found[1]}, but the image is {expected[0]} x {expected[1]}{remedy}"
        )


def plan_batches(images: int, batch_size: int, limit: int | None = None) -> list[range]:
    """Plan the indices of the images of each batch. They do not depend on the number of processes: images
    of a batch share encoder passes, and regrouping them can change the last bit of a logit."""
    last = images if limit is None else min(limit, images)
    return [range(first, min(first + batch_size, last)) for first in range(0, last, batch_size)]


def load_batches(
    dataset: Any, plan: Sequence[Sequence[int]], num_workers: int
) -> Iterator[tuple[dict[str, list[Any]], list[tuple[str, str]]]]:
    """Load the images of a plan.

    Yields:
        A batch, ready for a data preprocessor, of the images that could be loaded; and path and
        reason for those that could not.

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
        except RuntimeError as error:  # not raised for images that cannot be loaded
            raise ItaclipError(
                "a process that loads images was killed, possibly because memory ran out; lower "
                f"test_dataloader.num_workers ({str(error).splitlines()[0]})."
            ) from error
        items = [item for item in batch if not isinstance(item, _Failure)]
        skipped = [(item.path, item.reason) for item in batch if isinstance(item, _Failure)]
        yield {key: [item[key] for item in items] for key in ("inputs", "data_samples")}, skipped
