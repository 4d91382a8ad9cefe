"""The command line of `tools/convert_masks.py`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from itaclip.errors import ItaclipError
from itaclip.files import write_text
from itaclip.research.preparation.coding import BUILT_IN, IGNORED_NAMES, Coding, coding_of, value_coding
from itaclip.research.preparation.commands.options import add_run_options, run_options
from itaclip.research.preparation.recoding import begin, check_not_ids, check_places, convert_masks, find_jobs

SOME_FAILED = 1
"""Exit status of a run that finished although some masks could not be converted."""

CLASS_FILE = "classes.txt"


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert a folder of masks; returns the exit status.

    Raises:
        ItaclipError: bad input, with its message.
    """
    parser = argparse.ArgumentParser(prog="convert_masks.py", description="Convert masks of colours or grey values to "
                                     "masks of class ids.")  # fmt: skip
    parser.add_argument("masks", type=Path, help="folder of masks; its subfolders are read too")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--colors", help=f"{', '.join(BUILT_IN)}, or a file: labelmap.txt, 'r g b name' lines, or JSON")
    what.add_argument("--values", nargs="+", metavar="VALUE=ID", help="ids of grey values, such as 0=0 255=1")
    parser.add_argument("--out", type=Path, required=True, help="folder for the new masks")
    parser.add_argument("--ignore", nargs="*", default=IGNORED_NAMES, metavar="NAME",
                        help=f"classes that are ignored (default: {' '.join(IGNORED_NAMES)})")  # fmt: skip
    parser.add_argument("--ignore-unknown", action="store_true", help="make pixels of unknown colours ignored")
    add_run_options(parser)
    args = parser.parse_args(arguments)
    coding = value_coding(args.values) if args.values else coding_of(args.colors, args.ignore)
    file = args.colors if args.colors not in BUILT_IN else None
    check_places(args.masks, file, args.out, coding, args.force)
    jobs = list(find_jobs(args.masks, args.out))
    if not jobs:
        raise ItaclipError(f"{args.masks}: contains no image.")
    if not coding.by_value:
        check_not_ids(jobs, coding)
    begin(args.masks, args.out, jobs, coding, args.force)
    if coding.names:
        _write_class_file(args.out / CLASS_FILE, coding, args.force)
    options = run_options(args)
    failed = convert_masks(jobs, coding, options, args.ignore_unknown)
    _say_next(options.console, args.out, coding)
    return SOME_FAILED if failed else 0


def _write_class_file(path: Path, coding: Coding, force: bool) -> None:
    """Write the class file. An existing one stays, because its owner may have added synonyms, unless it is forced
    and its classes are others."""
    # a comma separates synonyms in class files
    names = [name.replace(", ", " ") for name in coding.names]
    if path.exists() and (not force or [line.split(", ")[0] for line in _lines(path)] == names):
        return
    write_text(path, "".join(f"{name}\n" for name in names))


def _lines(path: Path) -> list[str]:
    """Read the lines of a class file; none if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _say_next(console: Console, out: Path, coding: Coding) -> None:
    if coding.deep:
        console.print(f"The masks have 16 bits, because ids exceed 254; {coding.ignored} is ignored. MMSegmentation "
                      "reads 8 bits, so eval.py cannot use them.")  # fmt: skip
        return
    zero = " --ignore-zero" if coding.first else " --background" if coding.names[:1] == ("background",) else ""
    classes = str(out / CLASS_FILE) if coding.names else "FILE"
    if not coding.names:
        console.print("Write a class file: one class per line, in the order of the ids.")
    console.print(f"Next: python tools/new_dataset.py IMAGES {out} --classes {classes} --name NAME{zero}", markup=False)
