"""Georeferenced rasters of any size: read block by block, labelled without seams, written with their coordinates.

`segment.segment_raster` labels a raster; docs/rasters.md is the guide.
"""

from importlib.util import find_spec

from itaclip.errors import ItaclipError, install_extra

if find_spec("rasterio") is None:
    raise ItaclipError(f"labelling rasters requires rasterio: {install_extra('raster')}.")
