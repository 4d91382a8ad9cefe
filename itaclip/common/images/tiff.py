"""TIFF files: what their tags say, and how their pixels are read.

TIFF holds nearly anything. Tags are read with tifffile, pixels decoded by OpenCV as in
MMSegmentation. Where OpenCV reads something else than the file holds, Pillow or tifffile decode:
OpenCV multiplies 8-bit colours by unassociated alpha, and mixes up planes of more than 8 bits.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from itaclip.errors import ItaclipError

_BANDS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}  # by photometric interpretation; 5 is CMYK, 6 YCbCr, 8 CIELAB
_DEEP = (0, 1, 2)  # grey and RGB; others are read with 8 bits only
_UNSIGNED, _FLOAT, _UNTYPED = 1, 3, 4  # sample formats
_UNASSOCIATED = 2  # extra sample
_PART_OF_ANOTHER = 1 | 4  # subfile type: reduced copy, transparency mask
_OTHERWISE = "convert it to a TIFF or PNG of 8 or 16 bits"
_RASTERS = "`itaclip raster --bands 1,2,3` reads georeferenced rasters."


@dataclass(frozen=True)
class Layout:
    """What the tags of the first page say.

    Attributes:
        width: in pixels, before turning.
        height: in pixels, before turning.
        bits: per value.
        sample_format: 1 unsigned, 2 signed, 3 floating-point, 4 not stated.
        photometric: the colour space.
        bands: colours and further bands.
        extra: meaning of each band after the colours: 0 not stated, 1 and 2 alpha.
        planar: whether each band is stored by itself.
        orientation: the EXIF orientation, 1 to 8.
    """

    width: int
    height: int
    bits: int
    sample_format: int
    photometric: int
    bands: int
    extra: tuple[int, ...]
    planar: bool
    orientation: int

    @property
    def unsigned(self) -> bool:
        """Whether values are unsigned integers."""
        return self.sample_format in (_UNSIGNED, _UNTYPED)

    @property
    def eight(self) -> bool:
        """Whether values have at most 8 bits."""
        return self.bits in (1, 2, 4, 8) and self.unsigned

    @property
    def multiplied_by_opencv(self) -> bool:
        """Whether OpenCV multiplies the colours by the last band."""
        return self.eight and self.extra == (_UNASSOCIATED,) and (self.photometric == 2 or self.planar)

    @property
    def foreign_to_pillow(self) -> bool:
        """Whether Pillow takes the file for damaged although it is not: more bands than it knows, plane by plane."""
        return self.planar and bool(self.extra) and (self.photometric != 2 or self.extra != (_UNASSOCIATED,))


def is_tiff(content: bytes) -> bool:
    """Tell whether bytes begin like a TIFF or BigTIFF file."""
    return content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_layout(content: bytes, name: str) -> Layout:
    """Read and check the tags of a file whose first page is to be read.

    Raises:
        ItaclipError: more than one page, more bands than a colour and one more, or a kind of values
            that cannot be shown; what to do follows. The message begins with the name.
        Exception: tifffile raises all kinds for damaged files.
    """
    with tifffile.TiffFile(io.BytesIO(content)) as opened:
        _check_pages(opened, name)
        page: Any = opened.pages[0]
        _check_complete(page, len(content))
        tag = page.tags.get("Orientation")
        bits = page.bitspersample
        found = Layout(
            int(page.imagewidth), int(page.imagelength), int(bits if isinstance(bits, int) else max(bits)),
            int(page.sampleformat or _UNSIGNED), int(page.photometric), int(page.samplesperpixel),
            tuple(int(kind) for kind in page.extrasamples or ()), int(page.planarconfig) == 2,
            int(tag.value) if tag is not None and tag.value in range(1, 9) else 1,
        )  # fmt: skip
        colours = page.photometric.name if hasattr(page.photometric, "name") else page.photometric
    if found.photometric not in _BANDS or not (found.eight or found.photometric in _DEEP):
        raise ItaclipError(f"{name}: TIFF with {found.bits}-bit values in the colours {colours}; {_OTHERWISE} in RGB.")
    if not _BANDS[found.photometric] <= found.bands <= _BANDS[found.photometric] + 1 or found.bands > 4:
        raise ItaclipError(
            f"{name}: TIFF with {found.bands} bands, and nothing says which are red, green and blue. Choose three: "
            f"pass an array such as tifffile.imread(path)[..., [0, 1, 2]], or write them to a file of their own. "
            f"{_RASTERS}"
        )
    if not found.eight and found.bits not in (10, 12, 14, 16, 32, 64):
        raise ItaclipError(f"{name}: TIFF with values of {found.bits} bits; {_OTHERWISE}.")
    return found


def decode_deep(content: bytes, layout: Layout, name: str) -> tuple[NDArray[Any], int | None]:
    """Decode values of more than 8 bits, or signed ones.

    Returns:
        H x W grey or H x W x 3 RGB in the file's own values, upright; and their bits if they are
        unsigned and at most 16 bits, else None.

    Raises:
        ItaclipError: a compression that cannot be decoded. The message begins with the name.
    """
    values = _by_opencv(content, layout)
    if values is None:
        values = decode_plainly(content, layout, name)
    bits = layout.bits if layout.unsigned and layout.bits <= 16 else None
    if values.dtype == np.uint16 and layout.bits < 16:
        values = values >> (16 - layout.bits)  # OpenCV moves packed values up
    if layout.photometric == 0:  # white is zero
        if bits is None:
            raise ItaclipError(f"{name}: TIFF whose white is zero, of {values.dtype} values; {_OTHERWISE}.")
        values = (2**bits - 1) - values
    return values, bits


def _check_pages(opened: tifffile.TiffFile, name: str) -> None:
    pages: Any = opened.pages
    kinds = []
    for number in range(len(pages)):
        kind = int(pages[number].subfiletype or 0)
        kinds.append(kind)
        if number and not kind & _PART_OF_ANOTHER:
            break
    full = not kinds[-1] & _PART_OF_ANOTHER if len(kinds) > 1 else False
    stacked = (opened.imagej_metadata or {}).get("images", 1) if opened.is_imagej else 1
    if full or stacked > 1 or kinds[0] & _PART_OF_ANOTHER:
        count = max(len(pages), stacked)
        raise ItaclipError(
            f"{name}: TIFF with {count} pages. Save the one you mean to a file of its own, or pass it as an array: "
            "tifffile.imread(path, key=0)."
        )


def _check_complete(page: Any, size: int) -> None:
    if not (page.imagewidth and page.imagelength and page.dataoffsets):
        raise ValueError("it holds no pixels")
    ends = (at + length for at, length in zip(page.dataoffsets, page.databytecounts, strict=True))
    if max(ends, default=0) > size:
        raise ValueError("the file ends before its pixels")


def _by_opencv(content: bytes, layout: Layout) -> NDArray[Any] | None:
    """Decode with OpenCV; None if it does not return what the tags promise."""
    if layout.planar and layout.bands > 1:
        return None
    kind = {_FLOAT: "f", 2: "i"}.get(layout.sample_format, "u")
    try:
        found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    bands = 1 if found is None or found.ndim == 2 else found.shape[2]
    if found is None or bands != layout.bands or found.dtype.kind != kind or found.dtype.itemsize * 8 < layout.bits:
        return None
    values: NDArray[Any] = found if found.ndim == 2 else found[..., 2::-1]
    return values


def decode_plainly(content: bytes, layout: Layout, name: str) -> NDArray[Any]:
    """Decode with tifffile, which brings few compressions of its own: H x W or H x W x 3, upright.

    Raises:
        ItaclipError: another compression. The message begins with the name.
    """
    with tifffile.TiffFile(io.BytesIO(content)) as opened:
        page: Any = opened.pages[0]
        try:
            found: NDArray[Any] = page.asarray()
        except (KeyError, NotImplementedError) as error:  # only the optional imagecodecs decodes it
            compression = getattr(page.compression, "name", page.compression)
            raise ItaclipError(
                f"{name}: TIFF with values of {layout.bits} bits and compression {compression} cannot be decoded; "
                "save it uncompressed."
            ) from error
    if layout.planar and layout.bands > 1:
        found = np.moveaxis(found, 0, -1)
    if layout.bands > 1:
        found = found[..., :3] if layout.photometric == 2 else found[..., 0]
    return upright(found, layout.orientation)


def upright(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn H x W (x C) pixels as an EXIF orientation, 1 to 8, says; `tifffile.reorient` exchanges 7 and 8."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image
