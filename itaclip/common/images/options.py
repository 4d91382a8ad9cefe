"""How images are read: the largest one, and the range of values."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from itaclip.common.images.values import ValueRange, checked_range
from itaclip.errors import ItaclipError

LARGEST = 100_000_000
"""Maximum number of pixels to decode: 300 MB as RGB. Small files can claim far more."""

VARIABLE = "ITACLIP_LARGEST"
"""Environment variable with another number."""


def usual_largest() -> int:
    """Return the maximum where no argument says another: ``$ITACLIP_LARGEST`` or `LARGEST`.

    Raises:
        ItaclipError: the variable is no positive number.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        return LARGEST
    if not text.isdecimal() or int(text) < 1:
        raise ItaclipError(f"{VARIABLE} = {text!r}: expected a positive number of pixels.")
    return int(text)


class ImageTooLargeError(ItaclipError):
    """An image with more pixels than the limit."""


@dataclass(frozen=True)
class ReadOptions:
    """How images are read.

    Attributes:
        largest: pixels of an image, 1 or more, `usual_largest` by default; larger ones are rejected.
        value_range: which values of images with more than 8 bits become 0 and 255, see
            `itaclip.common.images.ValueRange`. It does not affect 8-bit images.
        limit: how to raise `largest`, for messages.

    Raises:
        ItaclipError: a value outside its range.
    """

    largest: int = field(default_factory=usual_largest)
    value_range: ValueRange = None
    limit: str = f"largest= in Python, --largest on the command line, {VARIABLE} in the environment"

    def __post_init__(self) -> None:
        if not isinstance(self.largest, int) or isinstance(self.largest, bool) or self.largest < 1:
            raise ItaclipError(f"largest = {self.largest!r}: expected a positive number of pixels.")
        object.__setattr__(self, "value_range", checked_range(self.value_range))

    @classmethod
    def of(cls, largest: int | None, value_range: ValueRange) -> ReadOptions:
        """Make options, with the usual maximum if `largest` is None."""
        return cls(usual_largest() if largest is None else largest, value_range)

    def check_size(self, size: tuple[int, int], name: str) -> None:
        """Refuse an image of width x height pixels that is too large.

        Raises:
            ImageTooLargeError: more pixels than `largest`.
        """
        width, height = size
        if width * height > self.largest:
            raise ImageTooLargeError(
                f"{name}: {width} x {height} pixels; at most {self.largest:,} are accepted. Reduce it, or raise the "
                f"limit: {self.limit}."
            )
