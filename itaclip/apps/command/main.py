"""`itaclip`: one program; every command is imported only when it runs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any, NoReturn

from itaclip.common.console import run
from itaclip.errors import ItaclipError, did_you_mean

COMMANDS = {
    "segment": "label images, folders or videos with classes of your own",
    "label": "label a collection too large for one machine, on Ray",
    "raster": "label a georeferenced raster of any size, with coordinates",
    "export": "write results for CVAT, YOLO, Pascal VOC or COCO",
    "eval": "evaluate a configuration on its data set, like eval.py",
    "demo": "segment the bundled scenes with the bundled CLIP",
    "serve": "serve a web page or an HTTP API",
    "models": "list the CLIP models that load by name",
    "env": "show versions, devices, caches and weights, and run a self-check",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status.

    Raises:
        ItaclipError: bad input.
    """
    options = _parser()
    options.add_argument("command", metavar="COMMAND", help=", ".join(COMMANDS))
    options.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = options.parse_args(arguments)
    if args.command not in COMMANDS:
        raise ItaclipError(
            f"no command {args.command!r}.{did_you_mean(args.command, COMMANDS)} Commands: {', '.join(COMMANDS)}."
        )
    status: int = import_module(f"itaclip.apps.command.{args.command}").main(args.rest)
    return status


def _parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="itaclip",
        description="Training-free open-vocabulary semantic segmentation with CLIP.",
        epilog="commands:\n" + "\n".join(f"  {name:9}{text}" for name, text in COMMANDS.items())
        + "\n\n`itaclip COMMAND --help` shows the options of a command.\n"
        "Exit status: 0 done, 1 done but some files failed, 2 bad input, 130 interrupted.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    options.add_argument("--version", action="version", version=version("itaclip"))
    return options


def complete() -> None:
    """Answer a shell that asks for completions through argcomplete.

    Only the parser of the command on the line is made, and none loads PyTorch.
    """
    import argcomplete

    options = _parser()
    commands = options.add_subparsers()
    line = os.environ.get("COMP_LINE", "").split()
    for name, text in COMMANDS.items():
        own: dict[str, Any] = {}
        if name in line:
            own = dict(parents=[import_module(f"itaclip.apps.command.{name}").parser()], add_help=False)
        commands.add_parser(name, help=text, **own)
    argcomplete.autocomplete(options)


def entry() -> NoReturn:
    """Run as the console script."""
    if "_ARGCOMPLETE" in os.environ:
        complete()
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `itaclip env | head` ends quietly
    run(lambda: main(sys.argv[1:]))
