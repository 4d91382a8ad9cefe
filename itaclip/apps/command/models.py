"""`itaclip models`: the CLIP models that load by name, and what was tested and published about each."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from itaclip.common.console import make_console
from itaclip.errors import ItaclipError


def main(arguments: Sequence[str]) -> int:
    """Print the list.

    Returns:
        The exit status.

    Raises:
        ItaclipError: no model matches all words.
    """
    args = parser().parse_args(arguments)
    from itaclip.core.clip.model_list import SOURCE, models, other_models

    words = [word.lower() for word in args.words]
    listed = [*models(), *other_models()]
    found = [m for m in listed if all(word in f"{m.name}:{m.tag} {m.family}".lower() for word in words)]
    found = [m for m in found if m.weights or not args.here]
    if not found and words:
        raise ItaclipError(f"no model has {' and '.join(map(repr, args.words))} in its name, tag or family.")
    if args.json:
        rows = [asdict(m) | {"weights": str(m.weights) if m.weights else None} for m in found]
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return 0
    console = make_console()
    if not found:
        console.print("This machine has no weights of a named model.")
        return 0
    table = [("name:tag", "family", "image/patch", "channels", "tested", "ImageNet", "weights")]
    table += [
        (f"{m.name}:{m.tag}".rstrip(":"), m.family, f"{m.image}/{m.patch or '?'}", str(m.channels), m.tested or "-",
         "-" if m.imagenet is None else f"{m.imagenet:.1f}", str(m.weights or "-"))
        for m in found
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        console.print("  ".join(f"{text:{w}}" for text, w in zip(row, widths, strict=True)).rstrip(), markup=False)
    console.print(
        "tested: with random weights, at full size or as a reduced model of the family; published weights were not "
        f"available. ImageNet: published zero-shot accuracy in percent, {SOURCE}."
    )
    return 0


def parser() -> argparse.ArgumentParser:
    """Declare the options of `itaclip models`."""
    options = argparse.ArgumentParser(
        prog="itaclip models", description="List the CLIP models that load by name, and what is known about each."
    )
    options.add_argument("words", nargs="*", metavar="WORD", help="only models whose name, tag or family has all words")
    options.add_argument("--here", action="store_true", help="only models whose weights are on this machine")
    options.add_argument("--json", action="store_true", help="print JSON")
    return options
