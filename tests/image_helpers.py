"""Image files of every kind, made of known values, for tests of reading."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

RNG = np.random.default_rng(3)
DEEP: NDArray[np.uint16] = RNG.integers(0, 65536, (6, 9, 5)).astype(np.uint16)
"""Five bands that use all 16 bits."""
DARK: NDArray[np.uint16] = (DEEP // 30).astype(np.uint16)
"""Five bands of values up to 2184, as sensors give them."""
BYTES: NDArray[np.uint8] = (DEEP >> 8).astype(np.uint8)
"""Five bands of 8 bits: the high ones of `DEEP`."""


def rgb(values: NDArray[Any]) -> NDArray[Any]:
    """Grey as three equal bands; colours without what follows them."""
    return np.stack([values] * 3, axis=-1) if values.ndim == 2 else values[..., :3]


def tiff(values: NDArray[Any], planar: bool = False, orientation: int = 1, **options: Any) -> bytes:
    """A TIFF file; colours are RGB unless options say otherwise."""
    buffer = io.BytesIO()
    if values.ndim == 3 and values.shape[2] > 1:
        options = {"planarconfig": "separate" if planar else "contig", "photometric": "rgb"} | options
        values = np.moveaxis(values, -1, 0) if planar else values
    options = {"photometric": "minisblack"} | options
    tags = [(274, "H", 1, orientation, True)] if orientation != 1 else []
    tifffile.imwrite(buffer, np.ascontiguousarray(values), extratags=tags, metadata=None, **options)
    return buffer.getvalue()


def pages(*kinds: int) -> bytes:
    """A TIFF file with a page per subfile type; the first shows `BYTES`."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for number, kind in enumerate(kinds):
            if kind & 4:
                writer.write(np.ones((6, 9), bool), photometric="mask", subfiletype=kind, metadata=None)
                continue
            image = BYTES[..., :3] if not number else np.full((3, 4, 3), 7, np.uint8)
            writer.write(image, photometric="rgb", subfiletype=kind, metadata=None)
    return buffer.getvalue()


def opencv(suffix: str, values: NDArray[Any]) -> bytes:
    """A file by OpenCV, from RGB or RGBA."""
    if values.ndim == 3:
        values = values[..., [2, 1, 0, 3][: values.shape[2]]]
    return cv2.imencode(suffix, values)[1].tobytes()


def pillow(kind: str, values: NDArray[Any] | Image.Image, orientation: int = 1, **options: Any) -> bytes:
    """A file by Pillow."""
    buffer = io.BytesIO()
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
        options["exif"] = exif
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(values: NDArray[np.uint16], color_type: int) -> bytes:
    """A 16-bit PNG file, by the specification: colour types 0 grey, 2 RGB, 4 grey and alpha, 6 RGBA."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def netpbm(values: NDArray[Any], top: int) -> bytes:
    """A PGM or PPM file whose header states the highest value."""
    kind = b"P5" if values.ndim == 2 else b"P6"
    order = ">u2" if top > 255 else "u1"
    header = b"%s\n%d %d\n%d\n" % (kind, values.shape[1], values.shape[0], top)
    return header + values.astype(order).tobytes()


def packed_tiff(values: NDArray[np.uint16], bits: int) -> bytes:
    """A grey TIFF file, by the specification, whose values are packed: 10, 12 or 14 bits each."""
    rows = b""
    for row in values:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows += bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    height, width = values.shape
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, height),
            (279, len(rows))]  # fmt: skip
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    start = 8 + len(rows) + len(rows) % 2
    body = rows + bytes(len(rows) % 2)
    return b"II*\0" + struct.pack("<I", start) + body + struct.pack("<H", len(tags)) + directory + bytes(4)


def turned(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """The pixel at each place of the upright image, by the definition of the EXIF orientation."""
    height, width = values.shape[:2]
    size = (width, height) if orientation >= 5 else (height, width)
    result = np.zeros(size + values.shape[2:], values.dtype)
    for row in range(height):  # "row 0 is the ..., column 0 is the ... side" of the upright image
        for column in range(width):
            place = {
                1: (row, column), 2: (row, width - 1 - column), 3: (height - 1 - row, width - 1 - column),
                4: (height - 1 - row, column), 5: (column, row), 6: (column, height - 1 - row),
                7: (width - 1 - column, height - 1 - row), 8: (width - 1 - column, row),
            }[orientation]  # fmt: skip
            result[place] = values[row, column]
    return result
