"""Pascal VOC's folders, which CVAT calls "Segmentation mask 1.1"."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from itaclip.apps.export.results import LabelledImage, Run
from itaclip.apps.export.target import Stems, Target, checked_name
from itaclip.errors import ItaclipError

_INDICES = 256


class VOCWriter:
    """Writes label maps in colours, with the list of colours.

    labelmap.txt                         NAME:R,G,B::
    SegmentationClass/NAME.png           the colour of every pixel's class; black is the background
    ImageSets/Segmentation/SUBSET.txt    the names

    Masks keep holes and every pixel. A file has a palette for up to 256 classes, and is RGB above that.

    Args:
        target: receives the files.
        run: the results.
        subset: name of the list of images.

    Raises:
        ItaclipError: a class name that labelmap.txt cannot hold.
    """

    def __init__(self, target: Target, run: Run, subset: str = "train") -> None:
        self._target, self._subset = target, subset
        self._stems = Stems()
        self._listed: list[str] = []
        self._colors = [(0, 0, 0) if label == run.background else color for label, color in enumerate(run.colors)]
        names = ["background" if label == run.background else name for label, name in enumerate(run.names)]
        for what, values in (("name", names), ("colour", self._colors)):
            for label, value in enumerate(values):
                first = values.index(value)  # type: ignore[arg-type]
                if first < label:
                    raise ItaclipError(
                        f"classes {run.names[first]!r} and {run.names[label]!r} have the same {what}, {value}, in "
                        "labelmap.txt, which must tell them apart. Change one, or export to cvat-images or coco."
                    )
        for name in names:
            if ":" in name or name.startswith("#") or not name.isprintable():
                raise ItaclipError(
                    f"class {name!r}: labelmap.txt cannot hold a name with ':', a line break or '#' in front; name it "
                    "otherwise, or export to cvat-images or coco."
                )
        lines = [f"{name}:{','.join(map(str, color))}::" for name, color in zip(names, self._colors, strict=True)]
        target.write("labelmap.txt", "\n".join(["# label:color_rgb:parts:actions", *lines, ""]).encode())

    def add(self, image: LabelledImage) -> None:
        """Write an image's mask."""
        assert image.labels is not None
        stem = self._stems.add(checked_name(image.name))
        self._target.write(f"SegmentationClass/{stem}.png", self._png(image.labels, self._colors))
        self._listed.append(stem)

    def finish(self) -> None:
        """Write the list of images."""
        self._target.write(f"ImageSets/Segmentation/{self._subset}.txt", "\n".join([*self._listed, ""]).encode())

    @staticmethod
    def _png(labels: NDArray[np.int32], colors: Sequence[Sequence[int]]) -> bytes:
        if len(colors) <= _INDICES:
            picture = Image.fromarray(labels.astype(np.uint8))  # becomes paletted with its palette
            picture.putpalette([channel for color in colors for channel in color])
        else:
            picture = Image.fromarray(np.asarray(colors, np.uint8)[labels])
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        return buffer.getvalue()
