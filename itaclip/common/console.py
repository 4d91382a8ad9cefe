"""Shared by the command-line programs: output, progress, and errors without tracebacks."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from itaclip.errors import ItaclipError

BAD_INPUT = 2
"""Exit status after an `ItaclipError`."""

SOME_FAILED = 1
"""Exit status of a run that finished although some images failed."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as in shells."""

SECONDS_BETWEEN_LINES = 15.0
"""Seconds between two lines of progress where there is no bar."""


def make_console(stderr: bool = False) -> Console:
    """Make a console that falls back to plain text when the output is not a terminal."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def make_progress(console: Console) -> Progress:
    """Make a progress bar with counts and remaining time; shown only on terminals."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), console=console, disable=not console.is_terminal,
    )  # fmt: skip


def table_of(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Make a table of rows that share their keys; numbers are right-aligned."""
    table = Table(title=title)
    for name, value in rows[0].items():
        table.add_column(name.replace("_", " "), justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    return table


@contextmanager
def progress(console: Console, total: int, what: str) -> Iterator[Advance]:
    """Report progress: a bar on a terminal, an occasional line elsewhere."""
    with make_progress(console) as bar:
        yield Advance(console, total, bar, bar.add_task(what, total=total))


class Advance:
    """Call it with the number of images done since the last call; it reports the remaining time.

    The first call starts the clock, so images from an earlier run do not distort the rate.
    """

    def __init__(self, console: Console, total: int, bar: Progress, task: TaskID) -> None:
        self._console, self._total, self._bar, self._task = console, total, bar, task
        self._done = self._first = 0
        self._began = self._reported = 0.0

    def __call__(self, count: int) -> None:
        """Add to the number of images done."""
        self._done = min(self._done + count, self._total)
        self._bar.update(self._task, completed=self._done)
        now = time.perf_counter()
        if not self._began:
            self._first, self._began, self._reported = self._done, now, now
        elif not self._console.is_terminal and now - self._reported > SECONDS_BETWEEN_LINES:
            self._reported = now
            left = (now - self._began) / max(1, self._done - self._first) * (self._total - self._done)
            self._console.print(f"{self._done}/{self._total} images, {left:.0f} s left")


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a program; bad input prints only its message and exits with status 2."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a Windows code page may lack the letters of a class name
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main() or 0
    except ItaclipError as error:
        sys.stderr.write(f"error: {error}\n")
        status = BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        status = INTERRUPTED
    sys.exit(status)
