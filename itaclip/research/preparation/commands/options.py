"""Options that the programs of data preparation share."""

from __future__ import annotations

import argparse

from itaclip.common.console import make_console
from itaclip.research.preparation.conversion import RunOptions
from itaclip.research.preparation.jobs import default_workers


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add `--workers`."""
    parser.add_argument("--workers", type=int, default=default_workers(), help="processes (default: %(default)s)")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of all converters: `--workers` and `--force`."""
    add_workers(parser)
    parser.add_argument("--force", action="store_true", help="redo masks that already exist")


def run_options(args: argparse.Namespace) -> RunOptions:
    """Read what `add_run_options` added, for a conversion."""
    return RunOptions(make_console(), args.workers, args.force)
