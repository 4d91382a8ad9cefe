"""Segment videos: a mask per frame, then an overlay video."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from itaclip import figures
from itaclip.errors import ItaclipError
from itaclip.files import atomic_path
from itaclip.segmenter import Segmenter
from itaclip.vocabulary import Vocabulary

VIDEO_SUFFIXES = frozenset([".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"])
"""File extensions of videos."""


def segment_video(
    segmenter: Segmenter,
    vocabulary: Vocabulary,
    path: Path,
    stem: str,
    out: Path,
    batch: int = 4,
    every: int = 1,
    overlay: bool = True,
) -> dict[str, Any]:
    """Segment the frames of a video, skipping frames that already have a mask.

    Args:
        segmenter: the segmenter to run.
        vocabulary: the classes.
        path: the video.
        stem: name of its mask folder below ``out/masks``, and of its overlay.
        out: folder for the results.
        batch: frames per batch.
        every: segment every n-th frame.
        overlay: whether to write ``out/overlays/STEM.mp4`` too, without a legend.

    Returns:
        Number of segmented frames, their size, mean areas, and paths of the files.

    Raises:
        ItaclipError: not a video, or files that cannot be written.
    """
    folder = out / "masks" / stem
    waiting: list[tuple[int, NDArray[np.uint8]]] = []

    def segment_waiting() -> None:
        for (number, _), result in zip(waiting, segmenter([image for _, image in waiting], vocabulary), strict=True):
            with atomic_path(folder / f"{number:06d}.png") as partial:
                figures.save_mask(result.labels, result.colors, partial)
        waiting.clear()

    for number, image in _frames(path, every):
        if not (folder / f"{number:06d}.png").is_file():
            waiting.append((number, image))
        if len(waiting) == batch:
            segment_waiting()
    if waiting:
        segment_waiting()
    return _summary(vocabulary, path, stem, out, every, overlay)


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


def _frames(path: Path, every: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield the number, from 0, and H x W x 3 uint8 RGB of every n-th frame."""
    capture = cv2.VideoCapture(str(path))
    try:
        number = -1
        while capture.grab():
            number += 1
            if number % every == 0:
                read, frame = capture.retrieve()
                if read:
                    yield number, np.ascontiguousarray(frame[..., ::-1])
        if number < 0:
            raise ItaclipError(f"{path}: contains no readable frame; is it a video?")
    finally:
        capture.release()


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
