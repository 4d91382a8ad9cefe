"""The result of a segmentation: labels, names, scores, areas, overlays and exports."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from itaclip.common import figures
from itaclip.core.scores import Scores
from itaclip.core.text.class_names import BACKGROUND_NAME
from itaclip.errors import ItaclipError, did_you_mean
from itaclip.files import atomic_path, refuse_inputs, write_json
from itaclip.formats import coco, fiftyone, label_studio, supervision
from itaclip.formats.hugging_face import to_hf
from itaclip.formats.polygons import polygons_of, to_geojson
from itaclip.formats.segments import Segment, iterate_segments, kept_labels, segments_of

if TYPE_CHECKING:
    from fiftyone import Segmentation
    from supervision import Detections


@dataclass(frozen=True, eq=False)
class Result:
    """One segmented image. Treat the arrays as read-only.

    Attributes:
        image: H x W x 3 uint8 RGB, as read.
        labels: H x W int32 class ids, indices into `names`.
        names: K unique class names.
        scores: class scores: of the label of every pixel, and of the two best classes, or as many as were asked
            for; h x w is H x W, or smaller for images larger than the working size.
        colors: K RGB colours in 0..255.
        source: the image file, or None for an image from memory.
        background: False if a class named "background" is a class like any other, not "none of these".
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.int32]
    names: tuple[str, ...]
    scores: Scores[NDArray[Any]]
    colors: Sequence[Sequence[int]]
    source: Path | None = None
    background: bool = True

    def __post_init__(self) -> None:
        if len(set(self.names)) < len(self.names):
            name = next(name for i, name in enumerate(self.names) if name in self.names[:i])
            raise ItaclipError(f"two classes are named {name!r}: areas and masks are found by name; rename one.")

    @cached_property
    def areas(self) -> dict[str, float]:
        """Share of the image, in (0, 1], of every class that occurs, largest first."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.names))
        order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
        return {self.names[i]: float(counts[i] / self.labels.size) for i in order}

    def mask(self, name: str | int) -> NDArray[np.bool_]:
        """Mask of a class: H x W bool.

        Raises:
            ItaclipError: no class has this name or number.
        """
        mask: NDArray[np.bool_] = self.labels == self._id(name)
        return mask

    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """Return masks of the classes that occur, H x W bool each, by name, largest first."""
        return {name: self.mask(name) for name in self.areas}

    def score_map(self, name: str | int) -> NDArray[np.float32]:
        """Score of a class at every pixel: H x W float32 in [0, 1], if the scores of all classes were asked for.

        Raises:
            ItaclipError: no class has this name or number, or the segmenter was not called with ``scores="full"``.
        """
        scores: NDArray[np.float32] = self.scores.of(self._id(name))
        height, width = self.labels.shape
        if scores.shape != self.labels.shape:
            scores = cv2.resize(scores, (width, height), interpolation=cv2.INTER_LINEAR)
        return scores

    def overlay(self, legend: bool = True, opacity: float = 0.55) -> Image.Image:
        """Draw the image with coloured classes, next to a legend with names and shares."""
        picture = Image.fromarray(figures.overlay(self.image, self.labels, self.colors, opacity))
        if not legend:
            return picture
        return figures.with_legend(picture, self.labels, self.names, self.colors)

    def summary(self) -> dict[str, Any]:
        """Summarise size, names and areas as JSON-serialisable values."""
        return {
            "image": str(self.source) if self.source else None,
            "height": self.labels.shape[0],
            "width": self.labels.shape[1],
            "classes": list(self.names),
            "areas": {name: round(share, 6) for name, share in self.areas.items()},
        }

    # --- formats of other programs ---------------------------------------------

    def to_coco(self, image_id: int = 0, skip: Sequence[str] = ()) -> dict[str, Any]:
        """Make a COCO data set of this image: one annotation with an RLE mask per class that occurs.

        A category id is the class id plus 1, an annotation id ``image_id * K + category_id``. Results
        with the same classes and different image ids can thus be merged: concatenate their images
        and annotations. Scores are means over the mask; the largest class comes first.

        Args:
            image_id: id of the image, 0 or more.
            skip: names of classes to leave out, such as ``["background"]``.

        Raises:
            ItaclipError: pycocotools is not installed (the extra "coco"), a negative image id, or
                an unknown class in `skip`.
        """
        segments = sorted(self._segments(), key=lambda segment: -int(segment.mask.sum()))
        name = self.source.name if self.source else f"{image_id}"
        return coco.to_coco(segments, self.names, self._size, name, image_id, skip)

    def to_supervision(self) -> Detections:
        """Make `supervision.Detections` with a box, a mask, a mean score and a name per class that occurs.

        ``class_id`` holds class ids and ``data["class_name"]`` names, in label order. Masks are
        `supervision.CompactMask` where supervision has it; ``mask.to_dense()`` gives N x H x W bool.

        Raises:
            ItaclipError: supervision is not installed (the extra "supervision").
        """
        return supervision.to_supervision(iterate_segments(self.labels, self.names, self.scores.own))

    def to_fiftyone(self, start: int = 0) -> Segmentation:
        """Make a `fiftyone.Segmentation` with the label map as its mask: uint8, or uint16 for values above 255.

        To name the values in a data set, set
        ``dataset.default_mask_targets = dict(enumerate(result.names, start))``. The FiftyOne App
        does not draw the value 0: pass ``start=1`` for classes without a background.

        Args:
            start: value of the first class.

        Raises:
            ItaclipError: fiftyone is not installed (the extra "fiftyone"), or a negative start.
        """
        return fiftyone.to_fiftyone(self.labels, start)

    def to_label_studio(
        self,
        from_name: str = "tag",
        to_name: str = "image",
        skip: Sequence[str] | None = None,
        model_version: str = "itaclip",
    ) -> dict[str, Any]:
        """Make a prediction for a Label Studio task: a brush mask per class that occurs. Needs no extra package.

        Args:
            from_name: name of the ``BrushLabels`` tag in the labelling configuration.
            to_name: name of its ``Image`` tag.
            skip: names of classes to leave out; None leaves out the background.
            model_version: shown next to the prediction.

        Returns:
            An entry for a task's ``predictions``, JSON-serialisable.

        Raises:
            ItaclipError: an unknown class in `skip`, or a text instead of a list.
        """
        if skip is None:
            skip = [BACKGROUND_NAME] if self.background else []
        kept = kept_labels(self.names, skip)
        segments = [segment for segment in self._segments() if segment.label in kept]
        return label_studio.to_label_studio(segments, self._size, from_name, to_name, model_version)

    def polygons(self, name: str | int, tolerance: float = 1.0) -> list[list[NDArray[np.int32]]]:
        """Trace the outlines of a class: for each connected component the outer ring, then its holes.

        Args:
            name: the class name or number.
            tolerance: how far, in pixels, an outline may deviate from the pixel edges; 0 is exact.

        Returns:
            Rings as N x 2 int32 corners (x, y), x in 0..W and y in 0..H; the first corner is not repeated.

        Raises:
            ItaclipError: no class has this name or number, or the tolerance is negative.
        """
        return polygons_of(self.mask(name), tolerance)

    def to_geojson(self, tolerance: float = 1.0) -> dict[str, Any]:
        """Make a GeoJSON ``FeatureCollection``: a ``MultiPolygon`` with holes per class, in pixels, y pointing down.

        Properties are ``name``, ``label``, ``score`` (mean over the class), ``area`` (pixels)
        and ``color`` (RGB).

        Args:
            tolerance: see `polygons`.

        Raises:
            ItaclipError: a negative tolerance.
        """
        return to_geojson(self._segments(), self.colors, self._size, tolerance)

    def to_hf(self) -> list[dict[str, Any]]:
        """Convert to the output format of Transformers' image-segmentation pipeline, in label order.

        Each class that occurs has a ``score`` (mean over the class, in [0, 1]), a ``label`` (its
        name) and a ``mask`` (PIL image of mode "L", 255 inside the class and 0 outside).
        """
        return to_hf(self._segments())

    @property
    def _size(self) -> tuple[int, int]:
        height, width = self.labels.shape
        return height, width

    def _segments(self) -> list[Segment]:
        return segments_of(self.labels, self.names, self.scores.own)

    # --- files -------------------------------------------------------------------

    def save(self, folder: str | Path, stem: str | None = None) -> dict[str, Path]:
        """Write mask, overlay and summary, each atomically.

        A second save replaces the first. Nothing else is replaced: not the image itself, nor a
        mask or an annotation that happens to have one of the names.

        Args:
            folder: created if missing.
            stem: file name without extension; by default that of the image file.

        Returns:
            Paths by kind: ``mask`` (paletted PNG of class ids, readable by MMSegmentation;
            16-bit greyscale above 256 classes), ``overlay`` (PNG), ``json``.

        Raises:
            ItaclipError: the folder cannot be written, an image from memory has no stem, or a file
                that is not from an earlier save would be replaced.
        """
        if stem is None:
            if self.source is None:
                raise ItaclipError("save(): an image from memory has no file name; pass one: save(folder, stem).")
            stem = self.source.stem
        base = Path(folder)
        paths = {
            "mask": base / f"{stem}.png",
            "overlay": base / f"{stem}_overlay.png",
            "json": base / f"{stem}.json",
        }
        self._check_free(paths)
        with atomic_path(paths["mask"]) as partial:
            figures.save_mask(self.labels, self.colors, partial)
        with atomic_path(paths["overlay"]) as partial:
            self.overlay().save(partial)
        write_json(paths["json"], self.summary())
        return paths

    def _check_free(self, paths: dict[str, Path]) -> None:
        """Check that the files of `save` replace nothing but those of an earlier save, which the JSON shows.

        Raises:
            ItaclipError: they do.
        """
        remedy = "pass another name, such as save(folder, stem='name'), or another folder"
        if self.source is not None:
            refuse_inputs(paths.values(), [self.source], remedy)
        try:
            saved = json.loads(paths["json"].read_bytes())
        except (OSError, ValueError):
            saved = None
        if isinstance(saved, dict) and self.summary().keys() <= saved.keys():
            return
        for path in paths.values():
            if os.path.lexists(path):
                raise ItaclipError(f"{path}: exists, and is not from an earlier save(); {remedy}.")

    def _id(self, name: str | int) -> int:
        if isinstance(name, (int, np.integer)) and not isinstance(name, bool) and 0 <= name < len(self.names):
            return int(name)
        if name in self.names:
            return self.names.index(str(name))
        raise ItaclipError(f"no class {name!r}.{did_you_mean(str(name), self.names)} Classes: {', '.join(self.names)}.")

    def _repr_png_(self) -> bytes:
        """Show the overlay in notebooks."""
        buffer = io.BytesIO()
        self.overlay().save(buffer, "PNG")
        return buffer.getvalue()

    def __repr__(self) -> str:
        height, width = self.labels.shape
        shares = json.dumps({name: f"{share:.1%}" for name, share in self.areas.items()}, ensure_ascii=False)
        return f"Result({height} x {width}, {shares})"
