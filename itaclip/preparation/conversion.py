"""Shared by the converters: jobs, resuming, progress, options."""

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
from itaclip.files import refuse_inputs
from itaclip.preparation.jobs import default_workers, run_jobs
from itaclip.preparation.masks import LabelMap, write_label_map

Source = TypeVar("Source")


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


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that all converters share."""
    parser.add_argument("--workers", type=int, default=default_workers(), help="processes (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="redo masks that already exist")


def convert(
    find: Callable[[], Iterable[Conversion[Source]]],
    labels_of: Callable[[Source], LabelMap],
    options: RunOptions,
    what: str,
) -> int:
    """Create all missing masks (or all masks, if forced), and print a summary.

    Masks are written atomically, so existing ones need no check, and running again resumes an
    interrupted run.

    Args:
        find: lists the conversions; called twice (to count, then to convert), so that none are stored.
        labels_of: picklable function that returns the H x W uint8 labels of a source.
        options: console, number of processes, whether to redo.
        what: name of the result in messages.

    Returns:
        The number of masks written.

    Raises:
        ItaclipError: a source that cannot be converted, or a target that cannot be written.
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

    total = sum(1 for _ in find())
    with make_progress(options.console) as bar:
        task = bar.add_task(what, total=total)
        for _ in run_jobs(partial(_convert_one, labels_of), missing(), options.workers):
            written += 1
            bar.advance(task)
    options.console.print(f"{what}: {written} written, {kept} kept.")
    return written


def _convert_one(labels_of: Callable[[Source], LabelMap], conversion: Conversion[Source]) -> None:
    try:
        labels = labels_of(conversion.source)
    except MemoryError as error:
        raise ItaclipError(f"{conversion.target}: out of memory; use fewer --workers.") from error
    if isinstance(conversion.source, Path):
        refuse_inputs([conversion.target], [conversion.source], "choose another output folder with -o")
    write_label_map(conversion.target, labels)
