"""Whether a video file ends before its container says: videos that are cut off decode without an error."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_ZEROS = 4096  # bytes at the end of a file; a download that reserved its space leaves more of them
_SEGMENT = b"\x18\x53\x80\x67"
_BOXES = frozenset(
    b"ftyp styp moov moof mdat mfra sidx ssix emsg prft pdin meta udta uuid free skip wide pnot junk".split()
)
"""The kinds of boxes that stand outermost in MP4 and MOV."""

_EBML = b"\x1a\x45\xdf\xa3"


def is_cut(path: Path) -> bool:
    """Tell whether a file is shorter than its container announces, or ends in zeros.

    AVI, MP4 and MOV, Matroska and WebM announce the sizes of their outermost parts. Numbers of
    frames alone prove nothing: they are estimates in Matroska and WebM, count empty frames in AVI,
    and include frames that an edit list hides in MP4 and MOV.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size > _ZEROS:
            file.seek(-_ZEROS, 2)
            if not any(file.read(_ZEROS)):
                return True
        file.seek(0)
        head = file.read(12)
        if head[:4] == b"RIFF":
            return _riff_end(file) > size
        if head[:4] == _EBML:
            return _segment_end(file) > size
        return _boxes_end(file, size) > size


def _riff_end(file: BinaryIO) -> int:
    """End of an AVI file: of the first of its RIFF chunks that does not lie in the file, or of the last."""
    end = 0
    while True:
        file.seek(end)
        head = file.read(8)
        if len(head) < 8 or head[:4] != b"RIFF":
            return end
        (length,) = struct.unpack("<I", head[4:])
        if length in (0, 0xFFFFFFFF):  # written by a program that could not go back
            return end
        end += 8 + length


def _segment_end(file: BinaryIO) -> int:
    """End of the segment of a Matroska file; 0 if it is a live stream, which announces none."""
    file.seek(4)
    length = _vint(file)
    if length is None:
        return 0
    file.seek(length, 1)
    if file.read(4) != _SEGMENT:
        return 0
    length = _vint(file)
    return 0 if length is None else file.tell() + length


def _vint(file: BinaryIO) -> int | None:
    """Read a Matroska length of variable width; None if it is unknown or missing."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    width = 9 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0xFF >> width)]) + file.read(width - 1), "big")
    return None if value == (1 << 7 * width) - 1 else value


def _boxes_end(file: BinaryIO, size: int) -> int:
    """End of the last box of an MP4 or MOV file."""
    end = 0
    while end < size:
        file.seek(end)
        head = file.read(16)
        if head[4:8] not in _BOXES:
            return end  # something else behind the boxes
        (length,) = struct.unpack(">I", head[:4])
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack(">Q", head[8:])
        if length < 8:  # 0: up to the end of the file
            return size
        end += length
    return end
