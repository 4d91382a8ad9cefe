"""The documents say what the code does."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import fields
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from itaclip.core.quality import free_form
from itaclip.core.settings import Settings
from itaclip.research.evaluation.command import parser

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "SECURITY.md", "llm_texts/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs/reference").glob("*.md")),
]


def _written(default: object) -> str:
    """A default as the guide writes it."""
    if isinstance(default, tuple):
        return ", ".join(map(str, default)) or "none"
    return f"`{default}`" if isinstance(default, str) else str(default).removesuffix(".0")


def test_every_setting_is_documented_with_its_default() -> None:
    text = (ROOT / "docs/configuration.md").read_text().split("## Settings")[1]
    shown = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|", text, re.MULTILINE))
    pair = re.search(r"^\| `(\w+)`, `(\w+)` \| [^|]+ \| ([^|]+), ([^|]+) \|", text, re.MULTILINE)
    assert pair is not None
    shown |= {pair[1]: pair[3], pair[2]: pair[4]}
    for field in fields(Settings):
        assert field.name in shown, field.name
        stated = shown[field.name].split(":")[0].removesuffix(".0")  # "None: what None means"
        assert stated == _written(getattr(Settings(), field.name)), field.name


def test_other_defaults_of_free_class_lists_are_documented() -> None:
    text = (ROOT / "docs/configuration.md").read_text().split("\n## ")[0]
    _, chosen = free_form("balanced", 224, 16)
    default = Settings()
    others = {name for name, value in chosen.items() if value != getattr(default, name)}
    assert others - {"slide_stride", "img_engineering", "tolerance"} == {"background", "pamr_steps", "prob_thd"}
    for name in ("background", "pamr_steps", "prob_thd"):
        assert f"`{name}={chosen[name]}`" in text


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_named_files_exist(path: Path) -> None:
    text = path.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in link]
    missing = [link for link in links if not (path.parent / link).exists()]
    code = re.findall(r"`((?:configs|tools|datasets|itaclip|llm_texts|tests|docs)/[\w./-]+)`", text)
    missing += [name for name in code if not (ROOT / name).exists() and "village" not in name]  # the guide's example
    assert missing == []


def test_every_option_of_eval_is_documented() -> None:
    text = (ROOT / "docs/evaluation.md").read_text()
    options = re.findall(r"--[a-z-]+", parser().format_usage())
    documented = set(re.findall(r"--[a-z-]+", text)) | {"--launcher"}  # which tools/dist_test.sh passes
    assert set(options) <= documented


@pytest.mark.parametrize("command", ["segment", "label", "raster", "demo", "models", "env"])
def test_every_option_of_a_command_is_documented(command: str) -> None:
    options = import_module(f"itaclip.apps.command.{command}").parser()._option_string_actions
    documented = set(re.findall(r"--[a-z-]+", (ROOT / "docs/cli.md").read_text()))
    assert {name for name in options if name.startswith("--")} <= documented


def test_the_readme_opens_with_what_is_missing_two_commands_and_five_lines() -> None:
    opening = (ROOT / "README.md").read_text().split("\n## ")[0]
    shell, python = (re.search(rf"```{language}\n(.*?)```", opening, re.DOTALL) for language in ("bash", "python"))
    assert shell is not None
    assert python is not None
    assert len(shell[1].splitlines()) == 2
    assert len([line for line in python[1].splitlines() if line]) == 5
    assert opening.index("has not been run on a GPU, nor with published CLIP weights") < shell.start() < python.start()
    assert "](docs/images/demo.png)" in opening


def test_the_readme_cites_what_the_citation_file_states() -> None:
    stated = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["preferred-citation"]
    entry = re.search(r"```bibtex\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert entry is not None
    cited = dict(re.findall(r"^  (\w+) += \{(.*)\},?$", entry[1], re.MULTILINE))
    authors = [f"{author['family-names']}, {author['given-names']}" for author in stated["authors"]]
    assert cited["author"].split(" and ") == authors
    assert (cited["title"], cited["url"], cited["year"]) == (stated["title"], stated["url"], str(stated["year"]))
    assert cited["booktitle"] == stated["collection-title"]


def test_the_guide_to_class_lists_shows_the_measured_numbers() -> None:
    rows = json.loads((ROOT / "docs/results/class_lists.json").read_text())["rows"]
    default = {"logit_scale": 40, "prob_thd": 0.1, "closing": True}
    text = (ROOT / "docs/classes.md").read_text()
    shown = re.findall(r"^\| ([^|]+) \| (\d+\.\d+) \|$", text, re.MULTILINE)
    measured = {(row["background"], f"{row['mean_iou']:.2f}") for row in rows if default.items() <= row.items()}
    measured |= {
        (str(row["prob_thd"]), f"{row['mean_iou']:.2f}")
        for row in rows
        if row["background"] == "contrast words" and row["logit_scale"] == 40 and row["closing"]
    }
    assert set(shown) == measured
    assert len(shown) == 9
    inside = re.findall(r"\b\d\d\.\d\b(?! \|)", text)  # in sentences, with one digit
    assert {float(score) for score in inside} <= {round(row["mean_iou"] + 1e-9, 1) for row in rows}


def test_every_setting_says_its_default_after_unit_and_range() -> None:
    """The string below a field of `Settings`: what it is and its range; the default; the effect."""
    source = ast.parse((ROOT / "itaclip/core/settings.py").read_text(encoding="utf-8"))
    body = next(node for node in source.body if isinstance(node, ast.ClassDef) and node.name == "Settings").body
    described = 0
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and field.value is not None:
            assert isinstance(text, ast.Expr)
            assert isinstance(text.value, ast.Constant)
            before, found, after = str(text.value.value).replace("\n    ", " ").partition("; default ")
            default = ast.literal_eval(field.value)
            shown = f'"{default}"' if isinstance(default, str) else str(default)
            assert found, ast.unparse(field)
            assert before, ast.unparse(field)
            assert after.startswith(shown), f"{ast.unparse(field)}: {after}"
            assert len(after) > len(shown) + 5, ast.unparse(field)
            described += 1
    assert described == len(fields(Settings))
