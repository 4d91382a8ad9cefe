"""What a segmentation gives: labels, names, scores, areas, pictures and exports."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from itaclip import figures
from itaclip.errors import ItaclipError, did_you_mean
from itaclip.files import atomic_path, write_json


@dataclass(frozen=True, eq=False)
class Result:
    """One segmented image. Arrays are to be read, not written.

    Attributes:
        image: H x W x 3 uint8 RGB, as it was read.
        labels: H x W int32 class ids, places in `names`.
        names: K class names.
        scores: K x h x w float32 in [0, 1], class scores; h x w is H x W, or smaller for
            images beyond the working size.
        colors: K RGB colours in 0..255.
        source: where the image came from, when it was a file.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.int32]
    names: tuple[str, ...]
    scores: NDArray[np.float32]
    colors: Sequence[Sequence[int]]
    source: Path | None = None

    @cached_property
    def areas(self) -> dict[str, float]:
        """Share of the image, in (0, 1], of every class that occurs; the largest first."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.names))
        order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
        return {self.names[i]: float(counts[i] / self.labels.size) for i in order}

    def mask(self, name: str | int) -> NDArray[np.bool_]:
        """Where a class lies: H x W.

        Raises:
            ItaclipError: no class of this name or number.
        """
        mask: NDArray[np.bool_] = self.labels == self._id(name)
        return mask

    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """Masks of the classes that occur, H x W each, by name; the largest first."""
        return {name: self.mask(name) for name in self.areas}

    def score_map(self, name: str | int) -> NDArray[np.float32]:
        """Score of a class at every pixel: H x W float32 in [0, 1].

        Raises:
            ItaclipError: no class of this name or number.
        """
        scores = self.scores[self._id(name)]
        height, width = self.labels.shape
        if scores.shape != self.labels.shape:
            scores = cv2.resize(scores, (width, height), interpolation=cv2.INTER_LINEAR)
        return scores

    def overlay(self, legend: bool = True, opacity: float = 0.55) -> Image.Image:
        """The image with coloured classes, and beside it a legend with names and shares."""
        picture = Image.fromarray(figures.overlay(self.image, self.labels, self.colors, opacity))
        if not legend:
            return picture
        return figures.with_legend(picture, self.labels, self.names, self.colors)

    def summary(self) -> dict[str, Any]:
        """Size, names and areas, ready for JSON."""
        return {
            "image": str(self.source) if self.source else None,
            "height": self.labels.shape[0],
            "width": self.labels.shape[1],
            "classes": list(self.names),
            "areas": {name: round(share, 6) for name, share in self.areas.items()},
        }

    def coco(self, image_id: int = 0) -> dict[str, Any]:
        """The image as a COCO data set: one annotation with RLE mask per class that occurs.

        Category ids are label numbers; class scores are means over the mask.

        Raises:
            ItaclipError: pycocotools is not installed.
        """
        try:
            from pycocotools import mask as rle
        except ImportError:
            raise ItaclipError("COCO export needs pycocotools: pip install 'itaclip[coco]'.") from None
        annotations: list[dict[str, Any]] = []
        for name, mask in self.masks().items():
            encoded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image_id, "category_id": self._id(name), "iscrowd": 0,
                    "segmentation": {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")},
                    "area": int(mask.sum()), "bbox": [float(side) for side in rle.toBbox(encoded)],
                    "score": float(self.score_map(name)[mask].mean()),
                }
            )  # fmt: skip
        height, width = self.labels.shape
        name = self.source.name if self.source else f"{image_id}"
        return {
            "images": [{"id": image_id, "file_name": name, "height": height, "width": width}],
            "categories": [{"id": i, "name": name} for i, name in enumerate(self.names)],
            "annotations": annotations,
        }

    def save(self, folder: str | Path, stem: str | None = None) -> dict[str, Path]:
        """Write mask, overlay and summary, each whole or not at all.

        Args:
            folder: made when missing.
            stem: name without ending; by default the image file's own.

        Returns:
            Paths by kind: ``mask`` (PNG of class ids with a palette, as MMSegmentation
            reads it; 16-bit grey above 256 classes), ``overlay`` (PNG), ``json``.

        Raises:
            ItaclipError: the folder cannot be written, or no stem for an image from memory.
        """
        if stem is None:
            if self.source is None:
                raise ItaclipError("save(): the image came from memory, so give its files a name: save(folder, stem).")
            stem = self.source.stem
        base = Path(folder)
        paths = {
            "mask": base / f"{stem}.png",
            "overlay": base / f"{stem}_overlay.png",
            "json": base / f"{stem}.json",
        }
        with atomic_path(paths["mask"]) as partial:
            figures.save_mask(self.labels, self.colors, partial)
        with atomic_path(paths["overlay"]) as partial:
            self.overlay().save(partial)
        write_json(paths["json"], self.summary())
        return paths

    def _id(self, name: str | int) -> int:
        if isinstance(name, int) and 0 <= name < len(self.names):
            return name
        if name in self.names:
            return self.names.index(str(name))
        raise ItaclipError(f"no class {name!r}.{did_you_mean(str(name), self.names)} Classes: {', '.join(self.names)}.")

    def _repr_png_(self) -> bytes:
        """Notebooks show the overlay."""
        buffer = io.BytesIO()
        self.overlay().save(buffer, "PNG")
        return buffer.getvalue()

    def __repr__(self) -> str:
        height, width = self.labels.shape
        shares = json.dumps({name: f"{share:.1%}" for name, share in self.areas.items()}, ensure_ascii=False)
        return f"Result({height} x {width}, {shares})"
