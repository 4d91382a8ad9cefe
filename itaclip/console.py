"""What the command-line programs share: output, progress, and errors without tracebacks."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from itaclip.errors import ItaclipError

BAD_INPUT = 2
"""Exit status after an `ItaclipError`."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def make_console(stderr: bool = False) -> Console:
    """A console that is plain text where the output is no terminal."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def make_progress(console: Console) -> Progress:
    """A progress bar with counts and time left; shown on terminals only."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), console=console, disable=not console.is_terminal,
    )  # fmt: skip


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a program: bad input prints its message alone and exits with status 2."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        status = main() or 0
    except ItaclipError as error:
        sys.stderr.write(f"error: {error}\n")
        status = BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        status = INTERRUPTED
    sys.exit(status)
