"""The cells of a comparison: one evaluation each, run once and stored."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from itaclip.core.concepts.options import CONCEPTS, is_concept_model
from itaclip.errors import ItaclipError
from itaclip.files import write_json
from itaclip.research.evaluation import command
from itaclip.research.evaluation.identity import digest, identity
from itaclip.research.evaluation.vocabulary import OFFICIAL


@dataclass(frozen=True)
class Cell:
    """One evaluation.

    Attributes:
        config: configuration of the data set.
        method: a key of `itaclip.core.methods.METHODS`.
        preset: "published", "common", or "config" for the configuration's own settings.
        pamr: "on", "off", or "preset" to follow the preset and the configuration.
        vocabulary: how classes are worded, see `itaclip.research.evaluation.vocabulary`.
    """

    config: str
    method: str
    preset: str
    pamr: str
    vocabulary: str = OFFICIAL

    @property
    def name(self) -> str:
        """A file name that is unique within a comparison."""
        folder = hashlib.sha256(str(Path(self.config).resolve()).encode()).hexdigest()[:6]
        words = "" if self.vocabulary == OFFICIAL else f"-{self.vocabulary.replace(':', '_')}"
        return f"{Path(self.config).stem}-{folder}-{self.method}-{self.preset}-pamr_{self.pamr}{words}"


@dataclass(frozen=True)
class Options:
    """Options shared by all cells.

    Attributes:
        weights: CLIP model or weight file, or ``"sam3:FOLDER"`` for cells of SAM 3; None follows the
            configurations.
        data_roots: data set folders by configuration stem, such as ``cfg_voc``.
        limit: evaluate only the first images.
        processes: number of processes; more than one requires `launcher`.
        launcher: path of tools/dist_test.sh.
        overrides: ``key=value`` changes for every configuration.
    """

    weights: str | None = None
    data_roots: tuple[tuple[str, str], ...] = ()
    limit: int | None = None
    processes: int = 1
    launcher: Path | None = None
    overrides: tuple[str, ...] = ()


def make_cells(
    configs: Sequence[str], methods: Sequence[str], presets: Sequence[str], pamr: str,
    vocabularies: Sequence[str] = (OFFICIAL,),
) -> list[Cell]:  # fmt: skip
    """Make all combinations, grouped by data set; `pamr` = "both" gives each with and without PAMR."""
    switches = ("off", "on") if pamr == "both" else (pamr,)
    return [Cell(*values) for values in itertools.product(configs, methods, presets, switches, vocabularies)]


def arguments(cell: Cell, options: Options, folder: Path) -> list[str]:
    """Write the command line of `eval.py` for a cell that writes to `folder`."""
    found = ["--config", cell.config, "--method", cell.method, "--work-dir", str(folder)]
    if cell.preset != "config":
        found += ["--preset", cell.preset]
    if cell.pamr != "preset":
        found += ["--pamr", cell.pamr]
    if cell.vocabulary != OFFICIAL:
        found += ["--vocabulary", cell.vocabulary]
    # weights of a CLIP are not for a model of its own, nor the other way round
    if options.weights and is_concept_model(options.weights) == (cell.method in CONCEPTS):
        found += ["--weights", options.weights]
    root = dict(options.data_roots).get(Path(cell.config).stem)
    if root:
        found += ["--data-root", root]
    if options.limit:
        found += ["--limit", str(options.limit)]
    if options.overrides:
        found += ["--cfg-options", *options.overrides]
    return found


@dataclass(frozen=True)
class Result:
    """Result of a cell: metrics, or the reason why there are none.

    Attributes:
        cell: the cell.
        dataset: the data set's type in the configuration; "" if it could not be read.
        pamr: whether PAMR was on; None if the settings could not be determined.
        metrics: content of its metrics.json.
        error: error message of a failed cell.
        kept: whether the result comes from an earlier run.
    """

    cell: Cell
    dataset: str
    pamr: bool | None
    metrics: dict[str, Any] | None = None
    error: str | None = None
    kept: bool = False


def run_cell(cell: Cell, options: Options, out: Path) -> Result:
    """Evaluate a cell, unless a stored result has the same settings.

    A failure gives a result too. Stored results with unreadable images are evaluated again.
    """
    folder = out / "cells" / cell.name
    kept_at = folder.with_suffix(".json")
    dataset, pamr = "", None
    try:
        found = arguments(cell, options, folder)
        args = command.parser().parse_args(found)
        config, _ = command.configure(args, folder)
        dataset = str(config.test_dataloader.dataset.type)
        pamr = bool(config.model.get("pamr_steps", 0))
        found_under = digest([identity(config), options.limit])
        kept = _read(kept_at)
        if kept and kept["fingerprint"] == found_under and not kept["metrics"]["skipped"]:
            return Result(cell, dataset, pamr, kept["metrics"], kept=True)
        (folder / "metrics.json").unlink(missing_ok=True)  # it must exist only after success
        if options.processes > 1:
            _launch(found, options)
        else:
            command.main(found)
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        write_json(kept_at, {"fingerprint": found_under, "cell": asdict(cell), "metrics": metrics})
        return Result(cell, dataset, pamr, metrics)
    except Exception as error:  # no failure of a cell may stop the others
        reason = str(error) if isinstance(error, ItaclipError) else f"{type(error).__name__}: {error}"
        return Result(cell, dataset, pamr, error=reason)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return kept if {"fingerprint", "metrics"} <= kept.keys() else None


def _launch(found: list[str], options: Options) -> None:
    """Run `eval.py` in several processes; its output goes straight to the terminal."""
    if options.launcher is None or not options.launcher.is_file():
        raise ItaclipError(f"{options.processes} processes need tools/dist_test.sh; {options.launcher} does not exist.")
    config, rest = found[1], found[2:]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(["bash", str(options.launcher), config, str(options.processes), *rest], env=environment,
                          check=False, stderr=subprocess.PIPE, text=True)  # fmt: skip
    if not (Path(found[found.index("--work-dir") + 1]) / "metrics.json").is_file():
        lines = done.stderr.strip().splitlines() or ["no message"]
        errors = [line for line in lines if line.startswith("error: ")]
        raise ItaclipError(
            f"{options.processes} processes exited with status {done.returncode}: {(errors or lines)[-1]}"
        )
