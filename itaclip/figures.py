"""Pictures: overlays with a legend, and results beside the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from itaclip.palette import palette

_MARGIN = 8
_BACKGROUND = (255, 255, 255)


def paint_labels(labels: NDArray[np.integer], colors: Sequence[Sequence[int]]) -> NDArray[np.uint8]:
    """Class ids H x W to RGB H x W x 3; ids without a colour (255: ignored) are black."""
    table = np.zeros((max(int(labels.max(initial=0)), len(colors) - 1) + 1, 3), np.uint8)
    table[: len(colors)] = np.asarray(colors, np.uint8)
    return table[labels]


def overlay(image: NDArray[np.uint8], labels: NDArray[np.integer], colors: Sequence[Sequence[int]],
            opacity: float = 0.55) -> NDArray[np.uint8]:  # fmt: skip
    """Blend class colours over an image and draw the borders between classes.

    Args:
        image: H x W x 3 uint8 RGB.
        labels: H x W class ids.
        colors: RGB in 0..255 per class.
        opacity: of the colours, in [0, 1].
    """
    painted = paint_labels(labels, colors)
    blended = (1 - opacity) * image + opacity * painted
    border = np.zeros(labels.shape, bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    blended[border] = 255
    return blended.astype(np.uint8)


def legend(labels: NDArray[np.integer], names: Sequence[str], colors: Sequence[Sequence[int]],
           height: int) -> Image.Image:  # fmt: skip
    """Names, colours and shares of the classes that occur, largest first, in columns."""
    ids, counts = np.unique(labels[labels < len(names)], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    size = 13
    font = ImageFont.load_default(size)
    lines = [(int(ids[i]), f"{names[ids[i]]}  {counts[i] / labels.size:.1%}") for i in order]
    rows = max(1, (height - 2 * _MARGIN) // (size + 7))
    columns = [lines[i : i + rows] for i in range(0, len(lines), rows)] or [[]]
    widths = [
        max([int(font.getlength(text)) for _, text in column], default=0) + size + 2 * _MARGIN for column in columns
    ]
    canvas = Image.new("RGB", (sum(widths) + _MARGIN, height), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    left = _MARGIN
    for column, width in zip(columns, widths, strict=True):
        for row, (class_id, text) in enumerate(column):
            top = _MARGIN + row * (size + 7)
            draw.rectangle([left, top, left + size, top + size], fill=tuple(colors[class_id]), outline=(0, 0, 0))
            draw.text((left + size + 6, top - 1), text, fill=(0, 0, 0), font=font)
        left += width
    return canvas


def result_figure(
    image: NDArray[np.uint8],
    predicted: NDArray[np.integer],
    names: Sequence[str],
    truth: NDArray[np.integer] | None = None,
    colors: Sequence[Sequence[int]] | None = None,
    compared: Mapping[str, NDArray[np.integer]] | None = None,
) -> Image.Image:
    """Image, truth where known, other results, the result, and a legend of all, side by side.

    Args:
        image: H x W x 3 uint8 RGB.
        predicted: H x W class ids.
        names: one per class.
        truth: H x W class ids; 255 is drawn black.
        colors: RGB per class; None takes the project's palette.
        compared: other results by title.
    """
    colors = colors if colors is not None else palette(len(names))
    maps = {"truth": truth, **(compared or {}), "result": predicted}
    shown = {title: labels for title, labels in maps.items() if labels is not None}
    panels = [titled(Image.fromarray(image), "image")]
    panels += [titled(Image.fromarray(overlay(image, labels, colors)), title) for title, labels in shown.items()]
    every = np.concatenate([labels.ravel() for labels in shown.values()])[None]
    panels.append(legend(every, names, colors, max(panels[0].height, 40)))
    return side_by_side(panels)


def titled(picture: Image.Image, title: str) -> Image.Image:
    """A picture with a line of text above it."""
    font = ImageFont.load_default(12)
    canvas = Image.new("RGB", (picture.width, picture.height + 17), _BACKGROUND)
    ImageDraw.Draw(canvas).text((1, 0), title, fill=(0, 0, 0), font=font)
    canvas.paste(picture, (0, 17))
    return canvas


def side_by_side(panels: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    """Pictures in a row on white, tops aligned."""
    width = sum(panel.width for panel in panels) + gap * (len(panels) - 1)
    canvas = Image.new("RGB", (width, max(panel.height for panel in panels)), _BACKGROUND)
    left = 0
    for panel in panels:
        canvas.paste(panel, (left, 0))
        left += panel.width + gap
    return canvas


def save_mask(labels: NDArray[np.integer], colors: Sequence[Sequence[int]], path: Path) -> None:
    """Write class ids as PNG: 8-bit with a palette, 16-bit grey above 256 classes."""
    if len(colors) > 256:
        Image.fromarray(labels.astype(np.uint16)).save(path)
        return
    mask = Image.fromarray(labels.astype(np.uint8), "P")
    mask.putpalette(np.asarray(colors, np.uint8).ravel().tolist())
    mask.save(path)
