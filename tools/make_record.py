"""Fill the tables and numbers of the documentation from docs/results.

    python tools/make_record.py            # fill them
    python tools/make_record.py --check    # change nothing; status 1 if a page is out of date

A page marks what this program writes; everything else is written by hand::

    <!-- table: demo -->
    <!-- end -->

    ITACLIP reaches <!-- number: itaclip -->76.9<!-- end --> mIoU.

tools/record_tables.py holds the tables and numbers by these names, tools/record.py the list of files.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from record import Record
from record_tables import NUMBERS_BY_NAME, TABLES_BY_NAME

from itaclip.common.console import make_console, run
from itaclip.errors import ItaclipError, did_you_mean
from itaclip.files import write_text

ROOT = Path(__file__).parent.parent
_MARKED = re.compile(r"<!-- (table|number): (.+?) -->(.*?)<!-- end -->", re.DOTALL)
_MARKER = re.compile(r"<!-- (table|number): |<!-- end -->")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; status 1 if a page would change")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout (default: this one)")
    args = parser.parse_args()
    record = Record(args.root / "docs/results")
    changed = []
    for page in [args.root / "README.md", *sorted((args.root / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        new = filled(text, record, page)
        if new != text:
            changed.append(page)
            if not args.check:
                write_text(page, new)
    console = make_console()
    for page in changed:
        console.print(f"{page}: {'differs from docs/results; run tools/make_record.py' if args.check else 'written'}")
    return 1 if changed and args.check else 0


def filled(text: str, record: Record, page: Path) -> str:
    """Write the tables and numbers of a page anew.

    Raises:
        ItaclipError: a marker names nothing, or lacks its beginning or end.
    """

    def fill(match: re.Match[str]) -> str:
        kind, name, _ = match.groups()
        line = f"{page}, line {text[: match.start()].count(chr(10)) + 1}"
        if _MARKER.search(match[3]):
            raise ItaclipError(f"{line}: <!-- {kind}: {name} --> lacks its <!-- end -->.")
        known = TABLES_BY_NAME if kind == "table" else NUMBERS_BY_NAME
        if name not in known:
            raise ItaclipError(f"{line}: no {kind} is named {name!r}.{did_you_mean(name, known)}")
        content = known[name](record)
        return f"<!-- {kind}: {name} -->" + (f"\n\n{content}\n\n" if kind == "table" else content) + "<!-- end -->"

    if stray := _MARKER.search(_MARKED.sub("", text)):
        raise ItaclipError(f"{page}: {stray[0]!r} lacks its beginning or end.")
    return _MARKED.sub(fill, text)


if __name__ == "__main__":
    run(main)
