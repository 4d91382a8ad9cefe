"""COCO JSON with run-length encoded masks: of one image, or of many in one file.

Ids follow from a rule, so results can be merged as long as they have the same classes and
different image ids:

* category id = value in the label map + 1, because many readers take 0 for "no category";
* annotation id = image id x number of classes + category id.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from itaclip.errors import ItaclipError
from itaclip.files import atomic_path
from itaclip.formats.segments import Segment, kept_labels, missing_package

INFO = {
    "description": "Masks by ITACLIP, one annotation per class and image. A category id is the value in the label "
    "map plus 1; an annotation id is image id x number of classes + category id."
}
"""The ``info`` of every file."""

_MARK = b'{"info": {"description": "Masks by ITACLIP'  # how earlier files of this program begin


@dataclass(frozen=True)
class CocoMask:
    """A class in an image.

    Attributes:
        label: class id.
        counts: COCO's compressed run lengths.
        area: in pixels.
        score: mean score over the mask, in [0, 1]; None if unknown.
    """

    label: int
    counts: str
    area: int
    score: float | None = None


def to_coco(
    segments: Sequence[Segment],
    names: Sequence[str],
    size: tuple[int, int],
    file_name: str,
    image_id: int,
    skip: Sequence[str] = (),
) -> dict[str, Any]:
    """Make a COCO data set of one image: one annotation per segment, in the given order.

    Args:
        segments: classes that occur.
        names: names of all K classes, in the order of their ids.
        size: height and width of the image in pixels.
        file_name: file name of the image.
        image_id: id of the image, 0 or more.
        skip: names of classes to leave out.

    Raises:
        ItaclipError: pycocotools is not installed, a negative image id, or an unknown class in `skip`.
    """
    if image_id < 0:
        raise ItaclipError(f"image_id = {image_id}: expected 0 or more.")
    kept = kept_labels(names, skip)
    masks = [
        CocoMask(segment.label, encoded(segment.mask), int(segment.mask.sum()), segment.score)
        for segment in segments
        if segment.label in kept
    ]
    return {
        "info": INFO,
        "images": [_image(image_id, file_name, size)],
        "categories": _categories(names, kept),
        "annotations": _annotations(image_id, len(names), size, masks),
    }


def encoded(mask: NDArray[np.bool_]) -> str:
    """Encode an H x W mask as COCO's compressed run lengths.

    Raises:
        ItaclipError: pycocotools is not installed.
    """
    counts: bytes = _rle().encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    return counts.decode("ascii")


class CocoFile:
    """Writes many images into one COCO file, in constant memory; the file appears when the block ends well.

    Args:
        path: the file, ending in ``.json``. An existing one is replaced only if it is from here.
        names: names of all K classes, in the order of their ids.
        skip: names of classes to leave out.

    Raises:
        ItaclipError: pycocotools is not installed, another ending, a file of other origin, or an
            unknown class in `skip`.
    """

    def __init__(self, path: Path, names: Sequence[str], skip: Sequence[str] = ()) -> None:
        _rle()
        check_target(path)
        self._path, self._names, self._kept = path, names, kept_labels(names, skip)
        self.images, self._any = 0, False

    def __enter__(self) -> CocoFile:
        with ExitStack() as stack:
            partial = stack.enter_context(atomic_path(self._path))
            self._file = stack.enter_context(partial.open("w", encoding="utf-8", newline="\n"))
            self._annotations = stack.enter_context(
                tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n", dir=self._path.parent)
            )
            head = {"info": INFO, "categories": _categories(self._names, self._kept)}
            self._file.write(json.dumps(head)[:-1] + ', "images": [')
            self._stack = stack.pop_all()
        return self

    def add(self, file_name: str, size: tuple[int, int], masks: Iterable[CocoMask]) -> None:
        """Add an image; images are numbered from 1.

        Args:
            file_name: file name of the image.
            size: height and width in pixels.
            masks: classes that occur.
        """
        self.images += 1
        self._file.write(("," if self.images > 1 else "") + "\n" + json.dumps(_image(self.images, file_name, size)))
        kept = (mask for mask in masks if mask.label in self._kept)
        for annotation in _annotations(self.images, len(self._names), size, kept):
            self._annotations.write(("," if self._any else "") + "\n" + json.dumps(annotation))
            self._any = True

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with self._stack:  # errors of writing become an ItaclipError there
            if error is not None:
                raise error
            self._file.write('\n], "annotations": [')
            self._annotations.seek(0)
            shutil.copyfileobj(self._annotations, self._file)
            self._file.write("\n]}\n")


def check_target(path: Path) -> None:
    """Check that a COCO file may be written: it ends in ``.json``, and replaces only a file from here.

    Raises:
        ItaclipError: it may not.
    """
    if path.suffix.lower() != ".json":
        raise ItaclipError(f"{path}: the COCO file must end in .json.")
    try:
        with path.open("rb") as file:
            begin = file.read(len(_MARK))
    except FileNotFoundError:
        return
    except OSError as error:
        raise ItaclipError(f"{path}: cannot be written ({error.strerror or error}).") from error
    check_begin(begin, str(path))


def check_begin(begin: bytes, name: str) -> None:
    """Check that an existing file begins as the COCO files from here do.

    Raises:
        ItaclipError: it does not.
    """
    if not begin.startswith(_MARK):
        raise ItaclipError(f"{name}: exists, and is no COCO file of this program; choose another name.")


def _rle() -> Any:
    try:
        from pycocotools import mask
    except ImportError:
        raise missing_package("COCO export", "pycocotools", "coco") from None
    return mask


def _image(image_id: int, file_name: str, size: tuple[int, int]) -> dict[str, Any]:
    height, width = size
    return {"id": image_id, "file_name": file_name, "height": height, "width": width}


def _categories(names: Sequence[str], kept: frozenset[int]) -> list[dict[str, Any]]:
    return [{"id": label + 1, "name": name} for label, name in enumerate(names) if label in kept]


def _annotations(
    image_id: int, classes: int, size: tuple[int, int], masks: Iterable[CocoMask]
) -> list[dict[str, Any]]:  # fmt: skip
    annotations = []
    for mask in masks:
        segmentation = {"size": list(size), "counts": mask.counts}
        box = _rle().toBbox({"size": list(size), "counts": mask.counts.encode("ascii")})
        annotation: dict[str, Any] = {
            "id": image_id * classes + mask.label + 1, "image_id": image_id, "category_id": mask.label + 1,
            "iscrowd": 0, "segmentation": segmentation, "area": mask.area, "bbox": [float(side) for side in box],
        }  # fmt: skip
        annotations.append(annotation if mask.score is None else annotation | {"score": mask.score})
    return annotations
