"""Inspect the images and masks of a data set, one pair at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from itaclip.errors import ItaclipError
from itaclip.images.orientation import TURNS, stored_orientation, turn_remedy
from itaclip.preparation.findings import Findings
from itaclip.preparation.jobs import run_jobs
from itaclip.preparation.listing import iterate_files
from itaclip.preparation.masks import IGNORED, read_label_map

SAMPLE = 50
"""Number of pairs to decode unless all are requested."""

CONVERTED_MASKS = "Use the masks that the converter wrote (docs/datasets.md)."


@dataclass(frozen=True)
class Tree:
    """The layout of a data set on disk, as MMSegmentation reads it.

    Attributes:
        images: folder of images.
        masks: folder of masks.
        names: list file, one image name without suffix per line; None scans `images`.
        image_suffix: suffix after the name in `images`.
        mask_suffix: suffix after the name in `masks`.
        classes: class names; their labels are 0..K-1, after the shift if `zero_ignored`.
        zero_ignored: whether stored label 0 is ignored and 1..K become 0..K-1.
        mask_remedy: what to do about missing or invalid masks.
        turned: whether images are turned as their EXIF orientation says.
    """

    images: Path
    masks: Path
    names: Path | None
    image_suffix: str
    mask_suffix: str
    classes: tuple[str, ...]
    zero_ignored: bool = False
    mask_remedy: str = CONVERTED_MASKS
    turned: bool = True

    def stored_labels(self) -> range:
        """The labels that a mask may contain besides 255."""
        return range(len(self.classes) + self.zero_ignored)


@dataclass(frozen=True)
class Pair:
    """One image and its mask."""

    image: Path
    mask: Path


@dataclass
class Inspection:
    """The result of an inspection.

    Attributes:
        pairs: number of pairs in the data set.
        decoded: number of decoded pairs.
        pixels: 256 int64 pixel counts by stored label, over all decoded masks.
        findings: the problems.
    """

    pairs: int = 0
    decoded: int = 0
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    findings: Findings = field(default_factory=Findings)

    def classes_without_pixels(self, tree: Tree) -> list[str]:
        """Classes that occur in no decoded mask."""
        return [name for i, name in enumerate(tree.classes) if not self.pixels[i + tree.zero_ignored]]


def find_pairs(tree: Tree, findings: Findings | None = None) -> Iterator[Pair]:
    """Yield the pairs of a data set in the order of its list file, or in no particular order without one.

    Args:
        tree: the data set.
        findings: collects problems of the list file itself.

    Raises:
        ItaclipError: the list file or folder cannot be read.
    """
    if tree.names is None:
        for image in iterate_files(tree.images, tree.image_suffix, recursive=True):
            name = str(image.relative_to(tree.images))[: -len(tree.image_suffix)]
            yield Pair(image, tree.masks / (name + tree.mask_suffix))
        return
    seen: set[str] = set()
    for number, line in enumerate(_lines(tree.names), 1):
        name = line.strip()
        where = f"{tree.names}, line {number}"
        if findings is not None and not name:
            findings.add("blank line in the list", "Delete the line.", where)
        if findings is not None and name in seen:
            findings.add("name listed twice", "Delete one of the lines.", f"{where}: {name}")
        seen.add(name)
        if name:
            yield Pair(tree.images / (name + tree.image_suffix), tree.masks / (name + tree.mask_suffix))


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        raise ItaclipError(f"{path}: cannot be read as a list of names ({error}).") from error


def inspect_tree(tree: Tree, full: bool = False, workers: int = 1) -> Inspection:
    """Check that every pair exists, and decode `SAMPLE` pairs or all of them.

    Raises:
        ItaclipError: the list file or a folder cannot be read.
    """
    inspection = Inspection()
    inspection.pairs = sum(1 for _ in find_pairs(tree, inspection.findings))
    step = 1 if full else max(1, -(-inspection.pairs // SAMPLE))

    def present() -> Iterator[Pair]:
        position = count()
        for pair in find_pairs(tree):
            if _exists(pair, tree, inspection.findings) and next(position) % step == 0:
                yield pair

    for problems, pixels in run_jobs(partial(inspect_pair, tree), present(), workers):
        inspection.decoded += 1
        inspection.pixels += pixels
        for problem in problems:
            inspection.findings.add(*problem)
    return inspection


def _exists(pair: Pair, tree: Tree, findings: Findings) -> bool:
    image, mask = pair.image.is_file(), pair.mask.is_file()
    if not image:
        hint = f"Extract the images again; the list must contain names without {tree.image_suffix}."
        findings.add("missing image", hint, str(pair.image))
    if not mask:
        findings.add("missing mask", tree.mask_remedy, str(pair.mask))
    return image and mask


def inspect_pair(tree: Tree, pair: Pair) -> tuple[list[tuple[str, str, str]], NDArray[np.int64]]:
    """Decode one pair.

    Returns:
        The problems (what, remedy, where), and the 256 pixel counts of the mask.
    """
    problems = []
    pixels = np.zeros(256, np.int64)
    size, orientation = None, 1
    try:
        size, orientation = _decoded_size(pair.image, tree.turned)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, ItaclipError) as error:
        problems.append(("image that cannot be decoded", "Extract or download it again.", f"{pair.image}: {error}"))
    try:
        labels = read_label_map(pair.mask)
    except ItaclipError as error:
        problems.append(("mask that cannot be read", tree.mask_remedy, str(error)))
        return problems, pixels
    pixels = np.bincount(labels.ravel(), minlength=256)
    if size is not None and size != labels.shape:
        turned = orientation in TURNS and size == labels.shape[::-1]
        remedy = "They are from different versions; extract both from the same source."
        problems.append((
            "mask of a turned photo is not turned" if turned else "image and mask differ in size",
            turn_remedy(orientation) if turned else remedy,
            f"{pair.mask}: {labels.shape[0]} x {labels.shape[1]}, image {size[0]} x {size[1]}",
        ))  # fmt: skip
    allowed = tree.stored_labels()
    invalid = [value for value in np.flatnonzero(pixels).tolist() if value not in allowed and value != IGNORED]
    if invalid:
        problems.append((
            f"label outside 0..{allowed[-1]} and 255", tree.mask_remedy,
            f"{pair.mask}: {', '.join(map(str, invalid[:5]))}{', ...' if len(invalid) > 5 else ''}",
        ))  # fmt: skip
    return problems, pixels


def _decoded_size(path: Path, turned: bool) -> tuple[tuple[int, int], int]:
    """Height and width as MMSegmentation loads the image; and the EXIF orientation that it applies, else 1."""
    with Image.open(path) as image:
        image.load()
        if turned or image.format == "TIFF":  # OpenCV turns TIFF even if it is told not to
            upright = ImageOps.exif_transpose(image)
            return (upright.height, upright.width), stored_orientation(path)
        return (image.height, image.width), 1
