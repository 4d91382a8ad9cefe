"""Pictures of label maps: overlays with a legend, predictions next to the ground truth, errors, scores."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from itaclip.common.figures.fonts import font, writable
from itaclip.common.figures.palette import palette
from itaclip.errors import ItaclipError

Colors = Sequence[Sequence[int]]

_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)
_CORRECT, _WRONG, _IGNORED = (38, 115, 77), (214, 40, 57), (0, 0, 0)
_LONGEST_NAME = 60
_MAX_COLUMNS = 3  # of a legend; beyond that it grows downwards


# --- one map -----------------------------------------------------------------


def paint_labels(labels: NDArray[np.integer], colors: Colors) -> NDArray[np.uint8]:
    """Convert H x W class ids to H x W x 3 uint8 RGB; ids without a colour (such as 255, ignored) are black."""
    table = np.zeros((max(int(labels.max(initial=0)), len(colors) - 1) + 1, 3), np.uint8)
    table[: len(colors)] = np.asarray(colors, np.uint8)
    return table[labels]


def overlay(image: NDArray[np.uint8], labels: NDArray[np.integer], colors: Colors,
            opacity: float = 0.55) -> NDArray[np.uint8]:  # fmt: skip
    """Blend class colours over an image and draw the borders between classes.

    Args:
        image: H x W x 3 uint8 RGB.
        labels: H x W class ids.
        colors: RGB in 0..255 per class.
        opacity: opacity of the colours, in [0, 1].
    """
    blended = _blend(image, paint_labels(labels, colors), opacity)
    border = np.zeros(labels.shape, bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    blended[border] = 255
    return blended


def error_map(
    image: NDArray[np.uint8], predicted: NDArray[np.integer], truth: NDArray[np.integer], ignored: int = 255
) -> NDArray[np.uint8]:
    """Blend correct pixels in green, wrong ones in red and ignored ones in black over the image in grey.

    Args:
        image: H x W x 3 uint8 RGB.
        predicted: H x W class ids.
        truth: H x W class ids; any label that is not a class counts as an error.
        ignored: label of ignored pixels.
    """
    painted = paint_labels((predicted != truth).astype(np.uint8), (_CORRECT, _WRONG))
    grey = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    blended = _blend(grey, painted, 0.6)
    blended[truth == ignored] = _IGNORED
    return blended


def heat_map(image: NDArray[np.uint8], values: NDArray[np.floating], highest: float = 1.0,
             opacity: float = 0.7) -> NDArray[np.uint8]:  # fmt: skip
    """Blend a map of values over the image in grey: dark is 0, bright is `highest`.

    Args:
        image: H x W x 3 uint8 RGB.
        values: H x W.
        highest: value of the brightest colour.
        opacity: opacity of the colours, in [0, 1].
    """
    from matplotlib import colormaps

    scaled = np.clip(values / (highest or 1.0), 0, 1)
    painted = colormaps["inferno"](scaled, bytes=True)[..., :3]
    grey = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    return _blend(grey, painted, opacity)


def save_mask(labels: NDArray[np.integer], colors: Colors, path: Path | IO[bytes]) -> None:
    """Write class ids as PNG to a path or open file: 8-bit with a palette, 16-bit greyscale above 256 classes.

    Raises:
        ItaclipError: a class id above 65,535, which a PNG cannot hold.
    """
    highest = np.iinfo(np.uint16).max
    if labels.max(initial=0) > highest:
        raise ItaclipError(
            f"class id {int(labels.max())}: a mask in PNG holds ids up to {highest}; use fewer classes, or the label "
            "map of the Python API."
        )
    if len(colors) > 256:
        Image.fromarray(labels.astype(np.uint16)).save(path, "PNG")
        return
    mask = Image.fromarray(labels.astype(np.uint8), "P")
    mask.putpalette(np.asarray(colors, np.uint8).ravel().tolist())
    mask.save(path, "PNG")


def mask_png(labels: NDArray[np.integer], colors: Colors) -> bytes:
    """Encode the file that `save_mask` writes."""
    buffer = io.BytesIO()
    save_mask(labels, colors, buffer)
    return buffer.getvalue()


def _blend(image: NDArray[np.uint8], painted: NDArray[np.uint8], opacity: float) -> NDArray[np.uint8]:
    return ((1 - opacity) * image + opacity * painted).astype(np.uint8)


# --- several together --------------------------------------------------------


def legend(labels: NDArray[np.integer], names: Sequence[str], colors: Colors, height: int) -> Image.Image:
    """Draw names, colours and shares of the classes that occur, largest first.

    Args:
        labels: class ids, of any shape.
        names: one per class, in any script.
        colors: RGB in 0..255 per class.
        height: height in pixels of the picture next to it; determines the font size. A legend
            with many classes may be taller.
    """
    counts = np.bincount(labels[labels < len(names)].ravel(), minlength=len(names))
    occurring = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    size = min(max(13, height // 28), 60)
    line, margin = round(size * 1.55), round(size * 0.6)
    texts = {i: _short(names[i], i) + f"  {counts[i] / labels.size:.1%}" for i in occurring}
    rows = max(1, (height - 2 * margin) // line, math.ceil(len(occurring) / _MAX_COLUMNS))
    columns = [occurring[i : i + rows] for i in range(0, len(occurring), rows)]
    widths = [max(int(_width(texts[i], size)) for i in column) + size + 3 * margin for column in columns]
    rows = max(map(len, columns), default=0)
    canvas = Image.new("RGB", (sum(widths) + margin, max(height, rows * line + 2 * margin)), _WHITE)
    draw = ImageDraw.Draw(canvas)
    left = margin
    for column, width in zip(columns, widths, strict=True):
        for row, i in enumerate(column):
            top = margin + row * line
            draw.rectangle([left, top, left + size, top + size], fill=tuple(colors[i]), outline=_BLACK)
            position = (left + size + margin, top + size / 2)
            draw.text(position, texts[i], fill=_BLACK, font=font(size, texts[i]), anchor="lm")
        left += width
    return canvas


def with_legend(picture: Image.Image, labels: NDArray[np.integer], names: Sequence[str],
                colors: Colors) -> Image.Image:  # fmt: skip
    """Put a picture of a label map next to its legend."""
    return side_by_side([picture, legend(labels, names, colors, picture.height)])


def result_figure(
    image: NDArray[np.uint8],
    predicted: NDArray[np.integer],
    names: Sequence[str],
    truth: NDArray[np.integer] | None = None,
    colors: Colors | None = None,
    compared: Mapping[str, NDArray[np.integer]] | None = None,
    errors: bool = False,
) -> Image.Image:
    """Draw side by side: image, ground truth if known, other predictions, the prediction, and a legend.

    Args:
        image: H x W x 3 uint8 RGB.
        predicted: H x W class ids.
        names: one per class.
        truth: H x W class ids; labels that are no class are drawn black. 255 is ignored, or 65535 if there are
            more than 255 classes.
        colors: RGB per class; None uses the project's palette.
        compared: other predictions by title.
        errors: whether to add an error map.
    """
    colors = colors if colors is not None else palette(len(names))
    maps = {"truth": truth, **(compared or {}), "result": predicted}
    shown = {title: labels for title, labels in maps.items() if labels is not None}
    pictures = {"image": image} | {title: overlay(image, labels, colors) for title, labels in shown.items()}
    if errors and truth is not None:
        pictures["errors (red)"] = error_map(image, predicted, truth, 65535 if len(names) > 255 else 255)
    panels = [titled(Image.fromarray(picture), title) for title, picture in pictures.items()]
    every = np.concatenate([labels.ravel() for labels in shown.values()])
    panels.append(legend(every, names, colors, max(panels[0].height, 40)))
    return side_by_side(panels)


def score_figure(image: NDArray[np.uint8], scores: Mapping[str, NDArray[np.floating]],
                 columns: int = 4, highest: float = 1.0) -> Image.Image:  # fmt: skip
    """Draw heat maps of several classes in rows.

    Args:
        image: H x W x 3 uint8 RGB.
        scores: H x W values by title.
        columns: pictures per row.
        highest: value of the brightest colour in all of them.
    """
    panels = [
        titled(Image.fromarray(heat_map(image, values, highest)), title, number)
        for number, (title, values) in enumerate(scores.items())
    ]
    return stacked([side_by_side(panels[i : i + columns]) for i in range(0, len(panels), columns)])


def titled(picture: Image.Image, title: str, number: int = 0) -> Image.Image:
    """Add a line of text above a picture; a title that no font can write becomes "class `number`"."""
    size = min(max(12, picture.height // 24), 60)
    text = _short(title, number)
    while len(text) > 4 and _width(text, size) > picture.width:
        text = text[:-2].rstrip("…") + "…"
    band = round(size * 1.4)
    canvas = Image.new("RGB", (picture.width, picture.height + band), _WHITE)
    ImageDraw.Draw(canvas).text((1, band / 2), text, fill=_BLACK, font=font(size, text), anchor="lm")
    canvas.paste(picture, (0, band))
    return canvas


def side_by_side(panels: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    """Arrange pictures in a row on white, aligned at the top."""
    return _arranged(panels, gap, across=True)


def stacked(panels: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    """Arrange pictures in a column on white, aligned at the left."""
    return _arranged(panels, gap, across=False)


def _arranged(panels: Sequence[Image.Image], gap: int, across: bool) -> Image.Image:
    if not panels:
        return Image.new("RGB", (1, 1), _WHITE)
    widths, heights = [panel.width for panel in panels], [panel.height for panel in panels]
    gaps = gap * (len(panels) - 1)
    size = (sum(widths) + gaps, max(heights)) if across else (max(widths), sum(heights) + gaps)
    canvas = Image.new("RGB", size, _WHITE)
    at = 0
    for panel in panels:
        canvas.paste(panel, (at, 0) if across else (0, at))
        at += (panel.width if across else panel.height) + gap
    return canvas


def _short(name: str, number: int) -> str:
    """Shorten a name so that it fits and a font can write it."""
    name = writable(name, number)
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _width(text: str, size: int) -> float:
    found = font(size, text)
    return found.getlength(text) if found else size * len(text)
