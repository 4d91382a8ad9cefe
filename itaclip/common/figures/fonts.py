"""Find a font with the characters of a text in any script."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from PIL import ImageFont


@cache
def font(size: int, text: str = "") -> ImageFont.FreeTypeFont | None:
    """Open DejaVu Sans (Latin, Greek, Cyrillic, Arabic and more) if it suffices, otherwise an installed font.

    Args:
        size: font size in pixels.
        text: the text to write.

    Returns:
        The first font with a glyph for every character; None if no installed font has them all.
    """
    wanted = {ord(letter) for letter in text if not letter.isspace()}
    for path in _paths():
        if wanted <= _letters(path):
            return ImageFont.truetype(path, size)
    return None


def writable(name: str, number: int) -> str:
    """Return a name on one line, or "class 7" if no font has its characters."""
    name = " ".join(name.split())
    return name if font(12, name) else f"class {number}"


def _paths() -> Iterator[str]:
    from matplotlib import font_manager, get_data_path

    yield str(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf")
    installed = {entry.fname for entry in font_manager.fontManager.ttflist if entry.style == "normal"}
    yield from sorted(path for path in installed if "LastResort" not in path)  # it draws only boxes


@cache
def _letters(path: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except RuntimeError:  # skip installed fonts that cannot be read
        return frozenset()
