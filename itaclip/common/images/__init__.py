"""Images from files, bytes, PIL, arrays and tensors as 8-bit RGB, by the same rules everywhere (docs/images.md)."""

from itaclip.common.images.decoding import FORMATS, check_for_opencv, decode_image
from itaclip.common.images.options import LARGEST, ImageTooLargeError, ReadOptions
from itaclip.common.images.reading import ImageSource, is_image, read_image
from itaclip.common.images.values import STRETCH, ValueRange, parse_range

__all__ = [
    "FORMATS",
    "LARGEST",
    "STRETCH",
    "ImageSource",
    "ImageTooLargeError",
    "ReadOptions",
    "ValueRange",
    "check_for_opencv",
    "decode_image",
    "is_image",
    "parse_range",
    "read_image",
]
