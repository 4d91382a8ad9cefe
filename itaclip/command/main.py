"""`itaclip`: one program, its parts imported when they are asked for."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import NoReturn

from itaclip.console import run
from itaclip.errors import ItaclipError, did_you_mean

COMMANDS = {
    "segment": "label images, folders or videos with classes of your own",
    "label": "label a collection that outgrows one machine, on Ray",
    "eval": "evaluate a configuration on its data set, as eval.py does",
    "demo": "segment the bundled scenes with the bundled CLIP",
    "serve": "a web page for one's own images",
    "models": "CLIPs that load by name: sizes, what was tested and published, weights found",
    "env": "versions, devices, caches, weights found, and a self-check",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status.

    Raises:
        ItaclipError: bad input, with its message.
    """
    options = argparse.ArgumentParser(
        prog="itaclip",
        description="Training-free open-vocabulary semantic segmentation with CLIP.",
        epilog="commands:\n" + "\n".join(f"  {name:9}{text}" for name, text in COMMANDS.items())
        + "\n\n`itaclip COMMAND --help` tells the options of a command.\n"
        "Exit status: 0 done, 1 done but some files failed, 2 bad input, 130 interrupted.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    options.add_argument("--version", action="version", version=version("itaclip"))
    options.add_argument("command", metavar="COMMAND", help=", ".join(COMMANDS))
    options.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = options.parse_args(arguments)
    if args.command not in COMMANDS:
        raise ItaclipError(
            f"no command {args.command!r}.{did_you_mean(args.command, COMMANDS)} Commands: {', '.join(COMMANDS)}."
        )
    return _command(args.command)(args.rest)


def _command(name: str) -> Callable[[Sequence[str]], int]:
    module = "itaclip.evaluation.command" if name == "eval" else f"itaclip.command.{name}"
    function: Callable[[Sequence[str]], int] = import_module(module).main
    return function


def entry() -> NoReturn:
    """The console script."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `itaclip env | head` ends quietly
    run(lambda: main(sys.argv[1:]))
