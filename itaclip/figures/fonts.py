"""A font that has the letters of a text, whatever its script."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from PIL import ImageFont


@cache
def font(size: int, text: str = "") -> ImageFont.FreeTypeFont | None:
    """DejaVu Sans (Latin, Greek, Cyrillic, Arabic and more), or else an installed font.

    Args:
        size: in pixels.
        text: what is to be written.

    Returns:
        The first font with a glyph for every letter; None when this machine has none.
    """
    wanted = {ord(letter) for letter in text if not letter.isspace()}
    for path in _paths():
        if wanted <= _letters(path):
            return ImageFont.truetype(path, size)
    return None


def writable(name: str, number: int) -> str:
    """A name on one line; "class 7" where no font has its letters."""
    name = " ".join(name.split())
    return name if font(12, name) else f"class {number}"


def _paths() -> Iterator[str]:
    from matplotlib import font_manager, get_data_path

    yield str(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf")
    installed = {entry.fname for entry in font_manager.fontManager.ttflist if entry.style == "normal"}
    yield from sorted(path for path in installed if "LastResort" not in path)  # that one draws boxes


@cache
def _letters(path: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except RuntimeError:  # an installed font that cannot be read is no reason to stop
        return frozenset()
