"""An HTML page for a run: charts, and every image next to its ground truth, worst first."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from itaclip.common.figures.charts import confusion_chart, iou_chart, save_chart
from itaclip.common.figures.pictures import Colors, result_figure
from itaclip.files import atomic_path, write_text
from itaclip.research.evaluation.confusion import class_iou, confusion_matrix

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1400px;padding:0 1rem;color:#1b1b1b}"
    "img{max-width:100%;height:auto}figure{margin:0 0 2rem}figcaption{margin-bottom:.3rem}"
    ".charts{display:flex;flex-wrap:wrap;gap:1rem;align-items:flex-start}.charts img{max-width:640px;width:100%}"
)


_CHARTS = ("iou.png", "confusion.png")


@dataclass(frozen=True)
class _Card:
    """One image of the gallery."""

    name: str
    mean_iou: float
    picture: str


class Gallery:
    """Collects the images of a run and writes ``index.html`` with the figures it shows.

    Args:
        out: folder for the page.
        names: class names.
        colors: RGB in 0..255 per class.
    """

    def __init__(self, out: Path, names: Sequence[str], colors: Colors) -> None:
        self._out, self._names, self._colors = out, names, colors
        self._cards: list[_Card] = []
        self.confusion = torch.zeros(len(names) + 1, len(names) + 1, dtype=torch.int64)

    @staticmethod
    def files(out: Path, count: int) -> list[Path]:
        """List the files that a page of `count` images consists of."""
        return [out / name for name in (*map(_picture, range(count)), *_CHARTS, "index.html")]

    def add(
        self, name: str, image: NDArray[np.uint8], predicted: NDArray[np.integer], truth: NDArray[np.integer]
    ) -> float:
        """Evaluate and draw one image.

        Args:
            name: image name, possibly with folders.
            image: H x W x 3 uint8 RGB.
            predicted: H x W class ids.
            truth: H x W class ids; 255 is ignored.

        Returns:
            Mean IoU in percent over the classes that occur in the ground truth or the prediction.
        """
        counts = confusion_matrix(predicted, truth, len(self._names))
        self.confusion += counts
        mean = float(class_iou(counts).nanmean())
        picture = _picture(len(self._cards))
        with atomic_path(self._out / picture) as partial:
            drawn = result_figure(image, predicted, self._names, truth, self._colors, errors=True)
            drawn.save(partial, "JPEG", quality=88)
        self._cards.append(_Card(name, mean, picture))
        return mean

    def write(self, title: str) -> Path:
        """Write the charts and the page; return the path of the page."""
        values, labelled = class_iou(self.confusion), self.confusion[:-1]
        charts = iou_chart(values.tolist(), self._names), confusion_chart(labelled[:, :-1].numpy(), self._names)
        for name, chart in zip(_CHARTS, charts, strict=True):
            _save(chart, self._out / name)
        accuracy = int(labelled.trace()) / max(1, int(labelled.sum()))
        cards = sorted(self._cards, key=lambda card: (np.isfinite(card.mean_iou), card.mean_iou))
        body = "\n".join(
            f'<figure id="i{n}"><figcaption>{html.escape(card.name)}: mIoU {card.mean_iou:.1f}</figcaption>'
            f'<img loading="lazy" src="{card.picture}" alt="image, ground truth, prediction and errors"></figure>'
            for n, card in enumerate(cards)
        )
        page = (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>\n"
            f"<h1>{html.escape(title)}</h1>\n<p>{len(cards)} images, mIoU {values.nanmean():.2f}, "
            f"{accuracy:.2%} of the pixels correct. The worst images come first.</p>\n"
            '<div class="charts"><img src="iou.png" alt="IoU of every class">'
            '<img src="confusion.png" alt="confusion between classes"></div>'
            f"\n<h2>Images</h2>\n{body}\n</body></html>\n"
        )
        write_text(self._out / "index.html", page)
        return self._out / "index.html"


def read_mask(path: Path) -> NDArray[np.integer]:
    """Read the class ids, H x W, of a PNG written by `save_mask`."""
    with Image.open(path) as opened:
        return np.array(opened)  # a copy, because PyTorch expects a writable array


def _picture(number: int) -> str:
    return f"images/{number:06d}.jpg"


def _save(chart: Figure, path: Path) -> None:
    with atomic_path(path) as partial:
        save_chart(chart, partial)
