"""Export the results of a whole run to the format of another program."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from itaclip.apps.export.coco import COCOWriter
from itaclip.apps.export.cvat import CVATWriter
from itaclip.apps.export.results import LabelledImage, Run, open_run
from itaclip.apps.export.target import Target, new_target
from itaclip.apps.export.voc import VOCWriter
from itaclip.apps.export.yolo import YOLOWriter
from itaclip.errors import ItaclipError, did_you_mean


class Writer(Protocol):
    """A format: receives images one by one."""

    def add(self, image: LabelledImage) -> None:
        """Write an image that has labels."""

    def finish(self) -> None:
        """Write what needs all images."""


FORMATS: dict[str, Callable[[Target, Run, Path, float], Writer]] = {
    "cvat": lambda target, run, scratch, tolerance: VOCWriter(target, run, "default"),
    "cvat-images": lambda target, run, scratch, tolerance: CVATWriter(target, run, scratch),
    "voc": lambda target, run, scratch, tolerance: VOCWriter(target, run),
    "yolo": lambda target, run, scratch, tolerance: YOLOWriter(target, run, tolerance),
    "coco": lambda target, run, scratch, tolerance: COCOWriter(target, run, scratch),
}
"""Makes a writer from a target, the results, a folder for temporary files and the tolerance of polygons."""


@dataclass
class ExportReport:
    """Summary of an export.

    Attributes:
        images: number of exported images.
        failed: why an image was left out, by name.
    """

    images: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def export_run(
    folder: str | os.PathLike[str],
    format: str,
    out: str | os.PathLike[str],
    tolerance: float = 1.0,
    advance: Callable[[int], None] = lambda _: None,
) -> ExportReport:
    """Export the results of `itaclip segment` or `itaclip label`, an image at a time.

    `out` appears only when it is complete. Images without labels are left out and reported.

    Args:
        folder: ``--out`` of the run.
        format: one of `FORMATS`.
        out: a new archive if the name ends with ``.zip``, else a new folder.
        tolerance: for polygons (yolo), how far in pixels an outline may deviate from the pixel edges.
        advance: called with 1 after every image.

    Raises:
        ItaclipError: no results, an unknown format, `out` exists or cannot be written, a class name that
            the format cannot hold, or no image with labels.
    """
    if format not in FORMATS:
        raise ItaclipError(f"format {format!r}: expected one of {', '.join(FORMATS)}.{did_you_mean(format, FORMATS)}")
    run = open_run(folder)
    report = ExportReport()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch, new_target(Path(out)) as target:
        writer = FORMATS[format](target, run, Path(scratch), tolerance)
        for image in run.images:
            try:
                if image.labels is None:
                    raise ItaclipError(image.error or "no labels")
                writer.add(image)
                report.images += 1
            except ItaclipError as error:
                report.failed[image.name] = str(error)
            advance(1)
        if not report.images:
            reason = next((f" The first: {name}: {why}" for name, why in report.failed.items()), "")
            raise ItaclipError(f"{folder}: contains no image with labels.{reason}")
        writer.finish()
    return report
