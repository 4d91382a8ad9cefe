"""Write labels and scores of a raster as GeoTIFF, block by block, with coordinates, colours and class names."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from itaclip.apps.raster.plan import TILE, Plan
from itaclip.apps.raster.source import CACHE, Description
from itaclip.apps.raster.store import Block, Store, label_type
from itaclip.errors import ItaclipError
from itaclip.files import atomic_path, write_text
from itaclip.vocabulary import Vocabulary

RUN_TAG = "ITACLIP_RUN"
"""Tag with the digest of everything that the labels depend on."""

NO_SCORE = 255
_NO_LABEL = {"uint8": 255, "uint16": 65535}


@dataclass(frozen=True)
class Target:
    """What to write about a raster.

    Attributes:
        description: where the raster lies.
        plan: its division.
        vocabulary: names and colours of the classes.
        digest: digest of everything that the labels depend on.
        cog: whether to write Cloud-Optimised GeoTIFF.
    """

    description: Description
    plan: Plan
    vocabulary: Vocabulary
    digest: str
    cog: bool


def digest_of(path: Path) -> str | None:
    """Read the digest in a file of labels; None if there is none, or no such file."""
    try:
        with rasterio.open(path) as dataset:
            return dataset.tags().get(RUN_TAG)
    except rasterio.errors.RasterioError:
        return None


def write_labels(path: Path, target: Target, store: Store) -> NDArray[np.int64]:
    """Write the class of every pixel, and beside it the names of the classes for GDAL (``.aux.xml``).

    Returns:
        How many pixels each class has: K.

    Raises:
        ItaclipError: the file cannot be written.
    """
    names = target.vocabulary.names
    kind = label_type(len(names)).__name__
    counts = np.zeros(len(names), np.int64)

    def labels(block: Block) -> NDArray[Any]:
        found = block.labels.astype(kind)
        found[block.labels == len(names)] = _NO_LABEL[kind]
        return found

    def describe(dataset: Any) -> None:
        dataset.set_band_description(1, "class")
        dataset.update_tags(1, **{f"CLASS_{number}": name for number, name in enumerate(names)})
        colors = {number: (*color, 255) for number, color in enumerate(target.vocabulary.colors)}
        dataset.write_colormap(1, colors | {_NO_LABEL[kind]: (0, 0, 0, 0)})
        dataset.colorinterp = [ColorInterp.palette]

    for number in range(target.plan.blocks):
        for row in store.read_block(number).labels:
            counts += np.bincount(row, minlength=len(names) + 1)[: len(names)]
    _write(path, target, store, kind, _NO_LABEL[kind], labels, describe)
    rows = "".join(f"      <Category>{escape(name)}</Category>\n" for name in names)
    write_text(
        path.with_name(f"{path.name}.aux.xml"),
        f'<PAMDataset>\n  <PAMRasterBand band="1">\n    <CategoryNames>\n{rows}    </CategoryNames>\n'
        "  </PAMRasterBand>\n</PAMDataset>\n",
    )
    return counts


def write_scores(path: Path, target: Target, store: Store) -> None:
    """Write the score of every pixel's best class, in percent.

    Raises:
        ItaclipError: the file cannot be written.
    """

    def scores(block: Block) -> NDArray[Any]:
        assert block.scores is not None
        return np.where(block.labels == len(target.vocabulary.names), np.uint8(NO_SCORE), block.scores)

    def describe(dataset: Any) -> None:
        dataset.set_band_description(1, "score of the best class")
        dataset.scales = [0.01]

    _write(path, target, store, "uint8", NO_SCORE, scores, describe)


def _write(
    path: Path, target: Target, store: Store, kind: str, nodata: int, values: Callable[[Block], NDArray[Any]],
    describe: Callable[[Any], None],
) -> None:  # fmt: skip
    """Write one band, read it again, and give it its name only if it holds what was written."""
    about, plan = target.description, target.plan
    profile = dict(
        driver="GTiff", height=plan.height, width=plan.width, count=1, dtype=kind, nodata=nodata, crs=about.crs,
        transform=Affine(*about.transform), tiled=True, blockxsize=TILE, blockysize=TILE, compress="deflate",
        BIGTIFF="IF_SAFER",
    )  # fmt: skip
    with (
        atomic_path(path) as partial, _written(path), rasterio.Env(GDAL_CACHEMAX=CACHE), warnings.catch_warnings(),
    ):  # fmt: skip
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(partial, "w", **profile) as dataset:
            dataset.update_tags(**{RUN_TAG: target.digest})
            describe(dataset)
            for number in range(plan.blocks):
                dataset.write(values(store.read_block(number)), 1, window=_window(plan, number))
        with rasterio.open(partial) as dataset:  # GDAL keeps quiet about what the last write to a full disk loses
            for number in range(plan.blocks):
                found = dataset.read(1, window=_window(plan, number))
                if not np.array_equal(found, values(store.read_block(number))):
                    raise OSError("it does not hold what was written; is the disk full?")
        if target.cog:
            copy = partial.with_suffix(".cog.tif")
            try:
                rasterio.shutil.copy(
                    partial, copy, driver="COG", compress="DEFLATE", blocksize=TILE, overview_resampling="NEAREST",
                    BIGTIFF="IF_SAFER",
                )  # fmt: skip
                copy.replace(partial)
            finally:
                for left in partial.parent.glob(f"{copy.name}*"):
                    left.unlink()


@contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except (rasterio.errors.RasterioError, rasterio._err.CPLE_BaseError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ItaclipError(f"{path}: cannot be written ({reason}).") from error


def _window(plan: Plan, number: int) -> Window:
    (top, bottom), (left, right) = plan.span(number)
    return Window(left, top, right - left, bottom - top)
