"""Read a raster block by block: which bands, at which resolution, which values are black and white.

`describe` decides all of this once, and `Source` reads as the description says, in this process
or in another.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from itaclip.common.images.values import as_8_bits, checked_range, fills_range
from itaclip.common.logs import quiet
from itaclip.core.clip.towers import MEAN
from itaclip.core.strips import Span
from itaclip.errors import ItaclipError

CACHE = 128 << 20
"""Bytes of blocks that GDAL keeps; by default it takes a share of the memory."""

_SAMPLE = 1024  # pixels of the long side of the copy from which percentiles are taken
_EMPTY = np.array([round(value) for value in MEAN], np.uint8)  # CLIP's mean colour, as in the padding of windows
_SAME = 1e-6  # relative difference of two resolutions that are the same


@dataclass(frozen=True)
class Description:
    """How a raster is read; everything that its pixels depend on.

    Attributes:
        name: path or address for GDAL.
        bands: numbers of the bands shown as red, green and blue, from 1.
        height: rows of pixels at which CLIP looks.
        width: columns of such pixels.
        transform: six coefficients from their columns and rows to coordinates.
        crs: coordinate reference system as WKT; None if the raster has none.
        resampled: whether the pixels differ from the raster's own.
        value_range: values that become 0 and 255; None leaves 8 bits as they are and takes the 8 higher of 16.
        palette: RGB of every value of a raster with a colour table, 256 x 3; None for others.
        stamp: size and time of change of a local file, by which a changed file is known.
    """

    name: str
    bands: tuple[int, int, int]
    height: int
    width: int
    transform: tuple[float, ...]
    crs: str | None
    resampled: bool
    value_range: tuple[float, float] | None
    palette: tuple[tuple[int, int, int], ...] | None
    stamp: tuple[int, ...]

    def key(self) -> dict[str, Any]:
        """Write the description as JSON values."""
        return asdict(self)


def describe(
    source: str | os.PathLike[str],
    bands: Sequence[int] | None = None,
    resolution: float | None = None,
    stretch: tuple[float, float] | None = None,
    value_range: tuple[float, float] | None = None,
) -> tuple[Description, list[str]]:
    """Decide how a raster is read.

    Args:
        source: a path, an address (``s3://``, ``https://``) or anything else that GDAL opens.
        bands: one band, shown as grey, or those of red, green and blue; None decides by what the
            raster says about its colours, and else takes 1, 2 and 3.
        resolution: side of a pixel at which CLIP looks, in units of the coordinate reference
            system, or in pixels of a raster without coordinates; None keeps the raster's own.
        stretch: percentiles, in [0, 100], that become 0 and 255.
        value_range: values that become 0 and 255.

    Returns:
        The description, and sentences about what was decided that the user should know.

    Raises:
        ItaclipError: a raster that cannot be opened, wrong bands, or values without a range.
    """
    name = _gdal_name(source)
    with _opened(name) as dataset:
        notes: list[str] = []
        chosen = _checked_bands(dataset, name, bands) if bands else _bands_by_colour(dataset, notes)
        palette = _palette(dataset, chosen)
        if palette and (stretch or value_range):
            raise ItaclipError(f"{name}: its values are entries of a colour table; leave out --stretch and --range.")
        height, width, transform = _grid(dataset, name, resolution, notes)
        if dataset.crs is None:
            notes.append("no coordinate reference system; the labels have none either")
        found = _value_range(dataset, name, chosen, stretch, value_range)
        crs = dataset.crs.to_wkt() if dataset.crs else None
        return Description(
            name, chosen, height, width, tuple(transform)[:6], crs, transform != dataset.transform, found, palette,
            _stamp(source),
        ), notes  # fmt: skip


class Source:
    """A raster being read as its description says. Use it as a context manager, in one thread."""

    def __init__(self, description: Description) -> None:
        self.description = description

    def __enter__(self) -> Source:
        about = self.description
        with ExitStack() as stack:
            self._dataset = stack.enter_context(_opened(about.name))
            if about.resampled:
                self._dataset = stack.enter_context(_resampled(self._dataset, about))
            self._stack = stack.pop_all()
        self._bands = sorted(set(about.bands))
        flags = [self._dataset.mask_flag_enums[band - 1] for band in self._bands]
        self._masked = any(MaskFlags.all_valid not in flag for flag in flags)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, rows: Span, columns: Span) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Read a rectangle of pixels.

        Returns:
            Its pixels, H x W x 3 uint8 RGB, those without data in CLIP's mean colour; and where it
            has data, H x W.

        Raises:
            ItaclipError: the raster is damaged here.
        """
        about = self.description
        window = Window(columns[0], rows[0], columns[1] - columns[0], rows[1] - rows[0])
        with _readable(about.name, f"rows {rows[0]} to {rows[1]}"):
            values = self._dataset.read(self._bands, window=window)
            valid = self._valid(window, values)
        if values.dtype.kind == "f":
            finite = np.isfinite(values).all(0)
            if not finite.all():
                valid &= finite
                values = np.where(finite, values, 0)
        values = np.stack([values[self._bands.index(band)] for band in about.bands], axis=-1)
        pixels = self._as_rgb(values)
        pixels[~valid] = _EMPTY
        return pixels, valid

    def _valid(self, window: Window, values: NDArray[Any]) -> NDArray[np.bool_]:
        if not self._masked:
            return np.ones(values.shape[1:], bool)
        valid: NDArray[np.bool_] = (self._dataset.read_masks(self._bands, window=window) > 0).any(0)
        return valid

    def _as_rgb(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        about = self.description
        if about.palette is not None:
            return np.array(about.palette, np.uint8)[values[..., 0].clip(0, len(about.palette) - 1)]
        if about.value_range is not None:
            wide = values.astype(np.int16) if values.dtype == np.uint8 else values  # 8 bits are left as they are
            return as_8_bits(wide, None, about.name, about.value_range)
        return values.astype(np.uint8) if values.dtype == np.uint8 else (values >> 8).astype(np.uint8)


def blank(height: int, width: int) -> NDArray[np.uint8]:
    """Pixels without data: H x W x 3 in CLIP's mean colour."""
    return np.full((height, width, 3), _EMPTY)


def _gdal_name(source: str | os.PathLike[str]) -> str:
    name = os.fspath(source)
    if isinstance(source, os.PathLike) or not ("://" in name or ":" in name or name.startswith("/vsi")):
        if not Path(name).exists():
            raise ItaclipError(f"{name}: no such file.")
        if Path(name).is_dir():
            raise ItaclipError(
                f"{name}: a folder; name one raster, or make a mosaic: gdalbuildvrt all.vrt {name}/*.tif"
            )
    return name


def _stamp(source: str | os.PathLike[str]) -> tuple[int, ...]:
    try:
        status = Path(source).stat()
    except (OSError, ValueError):
        return ()
    return status.st_size, status.st_mtime_ns


@contextmanager
def _readable(name: str, what: str) -> Iterator[None]:
    """Turn GDAL's errors into one that names the raster and the place."""
    try:
        yield
    except (RasterioError, OSError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ItaclipError(f"{name}: cannot be read ({what}: {reason}).") from error


@contextmanager
def _opened(name: str) -> Iterator[Any]:
    """Open a raster with a small cache of blocks, so that memory does not depend on the machine's."""
    with rasterio.Env(GDAL_CACHEMAX=CACHE), quiet("rasterio"):
        with _readable(name, "opening"), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # `describe` notes it
            dataset = rasterio.open(name)
        with dataset:
            if dataset.subdatasets:
                listed = ", ".join(dataset.subdatasets[:4])
                raise ItaclipError(f"{name}: holds {len(dataset.subdatasets)} rasters; name one of them: {listed}, ...")
            if dataset.count == 0:
                raise ItaclipError(f"{name}: holds no bands.")
            if any("complex" in kind for kind in dataset.dtypes):
                raise ItaclipError(f"{name}: its values are complex numbers; write their magnitude to a raster first.")
            yield dataset


def _checked_bands(dataset: Any, name: str, bands: Sequence[int]) -> tuple[int, int, int]:
    numbers = list(bands)
    if len(numbers) not in (1, 3):
        raise ItaclipError(f"--bands {','.join(map(str, numbers))}: expected one band, or red, green and blue.")
    for number in numbers:
        if not 1 <= number <= dataset.count:
            raise ItaclipError(f"--bands: {name} has no band {number}; its bands are 1 to {dataset.count}.")
    red, green, blue = numbers * 3 if len(numbers) == 1 else numbers
    return red, green, blue


def _bands_by_colour(dataset: Any, notes: list[str]) -> tuple[int, int, int]:
    """Choose the bands that the raster calls red, green and blue; else grey, or 1, 2 and 3."""
    kinds = list(dataset.colorinterp)
    wanted = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    if all(kinds.count(kind) == 1 for kind in wanted):
        red, green, blue = (kinds.index(kind) + 1 for kind in wanted)
        if (red, green, blue) != (1, 2, 3) or dataset.count > 3 + (ColorInterp.alpha in kinds):
            notes.append(f"bands {red}, {green}, {blue} of {dataset.count}, as the raster says; --bands chooses others")
        return red, green, blue
    if dataset.count < 3 or kinds[0] == ColorInterp.palette:
        if dataset.count > 1 + (ColorInterp.alpha in kinds):
            notes.append(f"band 1 of {dataset.count} as grey; --bands chooses others")
        return 1, 1, 1
    notes.append(f"bands 1, 2, 3 of {dataset.count} as red, green and blue, since the raster does not say which they "
                 "are; --bands chooses others")  # fmt: skip
    return 1, 2, 3


def _palette(dataset: Any, bands: Sequence[int]) -> tuple[tuple[int, int, int], ...] | None:
    if len(set(bands)) > 1 or dataset.colorinterp[bands[0] - 1] != ColorInterp.palette:
        return None
    table = dataset.colormap(bands[0])
    return tuple(table.get(value, (0, 0, 0))[:3] for value in range(max(table) + 1))


def _grid(dataset: Any, name: str, resolution: float | None, notes: list[str]) -> tuple[int, int, Affine]:
    """Rows and columns of the pixels at which CLIP looks, and their transform."""
    transform = dataset.transform
    if resolution is None:
        return dataset.height, dataset.width, transform
    if not (math.isfinite(resolution) and resolution > 0):
        raise ItaclipError(f"--resolution {resolution}: expected a positive number of the raster's units per pixel.")
    sides = math.hypot(transform.a, transform.d), math.hypot(transform.b, transform.e)
    across, down = (resolution / side for side in sides)
    if max(abs(across - 1), abs(down - 1)) < _SAME:
        return dataset.height, dataset.width, transform
    width, height = max(1, round(dataset.width / across)), max(1, round(dataset.height / down))
    if min(width, height) < 2 and min(dataset.width, dataset.height) > 1:
        raise ItaclipError(f"--resolution {resolution:g}: leaves {width} x {height} pixels of {name}, whose own pixels "
                           f"are {sides[0]:g} x {sides[1]:g}.")  # fmt: skip
    if min(across, down) < 1:
        notes.append(f"{resolution:g} is finer than the raster's own {sides[0]:g} x {sides[1]:g}: pixels are "
                     "interpolated, which shows small things larger and adds no detail")  # fmt: skip
    scaled = Affine(transform.a * across, transform.b * down, transform.c, transform.d * across, transform.e * down,
                    transform.f)  # fmt: skip
    return height, width, scaled


def _resampled(dataset: Any, about: Description) -> WarpedVRT:
    """Open the raster at another resolution, from the same corner on."""
    crs = about.crs or "EPSG:3857"  # GDAL wants one, and the same on both sides moves nothing
    transform = Affine(*about.transform)
    coarser = abs(transform.determinant) > abs(dataset.transform.determinant)
    smooth = Resampling.average if coarser else Resampling.bilinear
    plain = any(MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags for flags in dataset.mask_flag_enums)
    return WarpedVRT(
        dataset, src_crs=crs, crs=crs, src_transform=dataset.transform, transform=transform, height=about.height,
        width=about.width, resampling=Resampling.nearest if about.palette else smooth, add_alpha=plain,
    )  # fmt: skip


def _value_range(
    dataset: Any, name: str, bands: Sequence[int], stretch: tuple[float, float] | None,
    value_range: tuple[float, float] | None,
) -> tuple[float, float] | None:  # fmt: skip
    """Choose the values that become 0 and 255; None leaves 8 bits as they are and takes the 8 higher of 16."""
    if stretch is not None and value_range is not None:
        raise ItaclipError("--stretch and --range: give only one of them.")
    if value_range is not None:
        found = checked_range(value_range)
        if not isinstance(found, tuple):
            raise ItaclipError(f"value_range = {value_range!r}: expected (LOW, HIGH); or give stretch=(2, 98).")
        return found
    kinds = {dataset.dtypes[band - 1] for band in bands}
    if stretch is None and kinds == {"uint8"}:
        return None
    sample = _sample(dataset, name, bands)
    if stretch is not None:
        return _percentiles(sample, stretch)
    if kinds == {"uint16"} and (not sample.size or fills_range(sample, 16)):
        return None
    low, high = (float(sample.min()), float(sample.max())) if sample.size else (0.0, 1.0)
    raise ItaclipError(
        f"{name}: {', '.join(sorted(kinds))} values from {low:g} to {high:g}: say which become black and white. "
        f"--range {low:g},{high:g} or --stretch 2,98; in Python, value_range=({low:g}, {high:g}) or stretch=(2, 98)."
    )


def _sample(dataset: Any, name: str, bands: Sequence[int]) -> NDArray[Any]:
    """Read the valid values of a reduced copy, from the overviews if there are any."""
    factor = min(1.0, _SAMPLE / max(dataset.width, dataset.height))
    size = max(1, round(dataset.height * factor)), max(1, round(dataset.width * factor))
    numbers = sorted(set(bands))
    with _readable(name, "overview"):
        values = dataset.read(numbers, out_shape=(len(numbers), *size), masked=True).compressed()
    return values[np.isfinite(values)] if values.dtype.kind == "f" else values


def _percentiles(sample: NDArray[Any], stretch: tuple[float, float]) -> tuple[float, float]:
    low, high = stretch
    if not 0 <= low < high <= 100:
        raise ItaclipError(f"--stretch {low:g},{high:g}: expected two percentiles of 0 to 100, the lower one first.")
    if not sample.size:
        return 0.0, 1.0
    black, white = (float(value) for value in np.percentile(sample, (low, high)))
    if black == white:
        black, white = float(sample.min()), float(sample.max())
    return (black, white) if black < white else (black, black + 1)
