"""The segmenter that the workers of `test_label.py` run: the bundled CLIP, with a log of its calls."""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from itaclip import LabelOptions, Segmenter, Vocabulary

CLASSES = ["car, taxi", "cloud", "tree"]


class Counting(Segmenter):
    """Logs the number of images and the process id, waits, and then segments the images."""

    log: Path
    delay: float

    def __call__(self, images: Any, vocabulary: Vocabulary | None = None, **settings: Any) -> Any:
        with self.log.open("a") as file:
            file.write(f"{len(images)} {os.getpid()}\n")
        time.sleep(self.delay * len(images))
        return super().__call__(images, vocabulary, **settings)


def counting(log: Path, delay: float, device: str) -> Counting:
    made = Counting("demo", "fast", pamr_steps=0, device=device)
    made.log, made.delay = log, delay
    return made


def choose(segmenter: Segmenter) -> Vocabulary:
    return segmenter.prepare(CLASSES)


def main(source: str, out: str, log: str, delay: str, address: str) -> None:
    """A separate driver process, which tests kill."""
    from itaclip.apps.collection.label import label_with

    options = LabelOptions(part_size=2, batch=1, threads=1, address=address)
    label_with(source, out, partial(counting, Path(log), float(delay)), choose, options=options)


if __name__ == "__main__":
    main(*sys.argv[1:])
