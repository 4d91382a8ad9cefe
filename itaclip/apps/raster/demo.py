"""A raster for trying things out: the demo's town from above, in a place at sea where no town is."""

from __future__ import annotations

from pathlib import Path

import rasterio
from rasterio.transform import from_origin

from itaclip.common.demo.aerial import draw_town
from itaclip.files import atomic_path

CLASSES = (
    "grass, lawn; road, street; sea, ocean; sand, sandy beach; pond, lily pond; house, cottage; tree, oak tree; "
    "fir, fir tree; car, taxi; bus, city bus; boat, sailing boat"
)
"""The classes of the view, as command lines have them."""

_CRS, _WEST, _NORTH, _PIXEL = "EPSG:32631", 500_000.0, 1_000.0, 0.25  # 3 degrees east of Greenwich, on the equator


def draw_demo_raster(path: Path) -> Path:
    """Draw the town unless the file is there: GeoTIFF, pixels of a quarter of a metre.

    Raises:
        ItaclipError: it cannot be written.
    """
    if path.is_file():
        return path
    image = draw_town().image
    profile = dict(
        driver="GTiff", height=image.shape[0], width=image.shape[1], count=3, dtype="uint8", crs=_CRS,
        transform=from_origin(_WEST, _NORTH, _PIXEL, _PIXEL), tiled=True, photometric="rgb", compress="deflate",
    )  # fmt: skip
    with atomic_path(path) as partial, rasterio.open(partial, "w", **profile) as dataset:
        dataset.write(image.transpose(2, 0, 1))
    return path
