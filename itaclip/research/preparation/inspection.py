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

from itaclip.common.images.orientation import TURNS, stored_orientation, turn_remedy
from itaclip.errors import ItaclipError
from itaclip.research.preparation.findings import Findings
from itaclip.research.preparation.jobs import run_jobs
from itaclip.research.preparation.listing import iterate_files
from itaclip.research.preparation.masks import (
    CONVERT_COLORS,
    DEEP_IGNORED,
    IGNORED,
    Color,
    ColorsError,
    DeepLabelMap,
    LabelMap,
    ignored_label,
    read_label_map,
    read_label_map_and_colors,
)

SAMPLE = 50
"""Number of pairs to decode unless all are requested."""

PALETTES = (
    "One index has different colours in different masks, so colours stand for classes: python tools/convert_masks.py "
    "MASKS --colors voc|cityscapes|ade20k|FILE --out DIR. If the indices are ids, save the masks as greyscale."
)
"""Advice for paletted masks that show one index in several colours."""

CONVERTED_MASKS = "Use the masks that the converter wrote (docs/datasets.md)."

OWN_MASKS = "Masks contain the ids of the classes, in the classes' order, and 255 (docs/custom-dataset.md)."
"""Advice for masks of data sets that are no benchmark."""


@dataclass(frozen=True)
class OtherKind:
    """Masks that exist for the images of a benchmark besides its own.

    Attributes:
        name: what they are.
        values: what they may contain besides 255.
    """

    name: str
    values: frozenset[int]


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
        others: kinds of masks that are taken for those of this benchmark.
        label_map: new label of every label, 255 for none, if `classes` are a selection; None otherwise.
        benchmark: whether its suffixes are fixed, because it is a known benchmark.
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
    others: tuple[OtherKind, ...] = ()
    label_map: tuple[int, ...] | None = None
    benchmark: bool = False
    turned: bool = True

    @property
    def ignored(self) -> int:
        """The label of ignored pixels: 255, or 65535 if there are more than 255 classes."""
        return ignored_label(len(self.classes))

    @property
    def deep(self) -> bool:
        """Whether the masks have 16 bits."""
        return self.ignored == DEEP_IGNORED

    def stored_labels(self) -> range:
        """Return the labels that a mask may contain besides the ignored one."""
        return range(len(self.label_map or self.classes) + self.zero_ignored)

    def foreign(self, pixels: NDArray[np.int64]) -> list[int]:
        """List the values, among pixel counts by stored value, that masks of this data set do not have."""
        allowed = self.stored_labels()
        return [value for value in np.flatnonzero(pixels).tolist() if value not in allowed and value != self.ignored]

    def class_pixels(self, pixels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count the pixels of every class, from pixel counts by stored label."""
        labels = pixels[self.zero_ignored :]
        if self.label_map is None:
            return labels[: len(self.classes)]
        found = np.zeros(len(self.classes), np.int64)
        for old, new in enumerate(self.label_map):
            if new != IGNORED:
                found[new] += labels[old]
        return found


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
        pixels: int64 pixel counts by stored label, over all decoded masks; 256, or 65536 for masks of 16 bits.
        findings: the problems.
        notes: what is unusual, but may be right.
    """

    pairs: int = 0
    decoded: int = 0
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(IGNORED + 1, np.int64))
    findings: Findings = field(default_factory=Findings)
    notes: list[str] = field(default_factory=list)

    def classes_without_pixels(self, tree: Tree) -> list[str]:
        """List the classes that occur in no decoded mask."""
        return [name for name, n in zip(tree.classes, tree.class_pixels(self.pixels), strict=True) if not n]


class Palettes:
    """The colours in which paletted masks show their indices."""

    def __init__(self) -> None:
        self._first: dict[int, tuple[Color, Path]] = {}

    def contradiction(self, look: Look) -> str | None:
        """Return both masks and the index, if an earlier mask shows an index in another colour; otherwise None."""
        for label, color in look.colors.items():
            first, where = self._first.setdefault(label, (color, look.mask))
            if first != color:
                return f"{look.mask} and {where}: index {label}"
        return None


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
    inspection, palettes = Inspection(pixels=np.zeros(tree.ignored + 1, np.int64)), Palettes()
    inspection.pairs = sum(1 for _ in find_pairs(tree, inspection.findings))
    step = 1 if full else max(1, -(-inspection.pairs // SAMPLE))

    def present() -> Iterator[Pair]:
        position = count()
        for pair in find_pairs(tree):
            if _exists(pair, tree, inspection.findings) and next(position) % step == 0:
                yield pair

    for look in run_jobs(partial(inspect_pair, tree), present(), workers):
        inspection.decoded += 1
        inspection.pixels[: len(look.pixels)] += look.pixels
        if where := palettes.contradiction(look):
            inspection.findings.add("palettes that contradict each other", PALETTES, where)
        for problem in look.problems:
            inspection.findings.add(*problem)
    return inspection


@dataclass(eq=False)
class Look:
    """What one mask showed.

    Attributes:
        mask: its path.
        problems: what, remedy and where of each.
        pixels: int64 pixel counts by stored label.
        colors: colour of each index that occurs, if it is paletted.
    """

    mask: Path
    problems: list[tuple[str, str, str]] = field(default_factory=list)
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    colors: dict[int, Color] = field(default_factory=dict)


def stored_values(mask: Path, deep: bool = False) -> set[int]:
    """Read the values of a mask; none if it cannot be read."""
    try:
        return set(np.unique(read_label_map(mask, deep)).tolist())
    except ItaclipError:
        return set()


def _exists(pair: Pair, tree: Tree, findings: Findings) -> bool:
    image, mask = pair.image.is_file(), pair.mask.is_file()
    if not image:
        hint = f"Extract the images again; the list must contain names without {tree.image_suffix}."
        findings.add("missing image", hint, str(pair.image))
    if not mask:
        findings.add("missing mask", tree.mask_remedy, str(pair.mask))
    return image and mask


def inspect_pair(tree: Tree, pair: Pair) -> Look:
    """Decode one pair."""
    look = Look(pair.mask)
    size, orientation = None, 1
    try:
        size, orientation = _decoded_size(pair.image, tree.turned)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, ItaclipError) as error:
        look.problems.append(
            ("image that cannot be decoded", "Extract or download it again.", f"{pair.image}: {error}")
        )
    labels = inspect_mask(tree, look)
    if size is not None and labels is not None and size != labels.shape:
        turned = orientation in TURNS and size == labels.shape[::-1]
        remedy = "They are from different versions; extract both from the same source."
        look.problems.append((
            "mask of a turned photo is not turned" if turned else "image and mask differ in size",
            turn_remedy(orientation) if turned else remedy,
            f"{pair.mask}: {labels.shape[0]} x {labels.shape[1]}, image {size[0]} x {size[1]}",
        ))  # fmt: skip
    return look


def inspect_mask(tree: Tree, look: Look) -> LabelMap | DeepLabelMap | None:
    """Decode a mask, fill `look`, and return its labels; None if it cannot be read."""
    try:
        labels, look.colors = read_label_map_and_colors(look.mask, tree.deep)
    except ColorsError as error:
        remedy = f"{tree.mask_remedy} {CONVERT_COLORS}" if tree.benchmark else CONVERT_COLORS
        look.problems.append(("mask with colours instead of ids", remedy, str(error)))
        return None
    except ItaclipError as error:
        look.problems.append(("mask that cannot be read", tree.mask_remedy, str(error)))
        return None
    look.pixels = np.bincount(labels.ravel(), minlength=tree.ignored + 1)
    if invalid := tree.foreign(look.pixels):
        look.problems.append((
            f"label outside 0..{tree.stored_labels()[-1]} and {tree.ignored}", tree.mask_remedy,
            f"{look.mask}: {', '.join(map(str, invalid[:5]))}{', ...' if len(invalid) > 5 else ''}",
        ))  # fmt: skip
    return labels


def _decoded_size(path: Path, turned: bool) -> tuple[tuple[int, int], int]:
    """Read height and width as MMSegmentation loads the image; and the EXIF orientation that it applies, else 1."""
    with Image.open(path) as image:
        image.load()
        if turned or image.format == "TIFF":  # OpenCV turns TIFF even if it is told not to
            upright = ImageOps.exif_transpose(image)
            return (upright.height, upright.width), stored_orientation(path)
        return (image.height, image.width), 1
