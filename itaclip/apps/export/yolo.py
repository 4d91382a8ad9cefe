"""YOLO's segmentation text: a line per polygon, with corners as shares of the width and height."""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from itaclip.apps.export.results import LabelledImage, Run
from itaclip.apps.export.target import Stems, Target, checked_name
from itaclip.formats.polygons import Polygon, polygons_of


class YOLOWriter:
    """Writes labels/NAME.txt per image, and data.yaml with the class names.

    Put the images into the folder images beside labels. The background has no number, the
    other classes count from 0. The format has no holes: a slit of no width joins a hole to the outline.

    Args:
        target: receives the files.
        run: the results.
        tolerance: see `itaclip.formats.polygons.polygons_of`.
    """

    def __init__(self, target: Target, run: Run, tolerance: float = 1.0) -> None:
        self._target, self._tolerance = target, tolerance
        self._stems = Stems()
        labels = [label for label in range(len(run.names)) if label != run.background]
        self._number = {label: number for number, label in enumerate(labels)}
        polygons_of(np.ones((1, 1), bool), tolerance)  # report a bad tolerance before the first image
        quoted = {number: json.dumps(run.names[label], ensure_ascii=False) for label, number in self._number.items()}
        names = "\n".join(f"  {number}: {name}" for number, name in quoted.items())
        target.write("data.yaml", f"train: images\nval: images\nnames:\n{names}\n".encode())

    def add(self, image: LabelledImage) -> None:
        """Write the polygons of an image."""
        assert image.labels is not None
        stem = self._stems.add(checked_name(image.name))
        height, width = image.labels.shape
        lines = []
        for label in np.unique(image.labels).tolist():
            if label in self._number:
                for polygon in polygons_of(image.labels == label, self._tolerance):
                    corners = (joined(polygon) / (width, height)).ravel()
                    lines.append(" ".join([str(self._number[label]), *(f"{share:.6f}" for share in corners)]))
        self._target.write(f"labels/{stem}.txt", "\n".join([*lines, ""] if lines else []).encode())

    def finish(self) -> None:
        """Do nothing: nothing is left to write."""


def joined(polygon: Polygon) -> NDArray[np.int32]:
    """Join the outline of a polygon and its holes into a single ring: a slit of no width leads to every hole and back.

    The slit starts at the outline's corner nearest to the hole's first one. Slits enclose nothing, so
    they may cross each other.
    """
    outline, *holes = polygon
    detours: dict[int, list[NDArray[np.int32]]] = {}
    for hole in holes:
        at = int(((outline.astype(np.int64) - hole[0]) ** 2).sum(axis=1).argmin())
        detours.setdefault(at, []).append(np.concatenate([hole, hole[:1], outline[at : at + 1]]))
    cuts = sorted(detours)
    pieces = np.split(outline, [at + 1 for at in cuts])
    parts = [pieces[0]]
    for at, piece in zip(cuts, pieces[1:], strict=True):
        parts += [*detours[at], piece]
    return np.concatenate(parts)
