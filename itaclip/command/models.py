"""`itaclip models`: CLIPs that load by name, with what was tested and published of each."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from itaclip.clip.catalogue import SOURCE, models
from itaclip.console import make_console
from itaclip.errors import ItaclipError


def main(arguments: Sequence[str]) -> int:
    """Print the list.

    Raises:
        ItaclipError: no model has all the words.
    """
    options = argparse.ArgumentParser(prog="itaclip models", description=__doc__)
    options.add_argument("words", nargs="*", metavar="WORD", help="only names, tags and families with all these words")
    options.add_argument("--here", action="store_true", help="only those whose weights lie on this machine")
    options.add_argument("--json", action="store_true", help="as JSON")
    args = options.parse_args(arguments)
    words = [word.lower() for word in args.words]
    found = [m for m in models() if all(word in f"{m.name}:{m.tag} {m.family}".lower() for word in words)]
    found = [m for m in found if m.weights or not args.here]
    if not found and words:
        raise ItaclipError(f"no model has {' and '.join(map(repr, args.words))} in its name, tag or family.")
    if args.json:
        rows = [asdict(m) | {"weights": str(m.weights) if m.weights else None} for m in found]
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return 0
    console = make_console()
    if not found:
        console.print("No weights of a named model lie on this machine.")
        return 0
    table = [("name:tag", "family", "image/patch", "channels", "tested", "ImageNet", "weights")]
    table += [
        (f"{m.name}:{m.tag}", m.family, f"{m.image}/{m.patch or '?'}", str(m.channels), m.tested or "-",
         "-" if m.imagenet is None else f"{m.imagenet:.1f}", str(m.weights or "-"))
        for m in found
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        console.print("  ".join(f"{text:{w}}" for text, w in zip(row, widths, strict=True)).rstrip(), markup=False)
    console.print(
        "tested: with random weights, at the true size or as a reduced model of the family; published weights were "
        f"not at hand. ImageNet: published zero-shot accuracy in percent, {SOURCE}."
    )
    return 0
