"""Values of more than 8 bits to 8 bits: as they are if they fill their range, else as the user says."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from itaclip.errors import ItaclipError

STRETCH: Literal["stretch"] = "stretch"
"""The value range of each image by itself: from its 2nd to its 98th percentile, over all bands together."""

ValueRange: TypeAlias = "tuple[float, float] | Literal['stretch'] | None"
"""Which values become 0 and 255: ``(low, high)``, `STRETCH`, or None where the image's type tells."""

_PERCENTILES = (2.0, 98.0)
_DARK = 0.99  # this share of the values in the lowest quarter of their range: nearly black
_BLOCK = 1 << 22  # values converted at once


def checked_range(value: Any) -> ValueRange:
    """Make a value range of anything that a caller may pass.

    Raises:
        ItaclipError: neither None, "stretch" nor two finite numbers, the lower one first.
    """
    if value is None or value == STRETCH:
        return None if value is None else STRETCH
    try:
        low, high = (float(side) for side in value)
    except (TypeError, ValueError):
        low = high = math.nan
    if isinstance(value, str) or not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ItaclipError(f"value_range = {value!r}: expected (LOW, HIGH), the lower number first, or {STRETCH!r}.")
    return low, high


def parse_range(text: str) -> ValueRange:
    """Parse the value range in ``LOW,HIGH`` or ``stretch``, as command lines have it.

    Raises:
        ItaclipError: another text.
    """
    try:
        return checked_range(text if text == STRETCH else text.split(","))
    except ItaclipError:
        raise ItaclipError(
            f"--value-range {text}: expected LOW,HIGH, the lower number first (0,3000; with a negative number "
            f"--value-range=-1,1), or {STRETCH}."
        ) from None


def as_8_bits(values: NDArray[Any], bits: int | None, name: str, value_range: ValueRange) -> NDArray[np.uint8]:
    """Convert values of any type to 8 bits.

    8-bit values stay as they are. Unsigned values of `bits` bits keep their 8 highest bits. With a
    value range, other than 8-bit values are mapped linearly, rounded and clipped: LOW to 0, HIGH to 255.

    Args:
        values: of any shape and any real type.
        bits: number of bits of unsigned values that fill their range, such as 16; None for values
            whose type does not tell what is black and what is white.
        name: the name used in messages.
        value_range: see `ValueRange`.

    Raises:
        ItaclipError: values that are not finite; without a value range, values whose type tells no
            range, or that use almost only the lowest quarter of it. The message begins with the name.
    """
    if values.dtype == np.uint8:
        return values
    low, high = _bounds(values)
    if not (math.isfinite(low) and math.isfinite(high)):
        count = values.size - int(np.isfinite(values).sum())
        raise ItaclipError(
            f"{name}: {count:,} of {values.size:,} values are NaN or infinite; replace them first (numpy.nan_to_num)."
        )
    if value_range is None:
        if bits is None:
            raise ItaclipError(f"{name}: {_kind(values)} from {low:g} to {high:g} need a range. {_remedy(low, high)}")
        if not fills_range(values, bits):
            raise ItaclipError(
                f"{name}: values from {low:g} to {high:g}, of 0 to {2**bits - 1}: nearly black as they are. "
                f"{_remedy(low, high)}"
            )
        return (values >> (bits - 8)).astype(np.uint8)
    black, white = _stretched(values, low, high) if value_range == STRETCH else value_range
    return _mapped(values, black, white)


def fills_range(values: NDArray[Any], bits: int) -> bool:
    """Whether unsigned values of `bits` bits use their range, rather than almost only its lowest quarter."""
    return bool(np.count_nonzero(values < 2 ** (bits - 2)) < _DARK * values.size)


def _kind(values: NDArray[Any]) -> str:
    return "floating-point values" if values.dtype.kind == "f" else f"{values.dtype} values"


def _remedy(low: float, high: float) -> str:
    if low >= 0 and high <= 1:
        low, high = 0, 1
    elif low >= 0:
        low = 0
    return (
        f"Pass value_range=({low:g}, {high:g}) or value_range={STRETCH!r} to Segmenter; on the command line, "
        f"--value-range={low:g},{high:g} or --value-range={STRETCH}."
    )


def _bounds(values: NDArray[Any]) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _stretched(values: NDArray[Any], low: float, high: float) -> tuple[float, float]:
    """Compute the percentiles; all values if the percentiles are equal."""
    black, white = (float(value) for value in np.percentile(values.ravel(), _PERCENTILES))
    return (black, white) if black < white else (low, high)


def _mapped(values: NDArray[Any], black: float, white: float) -> NDArray[np.uint8]:
    flat = np.ascontiguousarray(values).reshape(-1)
    result = np.zeros(flat.shape, np.uint8)
    if black < white:
        for first in range(0, len(flat), _BLOCK):  # block by block: doubles of everything would fill the memory
            chunk = flat[first : first + _BLOCK].astype(np.float64)
            result[first : first + _BLOCK] = np.rint((chunk - black) * (255.0 / (white - black))).clip(0, 255)
    return result.reshape(values.shape)
