"""A COCO file of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from itaclip.apps.export.results import LabelledImage, Run
from itaclip.apps.export.target import Target
from itaclip.formats.coco import CocoFile, CocoMask, encoded


class COCOWriter:
    """Writes annotations.json, a `itaclip.formats.coco.CocoFile`; the background is left unlabelled.

    Args:
        target: receives the file.
        run: the results.
        scratch: folder for the file while it grows.

    Raises:
        ItaclipError: pycocotools is not installed.
    """

    def __init__(self, target: Target, run: Run, scratch: Path) -> None:
        self._target, self._background = target, run.background
        self._path = scratch / "annotations.json"
        skip = [] if run.background is None else [run.names[run.background]]
        self._file = CocoFile(self._path, run.names, skip).__enter__()

    def add(self, image: LabelledImage) -> None:
        """Append an image."""
        assert image.labels is not None
        masks = []
        for label in np.unique(image.labels).tolist():
            if label != self._background:
                mask = image.labels == label
                masks.append(CocoMask(label, encoded(mask), int(mask.sum()), image.scores.get(label)))
        height, width = image.labels.shape
        self._file.add(image.name, (height, width), masks)

    def finish(self) -> None:
        """Write the file."""
        self._file.__exit__(None, None, None)
        self._target.copy("annotations.json", self._path)
