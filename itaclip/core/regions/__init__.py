"""Class-agnostic regions of an image, and the correction of label maps with them.

A region map is an H x W int32 array of the image's size: 0 is unsegmented, regions are
numbered from 1. A source provides it:

    source = region_source("felzenszwalb")  # "slic", "sam2", "sam2-64", "sam2:FOLDER", "gram:ENCODER", a mask folder
    regions = source(image, "street/0001.jpg")

`itaclip.core.regions.correction` applies it after the thresholds.
"""

from itaclip.core.regions.correction import map_correction
from itaclip.core.regions.files import MaskFolder, read_region_map, write_region_map
from itaclip.core.regions.source import RegionMap, RegionSource, region_source

__all__ = [
    "MaskFolder",
    "RegionMap",
    "RegionSource",
    "map_correction",
    "read_region_map",
    "region_source",
    "write_region_map",
]
