"""Segment videos: a mask per frame, then an overlay video."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from itaclip.apps.folders.batches import write_behind
from itaclip.apps.folders.containers import is_cut
from itaclip.common import figures
from itaclip.errors import ItaclipError
from itaclip.files import atomic_path
from itaclip.result import Result
from itaclip.segmenter import Segmenter
from itaclip.vocabulary import Vocabulary

VIDEO_SUFFIXES = frozenset([".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"])
"""File extensions of videos."""


@dataclass
class _FrameCount:
    """What the file had: the number of frames read, and how many are missing at its end if it is cut off."""

    read: int = 0
    missing: int = 0


def segment_video(
    segmenter: Segmenter,
    vocabulary: Vocabulary,
    path: Path,
    stem: str,
    out: Path,
    batch: int = 4,
    every: int = 1,
    overlay: bool = True,
    replace: bool = False,
) -> dict[str, Any]:
    """Segment the frames of a video, skipping frames that already have a mask.

    Args:
        segmenter: the segmenter to run.
        vocabulary: the classes.
        path: the video.
        stem: name of its mask folder below ``out/masks``, and of its overlay.
        out: folder for the results.
        batch: frames per batch, 1 or more, 4 by default.
        every: segment every n-th frame, 1 or more, 1 by default.
        overlay: whether to write ``out/overlays/STEM.mp4`` too, without a legend.
        replace: whether to segment frames again that have a mask.

    Returns:
        Number of segmented frames, their size, mean areas, and paths of the files. For a video
        that is cut off also ``missing``, the number of frames that its container announces beyond
        the last one (an estimate if frames vary in length), and ``error``, which says so.

    Raises:
        ItaclipError: not a video, or files that cannot be written.
    """
    folder = out / "masks" / stem

    def write(number: int, result: Result) -> None:
        with atomic_path(folder / f"{number:06d}.png") as partial:
            figures.save_mask(result.labels, result.colors, partial)

    def segmented() -> Iterator[tuple[list[int], list[Result]]]:
        frames = (
            (number, image)
            for number, image in _frames(path, every, count)
            if replace or not (folder / f"{number:06d}.png").is_file()
        )
        while chunk := list(itertools.islice(frames, batch)):
            yield [number for number, _ in chunk], segmenter([image for _, image in chunk], vocabulary)

    count = _FrameCount()
    for _ in write_behind(write, segmented()):
        pass
    line = _summary(vocabulary, path, stem, out, every, overlay)
    if not count.missing:
        return line
    error = (
        f"{path}: cut off after {count.read} frames; by what its container announces, {count.missing} are "
        "missing. The masks of those read are kept. Replace the file by a whole one, and run again."
    )
    return line | {"missing": count.missing, "error": error}


def _summary(
    vocabulary: Vocabulary, path: Path, stem: str, out: Path, every: int, overlay: bool
) -> dict[str, Any]:  # fmt: skip
    """Average the areas over the frames, and write the overlay video in the same pass."""
    counts = np.zeros(len(vocabulary.names), np.int64)
    frames, size = 0, (0, 0)
    target = out / "overlays" / f"{stem}.mp4"
    with atomic_path(target) if overlay else _nothing() as partial:
        writer = None
        for number, image in _frames(path, every):
            with Image.open(out / "masks" / stem / f"{number:06d}.png") as opened:
                labels = np.asarray(opened)
            counts += np.bincount(labels.ravel(), minlength=len(counts))
            frames, size = frames + 1, labels.shape
            if partial is not None:
                writer = writer or _writer(partial, path, every, size)
                writer.write(figures.overlay(image, labels, vocabulary.colors)[..., ::-1])
        if writer is not None:
            writer.release()
    areas = {name: round(float(n / counts.sum()), 6) for name, n in zip(vocabulary.names, counts, strict=True) if n}
    line = {"frames": frames, "every": every, "height": size[0], "width": size[1], "areas": areas}
    return line | {"mask": f"masks/{stem}"} | ({"overlay": f"overlays/{stem}.mp4"} if overlay else {})


def _frames(path: Path, every: int, count: _FrameCount | None = None) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield the number, from 0, and H x W x 3 uint8 RGB of every n-th frame; at the end, fill in `count`."""
    capture = cv2.VideoCapture(str(path))
    try:
        number, last = -1, 0.0
        while capture.grab():
            number += 1
            last = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if number % every == 0:
                read, frame = capture.retrieve()
                if read:
                    yield number, np.ascontiguousarray(frame[..., ::-1])
        if number < 0:
            raise ItaclipError(f"{path}: contains no readable frame; is it a video, and whole?")
        if count is not None:
            count.read = number + 1
            if is_cut(path):
                announced, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
                count.missing = _missing(number + 1, last, announced, rate)
    finally:
        capture.release()


def _missing(frames: int, last: float, announced: float, rate: float) -> int:
    """Count the frames missing at the end of a video that is cut off.

    Containers that announce no number but a duration have the number estimated from the rate of
    the first frames. The time that is missing, at the mean rate of the frames read, bounds it.

    Args:
        frames: number of frames read.
        last: time of the last one in seconds.
        announced: number of frames that the container announces, negative if it does not.
        rate: its frames per second.
    """
    missing = announced - frames
    if rate > 0 and last > 0 and frames > 1:
        missing = min(missing, (announced / rate - last) / (last / (frames - 1)) - 1)
    return max(0, round(missing)) if math.isfinite(missing) else 0


def _writer(target: Path, source: Path, every: int, size: tuple[int, ...]) -> cv2.VideoWriter:
    capture = cv2.VideoCapture(str(source))
    rate = capture.get(cv2.CAP_PROP_FPS) or 25.0
    capture.release()
    writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), rate / every, (size[1], size[0]))
    if not writer.isOpened():
        raise ItaclipError(f"{target}: this installation of OpenCV cannot write MP4; run with --no-overlays.")
    return writer


@contextmanager
def _nothing() -> Iterator[None]:
    yield None
