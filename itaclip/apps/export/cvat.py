"""CVAT for images 1.1: one XML file with a run-length encoded mask per class and image."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

from itaclip.apps.export.results import LabelledImage, Run
from itaclip.apps.export.target import Target


class CVATWriter:
    """Writes annotations.xml. Masks keep holes and every pixel; the background is left unlabelled.

    Args:
        target: receives the file.
        run: the results.
        scratch: folder for the file while it grows.
    """

    def __init__(self, target: Target, run: Run, scratch: Path) -> None:
        self._target, self._run, self._count = target, run, 0
        self._path = scratch / "annotations.xml"
        self._file = self._path.open("w", encoding="utf-8", newline="\n")
        self._file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n')
        self._file.write("  <meta><task><labels>\n")
        for label, (name, color) in enumerate(zip(run.names, run.colors, strict=True)):
            if label != run.background:
                code = "#" + "".join(f"{channel:02x}" for channel in color)
                self._file.write(
                    f"    <label><name>{escape(name)}</name><color>{code}</color><type>mask</type>"
                    "<attributes></attributes></label>\n"
                )
        self._file.write("  </labels></task></meta>\n")

    def add(self, image: LabelledImage) -> None:
        """Append an image."""
        assert image.labels is not None
        height, width = image.labels.shape
        self._file.write(
            f'  <image id="{self._count}" name={quoteattr(image.name)} width="{width}" height="{height}">\n'
        )
        for label in np.unique(image.labels).tolist():
            if label != self._run.background:
                top, left, crop = cropped(image.labels == label)
                runs = ", ".join(map(str, run_lengths(crop)))
                self._file.write(
                    f'    <mask label={quoteattr(self._run.names[label])} source="auto" occluded="0" rle="{runs}" '
                    f'left="{left}" top="{top}" width="{crop.shape[1]}" height="{crop.shape[0]}" z_order="0"></mask>\n'
                )
        self._file.write("  </image>\n")
        self._count += 1

    def finish(self) -> None:
        """Write the file."""
        self._file.write("</annotations>\n")
        self._file.close()
        self._target.copy("annotations.xml", self._path)


def cropped(mask: NDArray[np.bool_]) -> tuple[int, int, NDArray[np.bool_]]:
    """Crop a mask that is not empty to its smallest box: top row, left column, and the mask inside."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    return top, left, mask[top : rows[-1] + 1, left : columns[-1] + 1]


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """Measure the runs of a mask, row by row, alternating between 0 and 1; the first run is of zeros."""
    flat = mask.ravel()
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs: list[int] = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return [0, *runs] if flat[0] else runs
