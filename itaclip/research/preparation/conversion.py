"""Shared by the converters: jobs, resuming, progress."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from rich.console import Console

from itaclip.common.console import make_progress
from itaclip.errors import ItaclipError
from itaclip.files import refuse_inputs
from itaclip.research.preparation.jobs import run_jobs
from itaclip.research.preparation.masks import DeepLabelMap, LabelMap, read_label_map, write_label_map

Source = TypeVar("Source")

_COMPARED = 12


@dataclass(frozen=True)
class Conversion(Generic[Source]):
    """A mask to create: its source (a file or an annotation record) and its path."""

    source: Source
    target: Path


@dataclass(frozen=True)
class RunOptions:
    """How to run conversions."""

    console: Console
    workers: int = 1
    force: bool = False
    """Redo masks that already exist."""


def convert(
    find: Callable[[], Iterable[Conversion[Source]]],
    labels_of: Callable[[Source], LabelMap | DeepLabelMap],
    options: RunOptions,
    what: str,
) -> int:
    """Create all missing masks (or all masks, if forced), and print a summary.

    Masks are written atomically, so running again resumes an interrupted run. Some of the masks that
    exist already are first compared with their sources: their names do not tell what they contain.

    Args:
        find: lists the conversions; called twice (to count, then to convert), so that none are stored.
        labels_of: picklable function that returns the H x W uint8 or uint16 labels of a source.
        options: console, number of processes, whether to redo.
        what: name of the result in messages.

    Returns:
        The number of masks written.

    Raises:
        ItaclipError: a source that cannot be converted, a target that cannot be written, or an existing mask
            that is not what its source gives.
    """
    written = kept = 0

    def missing() -> Iterator[Conversion[Source]]:
        nonlocal kept
        for conversion in find():
            if not options.force and conversion.target.exists():
                kept += 1
                bar.advance(task)
            else:
                yield conversion

    total = present = 0
    for conversion in find():
        total += 1
        present += not options.force and conversion.target.exists()
    compared = _compare(find, labels_of, present) if present else 0
    with make_progress(options.console) as bar:
        task = bar.add_task(what, total=total)
        for _ in run_jobs(partial(_convert_one, labels_of), missing(), options.workers):
            written += 1
            bar.advance(task)
    checked = f" ({compared} of them compared with their sources)" if compared else ""
    options.console.print(f"{what}: {written} written, {kept} kept{checked}.")
    return written


def _compare(
    find: Callable[[], Iterable[Conversion[Source]]],
    labels_of: Callable[[Source], LabelMap | DeepLabelMap],
    present: int,
) -> int:
    """Compare up to `_COMPARED` existing masks, spread over all, with their sources; return how many.

    Raises:
        ItaclipError: one differs.
    """
    step = -(-present // _COMPARED)
    existing = (conversion for conversion in find() if conversion.target.exists())
    compared, different = 0, []
    for conversion in islice(existing, 0, None, step):
        try:
            expected = labels_of(conversion.source)
        except ItaclipError:  # a damaged source says nothing about its mask
            continue
        compared += 1
        reason = _difference(conversion, expected)
        if reason:
            different.append((conversion.target, reason))
    if different:
        target, reason = different[0]
        raise ItaclipError(
            f"{target}: exists, but {reason}; {len(different)} of {compared} existing masks that were compared with "
            "their sources are not what this converter makes of them. Move these masks away, or pass --force to "
            "replace all existing ones."
        )
    return compared


def _difference(conversion: Conversion[Source], expected: LabelMap | DeepLabelMap) -> str | None:
    """Describe how an existing mask differs from what its source gives; None if it does not."""
    try:
        found = read_label_map(conversion.target, deep=expected.dtype == np.uint16)
    except ItaclipError:
        return "cannot be read as a label map"
    if np.array_equal(found, expected):
        return None
    if isinstance(conversion.source, Path) and conversion.source.suffix == conversion.target.suffix:
        with suppress(ItaclipError):
            if np.array_equal(found, read_label_map(conversion.source)):
                return f"holds the values of {conversion.source.name}, unconverted"
    if found.shape != expected.shape:
        return f"is {found.shape[0]} x {found.shape[1]}, unlike its source ({expected.shape[0]} x {expected.shape[1]})"
    return f"{(found != expected).mean():.0%} of its pixels have other labels"


def _convert_one(labels_of: Callable[[Source], LabelMap | DeepLabelMap], conversion: Conversion[Source]) -> None:
    try:
        labels = labels_of(conversion.source)
    except MemoryError as error:
        raise ItaclipError(f"{conversion.target}: out of memory; use fewer --workers.") from error
    if isinstance(conversion.source, Path):
        refuse_inputs([conversion.target], [conversion.source], "choose another output folder with -o")
    write_label_map(conversion.target, labels)
