"""Outlines of the classes in a raster of labels, as a file of polygons."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import rasterio
from rasterio.features import shapes

from itaclip.errors import ItaclipError, install_extra
from itaclip.files import atomic_path
from itaclip.formats.segments import kept_labels

SUFFIXES = (".gpkg", ".geojson", ".parquet")
"""GeoPackage, GeoJSON and GeoParquet."""


def check_polygons(path: Path, has_crs: bool, tolerance: float) -> None:
    """Check a target before the work.

    Raises:
        ItaclipError: another extension, a GeoJSON of a raster without coordinates, or a missing package.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ItaclipError(f"--polygons {path}: expected a name that ends in {', '.join(SUFFIXES)}.")
    if path.suffix.lower() == ".geojson" and not has_crs:
        raise ItaclipError(f"--polygons {path}: GeoJSON is in WGS 84, and the raster has no coordinate reference "
                           "system; take .gpkg or .parquet.")  # fmt: skip
    if tolerance < 0:
        raise ItaclipError(f"--simplify {tolerance}: expected 0 or more units of the coordinate reference system.")
    if missing := [name for name in ("geopandas", "shapely") if find_spec(name) is None]:
        raise ItaclipError(f"polygons require {', '.join(missing)}: {install_extra('raster')}.")


def write_polygons(
    path: Path, labels: Path, names: Sequence[str], tolerance: float = 0.0, skip: Sequence[str] = ()
) -> int:
    """Write the outlines of all connected areas: columns ``class`` (number), ``name`` and ``geometry``.

    Borders follow the pixels' edges, holes are kept, and pixels belong together when they share an
    edge. The coordinates are the raster's; those of GeoJSON are WGS 84, as RFC 7946 wants.

    Args:
        path: what to write; its extension, one of `SUFFIXES`, chooses the format.
        labels: the raster of labels.
        names: of the classes.
        tolerance: how far a simplified border may lie from the pixels' edges, in units of the
            coordinate reference system; neighbours keep a common border. 0 keeps the edges.
        skip: names of classes to leave out.

    Returns:
        The number of polygons.

    Raises:
        ItaclipError: the file cannot be written, or an unknown class in `skip`.
    """
    import geopandas
    import shapely

    kept = kept_labels(names, skip)
    with rasterio.open(labels) as dataset:
        mask = rasterio.band(dataset, 1)
        found = [(shapely.geometry.shape(outline), int(value)) for outline, value in shapes(mask)
                 if int(value) != dataset.nodata]  # fmt: skip
        crs = dataset.crs
    outlines = [outline for outline, _ in found]
    if tolerance and outlines:
        outlines = list(shapely.coverage_simplify(outlines, tolerance))
    rows = [(outline, number) for outline, (_, number) in zip(outlines, found, strict=True) if number in kept]
    frame = geopandas.GeoDataFrame(
        {"class": [number for _, number in rows], "name": [names[number] for _, number in rows]},
        geometry=[outline for outline, _ in rows], crs=crs,
    )  # fmt: skip
    with atomic_path(path) as partial, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if path.suffix.lower() == ".parquet":
                frame.to_parquet(partial)
            else:
                partial.unlink()  # GDAL would open the empty file
                options = {"RFC7946": "YES"} if path.suffix.lower() == ".geojson" else {}
                frame.to_file(partial, driver="GeoJSON" if options else "GPKG", layer="labels", **options)
        except ItaclipError:
            raise
        except Exception as error:  # pyogrio and pyarrow raise all kinds
            raise ItaclipError(f"{path}: cannot be written ({error}).") from error
    return len(rows)
