"""The camera's orientation: photographs that are turned when they are read, and masks that are not."""

from __future__ import annotations

from pathlib import Path

from PIL import ExifTags, Image

from itaclip.common.images.tiff import is_tiff, read_layout

TURNS = {5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"}
"""The names in `PIL.Image.Transpose` of the turns that exchange width and height, by EXIF orientation."""


def stored_orientation(path: str | Path) -> int:
    """Read the EXIF orientation in an image file, 1 to 8; 1 if there is none.

    Raises:
        OSError: the file cannot be read. Damaged ones raise other errors too.
    """
    with Path(path).open("rb") as file:
        if is_tiff(file.read(4)):  # Pillow turns TIFF itself, and changes what it says while it does
            file.seek(0)
            return read_layout(file.read(), str(path)).orientation
    with Image.open(path) as image:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    return int(found) if found in range(1, 9) else 1


def turn_remedy(orientation: int) -> str:
    """Say what to do about a mask that lies as the stored pixels of a photo of one of the `TURNS` do."""
    return (
        f"The photo is turned as its EXIF orientation ({orientation}) says, the mask is not. If the mask was drawn on "
        f"the photo as stored, turn the mask too: mask.transpose(Image.Transpose.{TURNS[orientation]}) with Pillow."
    )
