"""What the converters share: jobs, resuming, progress, options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from rich.console import Console

from itaclip.console import make_progress
from itaclip.errors import ItaclipError
from itaclip.preparation.jobs import default_workers, run_jobs
from itaclip.preparation.masks import LabelMap, write_label_map

Source = TypeVar("Source")


@dataclass(frozen=True)
class Conversion(Generic[Source]):
    """One mask to be made: what it is made from (a file, or an annotation record), and where it goes."""

    source: Source
    target: Path


@dataclass(frozen=True)
class Running:
    """How conversions run."""

    console: Console
    workers: int = 1
    force: bool = False
    """Redo masks that are already there."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that all converters have."""
    parser.add_argument("--workers", type=int, default=default_workers(), help="processes (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="convert again what is already there")


def convert(
    find: Callable[[], Iterable[Conversion[Source]]],
    labels_of: Callable[[Source], LabelMap],
    running: Running,
    what: str,
) -> int:
    """Make all masks that are missing (or all, when forced), and say so.

    A mask appears under its name only when it is whole, so what is there needs no check
    and an interrupted run is taken up by running it again.

    Args:
        find: lists the conversions; called twice (to count, then to work), so that none is stored.
        labels_of: picklable; makes the H x W uint8 labels of a source.
        running: console, number of processes, whether to redo.
        what: names the result in messages.

    Returns:
        The number of masks written.

    Raises:
        ItaclipError: the first source that cannot be converted, or target that cannot be written.
    """
    written = kept = 0

    def missing() -> Iterator[Conversion[Source]]:
        nonlocal kept
        for conversion in find():
            if not running.force and conversion.target.exists():
                kept += 1
                bar.advance(task)
            else:
                yield conversion

    total = sum(1 for _ in find())
    with make_progress(running.console) as bar:
        task = bar.add_task(what, total=total)
        for _ in run_jobs(partial(_convert_one, labels_of), missing(), running.workers):
            written += 1
            bar.advance(task)
    running.console.print(f"{what}: {written} written, {kept} already there.")
    return written


def _convert_one(labels_of: Callable[[Source], LabelMap], conversion: Conversion[Source]) -> None:
    try:
        labels = labels_of(conversion.source)
    except MemoryError as error:
        raise ItaclipError(f"{conversion.target}: not made for want of memory; use fewer --workers.") from error
    write_label_map(conversion.target, labels)
