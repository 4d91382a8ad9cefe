"""Sources of region maps."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from itaclip.core.regions.files import MaskFolder
from itaclip.core.regions.unsupervised import Felzenszwalb, Slic
from itaclip.errors import ItaclipError, did_you_mean

RegionMap: TypeAlias = NDArray[np.int32]


class RegionSource(Protocol):
    """Computes or finds the region map of an image."""

    @property
    def name(self) -> str:
        """Name of the source, for messages."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever region maps may change; used for caches and stored results."""

    def __call__(self, image: NDArray[np.uint8], name: str | None = None) -> RegionMap:
        """Get the region map of an image.

        Args:
            image: H x W x 3 uint8 RGB.
            name: the image's file name, or its path relative to the image folder, with or without
                extension. Only masks from files need it.

        Returns:
            H x W int32: 0 is unsegmented, regions are numbered from 1.

        Raises:
            ItaclipError: there is no map for this image; the message says why.
        """


def region_source(spec: str, *, device: str = "cpu") -> RegionSource:
    """Get a source by name.

    Args:
        spec: ``"felzenszwalb"`` or ``"slic"`` (no weights), ``"sam2"``, ``"sam2:NAME"`` or
            ``"sam2:FOLDER"``, or a folder of masks (`MaskFolder`).
        device: device for SAM 2.

    Raises:
        ItaclipError: an unknown source, a missing folder, or weights that are not on this machine.
    """
    if spec == "felzenszwalb":
        return Felzenszwalb()
    if spec == "slic":
        return Slic()
    kind, _, model = spec.partition(":")
    if kind == "sam2":
        from itaclip.core.regions.sam2 import LARGE, Sam2Masks

        return Sam2Masks(model or LARGE, device=device)
    if Path(spec).expanduser().is_dir():
        return MaskFolder(Path(spec).expanduser())
    known = ("felzenszwalb", "slic", "sam2")
    raise ItaclipError(
        f"regions {spec!r}: expected {', '.join(known)}, sam2:NAME, sam2:FOLDER, or an existing folder of masks."
        + did_you_mean(spec, known)
    )
