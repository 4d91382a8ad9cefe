"""Colours for any number of classes."""

from __future__ import annotations

import colorsys

# Easy to distinguish and readable under white or black text; class 0 is dark grey.
_FIRST = (
    "404040", "e6194b", "3cb44b", "ffe119", "4363d8", "f58231", "911eb4", "42d4f4", "f032e6", "bfef45", "fabed4",
    "469990", "dcbeff", "9a6324", "fffac8", "800000", "aaffc3", "808000", "ffd8b1", "000075", "a9a9a9",
)  # fmt: skip


def palette(count: int) -> list[list[int]]:
    """Make `count` distinct RGB colours in 0..255, always the same.

    Hand-picked colours come first, then hues a golden angle apart with varying lightness, so
    that neighbouring class ids never look alike.
    """
    colors = [[int(code[i : i + 2], 16) for i in (0, 2, 4)] for code in _FIRST[:count]]
    taken = {tuple(color) for color in colors}
    step = 0
    while len(colors) < count:
        hue = step * 0.618034 % 1
        light = (0.45, 0.65, 0.35, 0.78, 0.55)[step % 5]
        saturation = (0.85, 0.6, 0.95, 0.7)[step // 5 % 4]
        color = [round(255 * channel) for channel in colorsys.hls_to_rgb(hue, light, saturation)]
        step += 1
        if tuple(color) not in taken:
            taken.add(tuple(color))
            colors.append(color)
    return colors
