"""What the values of masks tell: masks of another kind, 0 and 255 for two classes, absent classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from itaclip.research.preparation import files
from itaclip.research.preparation.inspection import Inspection, Pair, Tree, find_pairs, stored_values
from itaclip.research.preparation.masks import IGNORED

LARGE_SHARE = 0.4
"""Share of ignored pixels that is worth a note; the benchmarks have less than 0.25."""

_NAMED = 8
_ENOUGH_MASKS, _ENOUGH_LABELS = 20, 8
_MOST_VALUES = 12
_LOSSY = (".jpg", ".jpeg")


@dataclass(frozen=True)
class Observation:
    """Something that masks show.

    Attributes:
        what: what was seen.
        remedy: what to do.
    """

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what} {self.remedy}".strip()


def conclude(inspection: Inspection, tree: Tree, root: Path) -> None:
    """Add to an inspection what its parts tell together: findings with better advice, and notes.

    Args:
        inspection: of `tree`, complete.
        tree: the data set.
        root: its `data_root`, or the folder in which images are looked for.

    Raises:
        ItaclipError: the list file or a folder cannot be read.
    """
    findings, pixels = inspection.findings, inspection.pixels
    if not inspection.pairs:
        findings.add("no image", files.no_image(tree, root), str(tree.names or tree.images))
        return
    absent = findings.kinds.get("missing mask")
    if absent and absent.count == inspection.pairs:
        pairs: list[Pair] = list(find_pairs(tree))
        absent.remedy = files.missing_masks(pairs, len(pairs), tree, root)
    for what, finding in findings.kinds.items():
        if what.startswith("label outside"):
            finding.remedy = str(foreign_values(pixels, tree) or finding.remedy)
    for what, look in (("masks of 0 and 255", only_zero_and_ignored), ("no labelled pixel", nothing_labelled)):
        if seen := look(pixels, tree, (pair.mask for pair in find_pairs(tree))):
            findings.add(what, str(seen), str(tree.masks))
            return
    suspected = suspected_kind(pixels, inspection.decoded, tree)
    if suspected:
        findings.add("masks that may be of another kind", str(suspected), str(tree.masks))
    where = f"{inspection.decoded} of {inspection.pairs} masks"
    notes = [
        files.other_images(tree),
        absent_classes(inspection.classes_without_pixels(tree), where) if pixels.any() else None,
        ignored_share(int(pixels[tree.ignored]), int(pixels.sum()), where, tree.ignored),
    ]
    inspection.notes += [note for note in notes if note]


def foreign_values(pixels: NDArray[np.int64], tree: Tree) -> Observation | None:
    """Diagnose masks with values outside the allowed ones, as far as the values tell.

    Args:
        pixels: pixel counts by stored value.
        tree: the data set.
    """
    if not tree.foreign(pixels):
        return None
    values, allowed = set(np.flatnonzero(pixels).tolist()), tree.stored_labels()
    if tree.mask_suffix.lower().endswith(_LOSSY):
        return Observation(f"Masks that end in {tree.mask_suffix} are compressed with loss, which changes ids.",
                           "Export them as PNG.")  # fmt: skip
    for kind in tree.others:
        if values - {tree.ignored} <= kind.values:
            return Observation(f"The values are those of {kind.name}.", tree.mask_remedy)
    if not tree.benchmark and len(values) <= _MOST_VALUES and len(values) <= len(allowed) + 1:
        pairs = " ".join(f"{value}=ID" for value in sorted(values))
        return Observation(
            f"The masks contain only the {len(values)} values {', '.join(map(str, sorted(values)))}: grey values that "
            "stand for classes?",
            f"python tools/convert_masks.py {tree.masks} --values {pairs} --out DIR gives them their ids.",
        )
    return Observation("", tree.mask_remedy)


def suspected_kind(pixels: NDArray[np.int64], masks: int, tree: Tree) -> Observation | None:
    """Diagnose masks whose values are allowed, but are also those of another kind that lacks many labels.

    Args:
        pixels: pixel counts by stored value.
        masks: number of masks counted.
        tree: the data set.
    """
    values = set(np.flatnonzero(pixels).tolist()) - {tree.ignored}
    allowed = set(tree.stored_labels())
    if not values <= allowed:
        return None
    for kind in tree.others:
        absent, foreign = sorted(allowed - kind.values), kind.values - allowed
        if len(foreign) > len(absent):  # these masks would have shown it
            continue
        if masks >= _ENOUGH_MASKS and len(absent) >= _ENOUGH_LABELS and values and values <= kind.values:
            return Observation(
                f"In {masks} masks, none of the labels {_some(list(map(str, absent)))} occurs; {kind.name} lack them "
                "too. The values alone do not tell which ones these are.",
                f"If they are not this data set's own: {tree.mask_remedy}",
            )
    return None


def only_zero_and_ignored(pixels: NDArray[np.int64], tree: Tree, masks: Iterable[Path]) -> Observation | None:
    """Diagnose masks of 0 and 255 where other labels are expected, as programs for binary masks write them.

    Args:
        pixels: pixel counts of a sample.
        tree: the data set.
        masks: all masks; read only if the sample contains nothing but 0 and 255.
    """
    binary = {0, IGNORED}
    if tree.deep or set(np.flatnonzero(pixels).tolist()) != binary or len(tree.stored_labels()) < 2:
        return None
    if any(stored_values(mask, tree.deep) - binary for mask in masks):
        return None
    return Observation(
        f"The masks in {tree.masks} contain only 0 and 255. That looks like binary masks, but 255 is ignored, so "
        f"{_some([repr(name) for name in tree.classes[not tree.zero_ignored :]])} would never occur.",
        f"python tools/convert_masks.py {tree.masks} --colors binary --out DIR turns 255 into 1.",
    )


def nothing_labelled(pixels: NDArray[np.int64], tree: Tree, masks: Iterable[Path]) -> Observation | None:
    """Diagnose masks in which every pixel is ignored.

    Args:
        pixels: pixel counts of a sample.
        tree: the data set.
        masks: all masks; read only if the sample has no pixel of any class.
    """
    ignored = {tree.ignored, 0} if tree.zero_ignored else {tree.ignored}
    unlabelled = pixels.any() and not tree.class_pixels(pixels).any()
    if not unlabelled or any(stored_values(mask, tree.deep) - ignored for mask in masks):
        return None
    shown = f"only 0 and {tree.ignored}, and both are" if tree.zero_ignored else f"only {tree.ignored}, which is"
    return Observation(f"The masks in {tree.masks} contain {shown} ignored: no pixel of any class.", tree.mask_remedy)


def absent_classes(names: Sequence[str], where: str) -> str | None:
    """Note the classes that no mask contains.

    Args:
        names: the classes.
        where: the masks that were read, such as "50 of 400 masks".
    """
    if not names:
        return None
    what = "class" if len(names) == 1 else "classes"
    return f"{len(names)} {what} without a pixel in {where}: {_some(list(names))}."


def ignored_share(ignored: int, pixels: int, where: str, label: int = IGNORED) -> str | None:
    """Note a large share of ignored pixels.

    Args:
        ignored: number of ignored pixels.
        pixels: number of all pixels.
        where: the masks that were read, such as "50 of 400 masks".
        label: the label of ignored pixels.
    """
    if not pixels or ignored / pixels < LARGE_SHARE:
        return None
    return f"{ignored / pixels:.0%} of the pixels in {where} are ignored ({label})."


def _some(names: list[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
