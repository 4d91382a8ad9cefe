"""The report of a comparison: its rows and the files written from them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from itaclip.core.methods import METHODS
from itaclip.files import atomic_path, write_json, write_text
from itaclip.research.comparison.cells import Result
from itaclip.research.comparison.published import published_score
from itaclip.research.evaluation.presets import DATASETS
from itaclip.research.evaluation.vocabulary import OFFICIAL

_COLUMNS = ("dataset", "method", "preset", "pamr", "vocabulary", "protocol", "mIoU", "mAcc", "aAcc", "published",
            "published_source", "images", "skipped", "seconds_per_image", "error")  # fmt: skip


def rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Make one flat row per cell, with the measured and the published score.

    `pamr` is whether PAMR ran (None if the cell failed before that was known). `protocol` is the
    fingerprint of everything besides method and weights that moves scores. `published` is for the
    same method, data set and use of PAMR, and official words; its other settings may differ.
    """
    found = []
    for result in results:
        metrics = result.metrics or {}
        name = DATASETS.get(result.dataset, result.dataset or Path(result.cell.config).stem)
        score = None
        if result.pamr is not None and result.cell.vocabulary == OFFICIAL:
            score = published_score(result.cell.method, name, result.pamr)
        found.append({
            "dataset": name, "method": result.cell.method, "preset": result.cell.preset, "pamr": result.pamr,
            "vocabulary": result.cell.vocabulary, "protocol": metrics.get("protocol", {}).get("fingerprint"),
            **{key: metrics.get(key) for key in ("mIoU", "mAcc", "aAcc")},
            "published": score[0] if score else None, "published_source": score[1] if score else None,
            "images": metrics.get("images"), "skipped": len(metrics["skipped"]) if metrics else None,
            "seconds_per_image": metrics.get("seconds_per_image"), "error": result.error,
        })  # fmt: skip
    return found


def write_report(results: Sequence[Result], stem: Path) -> list[str]:
    """Write the results as JSON, CSV, Markdown and, with openpyxl, a spreadsheet.

    Args:
        results: results of all cells.
        stem: path of the files without suffix.

    Returns:
        The paths of the files, and a note if openpyxl is missing.
    """
    table = rows(results)
    json_file, csv_file, markdown_file, xlsx_file = (
        stem.with_name(f"{stem.name}.{kind}") for kind in ("json", "csv", "md", "xlsx")
    )
    found = [result.metrics for result in results if result.metrics]
    run = {key: found[-1][key] for key in ("versions", "machine")} if found else {}
    protocols = {metrics["protocol"]["fingerprint"]: metrics["protocol"]["parts"] for metrics in found}
    write_json(json_file, {"rows": table, "protocols": protocols, **run})
    write_text(markdown_file, markdown(table))
    with atomic_path(csv_file) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(table)
    written = [str(json_file), str(csv_file), str(markdown_file)]
    if find_spec("openpyxl") is None:
        return [*written, f"{xlsx_file.name} was not written: openpyxl is not installed (pip install openpyxl)."]
    _write_xlsx(table, xlsx_file)
    return [*written, str(xlsx_file)]


def markdown(table: Sequence[dict[str, Any]]) -> str:
    """Write a table per preset, refinement and vocabulary: methods as rows, data sets as columns, published scores in
    parentheses."""
    lines = ["# mIoU in percent", "", "Measured scores; in parentheses, published scores of the same method, data set",
             "and use of PAMR. Unless the preset is `published`, their settings and class words differ."]  # fmt: skip
    sources: dict[str, int] = {}
    datasets = list(dict.fromkeys(row["dataset"] for row in table))
    blocks = dict.fromkeys((row["preset"], row["pamr"], row["vocabulary"]) for row in table)
    for block in blocks:
        preset, pamr, vocabulary = block
        refinement = {True: "with PAMR", False: "without PAMR", None: "settings unknown"}[pamr]
        rows_of = [row for row in table if (row["preset"], row["pamr"], row["vocabulary"]) == block]
        part = {(row["method"], row["dataset"]): row for row in rows_of}
        methods = [name for name in METHODS if any(method == name for method, _ in part)]
        methods += sorted({method for method, _ in part} - set(methods))
        words = "" if vocabulary == OFFICIAL else f", {vocabulary} words"
        lines += ["", f"## {preset}, {refinement}{words}", "", "| method | " + " | ".join(datasets) + " |",
                  "|---" * (len(datasets) + 1) + "|"]  # fmt: skip
        lines += [f"| {m} | " + " | ".join(_entry(part.get((m, d)), sources) for d in datasets) + " |" for m in methods]
        used = dict.fromkeys((row["dataset"], row["protocol"]) for row in rows_of if row["protocol"])
        lines += ["", f"Protocols: {', '.join(f'{dataset} {protocol}' for dataset, protocol in used)}."] * bool(used)
    if sources:
        lines += ["", "Sources of the published scores:", ""]
        lines += [f"{number}. {source}" for source, number in sources.items()]
    failed = [row for row in table if row["error"]]
    if failed:
        lines += ["", "## Failed", ""]
        lines += [f"* {row['method']} on {row['dataset']} ({row['preset']}): {row['error']}" for row in failed]
    return "\n".join(lines) + "\n"


def measured(row: dict[str, Any]) -> str:
    """Write the measured score of a row, in words where there is none."""
    return "failed" if row["error"] else "-" if row["mIoU"] is None else f"{row['mIoU']:.2f}"


def _entry(row: dict[str, Any] | None, sources: dict[str, int]) -> str:
    if row is None:
        return ""
    if row["published"] is None:
        return measured(row)
    number = sources.setdefault(row["published_source"], len(sources) + 1)
    return f"{measured(row)} ({row['published']:g})[{number}]"


def _write_xlsx(table: Sequence[dict[str, Any]], path: Path) -> None:
    book = import_module("openpyxl").Workbook()
    sheet = book.active
    sheet.title = "results"
    sheet.append(list(_COLUMNS))
    for row in table:
        sheet.append([row[column] for column in _COLUMNS])
    sheet.freeze_panes = "A2"
    with atomic_path(path) as partial:
        book.save(partial)
