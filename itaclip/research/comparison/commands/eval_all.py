"""The command line of `tools/eval_all.py`."""

from __future__ import annotations

import itaclip.research.openmmlab  # noqa: F401 - first: it makes mmseg importable, or says what to install

# isort: split

import argparse
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.config import Config
from rich.table import Table

from itaclip.common.console import make_console
from itaclip.core.concepts.options import CONCEPTS
from itaclip.core.methods import METHODS
from itaclip.errors import ItaclipError, did_you_mean
from itaclip.research.comparison.cells import Options, Result, make_cells, run_cell
from itaclip.research.comparison.report import measured, rows, write_report
from itaclip.research.evaluation.presets import PRESETS
from itaclip.research.evaluation.vocabulary import OFFICIAL, parse_wording
from itaclip.research.openmmlab.configuration import load_config

PAPERS = ("clip", "maskclip", "sclip", "clearclip", "gem", "naclip", "itaclip")
"""The published methods, without their variants."""

SOME_FAILED = 1
"""Exit status when a cell failed or had unreadable images; the other cells ran."""


def parser() -> argparse.ArgumentParser:
    """Declare the options of `eval_all.py`; a plan file may set those from `--configs` on, under the same names."""
    options = argparse.ArgumentParser(prog="eval_all.py", description="Evaluate methods on data sets, cell by cell.")
    options.add_argument(
        "--plan", type=Path, help="Python, JSON or YAML file with the options from --configs on; flags override it"
    )
    options.add_argument("--out", type=Path, default=Path("work_dirs/eval_all"), help="folder for the results")
    options.add_argument("--report", type=Path, help="path of the result files without suffix; default: OUT/results")
    options.add_argument("--configs", nargs="+", help="configurations of the data sets")
    options.add_argument("--methods", nargs="+", help=f"default: {' '.join(PAPERS)}")
    options.add_argument("--presets", nargs="+", choices=(*PRESETS, "config"), help="default: common")
    options.add_argument("--pamr", choices=("on", "off", "both", "preset"), help="default: follow the preset")
    options.add_argument("--vocabularies", nargs="+", metavar="WORDS",
                         help="official (default), plain, synonyms, distractors[:N]; each also with +auto")  # fmt: skip
    options.add_argument(
        "--weights", help="CLIP model or weight file for all cells, except those of sam3; or sam3:FOLDER for these"
    )
    options.add_argument("--data-roots", nargs="+", metavar="CONFIG=FOLDER", help="such as cfg_voc=data/VOC2012")
    options.add_argument("--limit", type=int, help="only the first N images of each")
    options.add_argument("--processes", type=int, help="run tools/dist_test.sh, one process per GPU; default: 1")
    options.add_argument("--cfg-options", nargs="+", metavar="KEY=VALUE", help="changes for every configuration")
    return options


def main(launcher: Path, given: Sequence[str] | None = None) -> int:
    """Run the cells without a stored result and report on all; returns the exit status.

    Args:
        launcher: path of tools/dist_test.sh.
        given: the command line; None uses that of the program.

    Raises:
        ItaclipError: bad options; raised before anything runs.
    """
    args = parser().parse_args(given)
    plan = read_plan(args)
    cells = make_cells(plan["configs"], plan["methods"], plan["presets"], plan["pamr"], plan["vocabularies"])
    options = Options(
        weights=plan["weights"], data_roots=_pairs(plan["data_roots"]), limit=plan["limit"],
        processes=plan["processes"], launcher=launcher, overrides=tuple(plan["cfg_options"]),
    )  # fmt: skip
    console = make_console()
    results: list[Result] = []
    for number, cell in enumerate(cells, 1):
        console.rule(f"{number} of {len(cells)}: {Path(cell.config).stem}, {cell.method}, {cell.preset}, "
                     f"PAMR {cell.pamr}, {cell.vocabulary} words")  # fmt: skip
        results.append(run_cell(cell, options, args.out))
        if results[-1].error:
            console.print(f"failed: {results[-1].error}", markup=False)
        if results[-1].kept:
            console.print("kept from an earlier run with the same settings")
        notes = write_report(results, args.report or args.out / "results")  # after every cell, in case of a crash
    console.print(_summary(rows(results)))
    console.print("written: " + "\n         ".join(notes), markup=False)
    done = all(result.metrics and not result.metrics["skipped"] for result in results)
    return 0 if done else SOME_FAILED


def read_plan(args: argparse.Namespace) -> dict[str, Any]:
    """Merge plan file and flags, and validate them.

    Raises:
        ItaclipError: an unreadable plan, an unknown entry, or an invalid value.
    """
    plan: dict[str, Any] = {
        "configs": [], "methods": list(PAPERS), "presets": ["common"], "pamr": "preset", "vocabularies": [OFFICIAL],
        "weights": None,
        "data_roots": {}, "limit": None, "processes": 1, "cfg_options": [],
    }  # fmt: skip
    if args.plan is not None:
        for key, value in _read_file(args.plan).items():
            if key not in plan:
                raise ItaclipError(f"{args.plan}: unknown entry {key!r}.{did_you_mean(key, plan)} "
                                   f"Entries: {', '.join(plan)}.")  # fmt: skip
            plan[key] = value
    plan |= {key: value for key, value in vars(args).items() if key in plan and value is not None}
    for path in plan["configs"]:
        with suppress(ItaclipError):  # only to register custom methods; the cell reports any error
            load_config(path)
    known = (*METHODS, *CONCEPTS)
    checks = [
        (bool(plan["configs"]), "configs", "at least one configuration, such as configs/cfg_voc.py"),
        (bool(plan["methods"]) and set(plan["methods"]) <= set(known), "methods", f"some of {', '.join(known)}"),
        (bool(plan["presets"]) and set(plan["presets"]) <= {*PRESETS, "config"}, "presets",
         f"some of {', '.join(PRESETS)}, config"),
        (plan["pamr"] in ("on", "off", "both", "preset"), "pamr", "on, off, both or preset"),
        (bool(plan["vocabularies"]), "vocabularies", "at least one, such as plain"),
        (plan["limit"] is None or plan["limit"] > 0, "limit", "1 or more"),
        (plan["processes"] > 0, "processes", "1 or more"),
    ]  # fmt: skip
    for wording in plan["vocabularies"]:
        parse_wording(wording)
    for holds, name, expected in checks:
        if not holds:
            raise ItaclipError(f"{name} = {plan[name]!r}: expected {expected}.")
    return plan


def _read_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ItaclipError(f"{path}: no such plan file.")
    try:
        content: dict[str, Any] = Config.fromfile(path).to_dict()
    except Exception as error:  # a plan in Python is code
        raise ItaclipError(f"{path}: cannot be read as a plan ({type(error).__name__}: {error}).") from error
    return content


def _pairs(roots: dict[str, str] | Sequence[str]) -> tuple[tuple[str, str], ...]:
    if isinstance(roots, dict):
        return tuple(roots.items())
    for pair in roots:
        if "=" not in pair:
            raise ItaclipError(f"--data-roots {pair}: expected CONFIG=FOLDER, such as cfg_voc=data/VOC2012.")
    return tuple((pair.split("=", 1)[0], pair.split("=", 1)[1]) for pair in roots)


def _summary(table: list[dict[str, Any]]) -> Table:
    shown = Table(title="mIoU in percent")
    for header in ("data set", "method", "preset", "PAMR", "vocabulary", "protocol", "mIoU", "published"):
        shown.add_column(header, justify="right" if header in ("mIoU", "published") else "left")
    for row in table:
        pamr = {True: "on", False: "off", None: ""}[row["pamr"]]
        printed = "" if row["published"] is None else f"{row['published']:g}"
        shown.add_row(row["dataset"], row["method"], row["preset"], pamr, row["vocabulary"], row["protocol"],
                      measured(row), printed)  # fmt: skip
    return shown
