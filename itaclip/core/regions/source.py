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

SAM2 = ("sam2", "sam2-64")
"""Keys of `itaclip.core.regions.sam2.SAMPLINGS`, which loads PyTorch."""

GRAM = ("gram", "gram-fast")
"""Keys of `itaclip.core.regions.gram.SEEDINGS`, which loads PyTorch."""


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
            ``"sam2:FOLDER"`` (8 points a side, as CorrCLIP has them; ``"sam2-64"`` instead: 64 and
            stricter thresholds, as OV-Stitcher has them), ``"gram"`` or ``"gram:ENCODER"`` (GramSeg's, from
            the tokens of a second encoder; ``"gram-fast"`` leaves out its coarse pass and its
            refinement), or a folder of masks (`MaskFolder`).
        device: device for SAM 2 and second encoders.

    Raises:
        ItaclipError: an unknown source, a missing folder, or weights that are not on this machine.
    """
    if spec == "felzenszwalb":
        return Felzenszwalb()
    if spec == "slic":
        return Slic()
    kind, _, model = spec.partition(":")
    if kind in SAM2:
        from itaclip.core.regions.sam2 import LARGE, Sam2Masks

        return Sam2Masks(model or LARGE, sampling=kind, device=device)
    if kind in GRAM:
        from itaclip.core.regions.gram import ENCODER, GramRegions

        return GramRegions(model or ENCODER, seeding=kind, device=device)
    if Path(spec).expanduser().is_dir():
        return MaskFolder(Path(spec).expanduser())
    known = ("felzenszwalb", "slic", *SAM2, *GRAM)
    raise ItaclipError(
        f"regions {spec!r}: expected {', '.join(known)}, sam2:NAME, sam2:FOLDER, gram:ENCODER, "
        "or an existing folder of masks." + did_you_mean(spec, known)
    )
