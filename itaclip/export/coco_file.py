"""A COCO file of many images, written piece by piece."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from itaclip.export.coco import to_coco
from itaclip.export.results import LabelledImage, Run
from itaclip.export.segments import Segment
from itaclip.export.target import Target


class COCOWriter:
    """Writes annotations.json: `itaclip.Result.to_coco` of every image, without the background.

    Args:
        target: receives the file.
        run: the results.
        scratch: folder for the file while it grows.
    """

    def __init__(self, target: Target, run: Run, scratch: Path) -> None:
        self._target, self._run, self._scratch = target, run, scratch
        self._images = self._annotations = 0
        categories = to_coco([], run.names, (1, 1), "", 0)["categories"]  # reports a missing package at once
        self._categories = [one for label, one in enumerate(categories) if label != run.background]
        self._image_lines = (scratch / "images").open("w", encoding="utf-8")
        self._lines = (scratch / "annotations").open("w", encoding="utf-8")

    def add(self, image: LabelledImage) -> None:
        """Append an image."""
        assert image.labels is not None
        segments = [
            Segment(label, self._run.names[label], image.labels == label, image.scores.get(label, np.nan))
            for label in np.unique(image.labels).tolist()
            if label != self._run.background
        ]
        height, width = image.labels.shape
        self._images += 1
        found = to_coco(segments, self._run.names, (height, width), image.name, self._images)
        self._image_lines.write(("," if self._images > 1 else "") + json.dumps(found["images"][0]) + "\n")
        for annotation in found["annotations"]:
            self._annotations += 1
            if not image.scores:
                del annotation["score"]
            line = json.dumps(annotation | {"id": self._annotations})
            self._lines.write(("," if self._annotations > 1 else "") + line + "\n")

    def finish(self) -> None:
        """Join the pieces."""
        self._image_lines.close()
        self._lines.close()
        path = self._scratch / "whole"
        with path.open("w", encoding="utf-8", newline="\n") as whole:
            for key in ("images", "annotations"):
                whole.write(("{" if key == "images" else ",") + f'"{key}": [\n')
                with (self._scratch / key).open(encoding="utf-8") as lines:
                    whole.writelines(lines)
                whole.write("]")
            whole.write(f',"categories": {json.dumps(self._categories, ensure_ascii=False)}}}\n')
        self._target.copy("annotations.json", path)
