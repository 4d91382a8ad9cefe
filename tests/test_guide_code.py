"""The code of the pages: Python, SQL and cheap commands run, every option exists, YAML and JSON parse.

A block that cannot run here stands below a comment with the reason: ``<!-- not run: needs S3 -->``. Its syntax and the
options of its commands are checked all the same.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import duckdb
import pytest
import yaml
from conftest import ROOT
from guide_helpers import NAMES, NOT_RUN, Block, blocks, commands, text_of, write_inputs

from itaclip.apps.command.main import COMMANDS
from itaclip.apps.command.main import main as program
from itaclip.research.evaluation.command import parser as eval_parser

INSTEAD = {
    '"ViT-B/16"': '"demo"',
    'from_config("voc"': 'from_config("demo"',
    "cfg_voc": "cfg_demo",
    'quality="balanced"': 'quality="fast"',
}
"""What blocks of Python say, and what runs in its place: the bundled CLIP, on a CPU."""
ELSEWHERE = {
    "docs/http.md": "tests/test_api_clients.py",  # against a running server
    "docs/extending.md": "tests/test_guides.py",  # evaluates with the new methods
}
CHEAP = ("segment", "models", "env")
"""Commands of `itaclip` that run as the pages show them."""
OTHER = {"bash", "cd", "curl", "docker", "eval", "export", "git", "hf", "jupyter", "magick", "make", "pip",
         "pre-commit", "ray", "register-python-argcomplete", "source"}  # fmt: skip
"""Other programs that pages may call."""
PROGRAMS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [ROOT / "eval.py", *(ROOT / "tools").glob("*.py"), *(ROOT / "datasets").glob("*.py")]
    if path.stem not in ("load_clients", "record", "record_tables")  # no programs
)


@pytest.fixture
def folder(tmp_path: Path, demo_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the files that the pages speak of."""
    write_inputs(tmp_path, demo_root)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- all blocks --------------------------------------------------------------


@pytest.mark.parametrize("page", NAMES)
def test_blocks_name_a_language_and_comments_belong_to_a_block(page: str) -> None:
    known = {"bash", "bibtex", "json", "nginx", "python", "sql", "text", "xml", "yaml"}
    found = blocks(page)
    assert [str(block) for block in found if block.language not in known] == []
    reasons = NOT_RUN.findall(text_of(page))
    assert all(reason.startswith("needs ") for reason in reasons)
    assert len(reasons) == sum(block.not_run is not None for block in found)


def having(*languages: str) -> list[str]:
    return [page for page in NAMES if blocks(page, *languages)]


# --- Python, SQL -------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in having("python") if page not in ELSEWHERE])
def test_python_runs(page: str, folder: Path, request: pytest.FixtureRequest) -> None:
    found = blocks(page, "python")
    if any("read_labels" in block.code for block in found):
        (folder / "labels").symlink_to(request.getfixturevalue("labels"))
    scope: dict[str, Any] = {}
    for block in found:
        compiled = compile(adapted(block), str(block), "exec")
        if block.not_run is None and LABELS not in block.code:
            exec(compiled, scope)
    if page == "README.md":  # every class of its list is found in the scene
        assert set(scope["result"].areas) == set(scope["result"].names)


def adapted(block: Block) -> str:
    """Its code, with what can run in place of what it says."""
    code = block.code
    for text, other in INSTEAD.items():
        code = code.replace(text, other)
    return code


LABELS = "itaclip.label("


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory, demo_root: Path) -> Path:
    """What docs/api.md writes into "labels", by Ray in a process of its own."""
    place = tmp_path_factory.mktemp("labels")
    write_inputs(place, demo_root)
    (block,) = [block for block in blocks("docs/api.md", "python") if LABELS in block.code]
    assert block.not_run is None
    command = [sys.executable, "-c", adapted(block)]
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=place, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "a.jpg" in done.stdout
    return place / "labels"


@pytest.mark.parametrize("page", having("sql"))
def test_sql_runs_on_labelled_images(page: str, labels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(labels.parent)
    for block in blocks(page, "sql"):
        rows = duckdb.sql(block.code).fetchall()
        assert {name for name, *_ in rows} <= {"background", "cat", "dog"}
        assert sum(count for _, count, _ in rows) >= 2  # two images with a class or more each


# --- YAML, JSON --------------------------------------------------------------


@pytest.mark.parametrize("page", having("json"))
def test_json_parses(page: str) -> None:
    for block in blocks(page, "json"):
        assert isinstance(json.loads(block.code), dict)


@pytest.mark.parametrize("name", ["aws.yaml", "kuberay.yaml", "slurm.sh"])
def test_examples_of_clusters_start_the_command_with_options_that_exist(name: str, parse_only: None) -> None:
    text = (ROOT / "examples/clusters" / name).read_text()
    if name.endswith(".sh"):
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        script = text
    else:
        content = yaml.safe_load(text)
        started = re.findall(r"^#   ray exec \S+ '(.+)'$", text, re.MULTILINE)
        given = [content.get("spec", {}).get("entrypoint", ""), *content.get("setup_commands", [])]
        script = "\n".join([*given, *started])
    called = [words for words in commands(script) if words[0] == "itaclip"]
    assert [words[1] for words in called] == ["label"]
    check_script(script, name, strict=not name.endswith(".sh"))


# --- shell -------------------------------------------------------------------


class Parsed(BaseException):
    """A program has read its options; carries the parser."""


@pytest.fixture
def parse_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs end when they have read their options."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    original = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *arguments: object, **options: object) -> NoReturn:
        original(self, *arguments, **options)  # type: ignore[call-overload]
        raise Parsed(self)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)


def parse(words: list[str]) -> argparse.ArgumentParser:
    """The parser of a command of this project, once it has accepted the words."""
    script = ROOT / words[0]
    before = sys.argv
    sys.argv = words
    try:
        if words[0] == "itaclip":
            assert words[1] in COMMANDS, words
            import_module(f"itaclip.apps.command.{words[1]}").parser().parse_args(words[2:])
        elif words[0] in ("tools/dist_test.sh", "tools/slurm_test.sh"):
            eval_parser().parse_args(["--config", words[1], *words[3 if "dist" in words[0] else 2 :]])
        elif words[0] == "tools/dist_train.sh":
            return parse(["tools/train.py", words[1], *words[3:]])
        else:
            assert script.is_file(), f"{words[0]} does not exist"
            runpy.run_path(str(script), run_name="__main__")
    except Parsed as parsed:
        return parsed.args[0]
    finally:
        sys.argv = before
    raise AssertionError(f"{words[0]} has no options")


def check_script(script: str, place: str, strict: bool) -> None:
    """Every command exists and accepts its options."""
    for words in commands(script):
        name, rest = words[0], words[1:]
        if name in ("python", "python3") and rest[0] in ("-m", "-c"):
            continue
        if name == "python" and len(rest) == 1 and (ROOT / place).parent.joinpath(rest[0]).is_file():
            continue  # an example without options, beside its page
        try:
            if name in ("python", "python3"):
                parse(rest)
            elif name == "itaclip" or name.startswith("tools/"):
                parse(words)
            elif name == "docker" and rest[0] == "run":
                parse(words[words.index("itaclip") :])
            elif name == "pip":
                check_pip(rest)
            elif name == "make":
                targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
                assert {word for word in rest if "=" not in word} <= set(targets)
            else:
                assert name in OTHER or not strict, f"an unknown program: {name}"
        except SystemExit:
            pytest.fail(f"{place}: {' '.join(words)}: refused by its parser; see the captured output")
        except AssertionError as error:
            pytest.fail(f"{place}: {' '.join(words)}: {error}")


def check_pip(words: list[str]) -> None:
    """Extras exist, and so do files of requirements; this package is named by its folder, as it is on no index."""
    declared = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    for word in words[1:]:
        assert not word.startswith("itaclip"), "the package is on no index: install it from a checkout"
        for extra in re.findall(r"^(?:\.|/\S+)\[(.+)\]$", word):
            assert set(extra.split(",")) <= set(re.findall(r"^(\w+) = \[", declared, re.MULTILINE))
        assert not word.endswith(".txt") or (ROOT / word).is_file()


@pytest.mark.parametrize("page", having("bash"))
def test_commands_exist_with_their_options(page: str, parse_only: None) -> None:
    for block in blocks(page, "bash"):
        subprocess.run(["bash", "-n"], input=block.code, text=True, check=True)
        check_script(block.code, str(block), strict=block.not_run is None)


@pytest.mark.parametrize("page", NAMES)
def test_commands_in_sentences_have_their_options(page: str, parse_only: None) -> None:
    """Of commands that a sentence mentions, perhaps shortened: program and options exist."""
    prose = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
    known: dict[str, set[str]] = {}
    for span in re.findall(r"`((?:python )?(?:itaclip [a-z]+|eval\.py|tools/\w+\.py)(?: [^`]+)?)`", prose):
        words = span.removeprefix("python ").split()
        options = {word.split("=")[0] for word in words if word.startswith("--")} - {"--help"}
        command = " ".join(words[:2] if words[0] == "itaclip" else words[:1])
        if options and command not in known:
            known[command] = option_names(command.split())
        assert options <= known.get(command, options), f"{page}: {span}"


@pytest.mark.parametrize("script", PROGRAMS)
def test_commands_in_docstrings_have_their_options(script: str, parse_only: None) -> None:
    """The commands at the top of a program, which its ``--help`` shows."""
    text = ast.get_docstring(ast.parse((ROOT / script).read_text(encoding="utf-8"))) or ""
    lines = re.findall(r"^ *python (\S+\.py) ?(.*)$", text.replace("\\\n", " "), re.MULTILINE)
    for name, rest in lines:
        used = set(re.findall(r"(?<!\S)\[?(--[a-z0-9-]+)", rest.split("  #")[0]))
        assert not used or used <= option_names([name])


def option_names(command: list[str]) -> set[str]:
    if command[0] == "itaclip":
        assert command[1] in COMMANDS, command
        parser = import_module(f"itaclip.apps.command.{command[1]}").parser()
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "error", lambda self, message: (_ for _ in ()).throw(Parsed(self)))
            parser = parse(command)
    return set(parser._option_string_actions)


def cheap_commands() -> list[tuple[str, list[str]]]:
    found = []
    for page in having("bash"):
        for block in blocks(page, "bash"):
            if block.not_run is None:
                found += [
                    (page, words) for words in commands(block.code) if words[0] == "itaclip" and words[1] in CHEAP
                ]
    return found


def test_cheap_commands_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One after the other, as a reader who follows the pages would run them."""
    done = set()
    for page, words in cheap_commands():
        if tuple(words) in done:
            continue
        done.add(tuple(words))
        words = words[1:]
        if words[0] == "segment":
            for option in ("--model", "--config"):
                if option in words and words[words.index(option) + 1] != "pets":
                    words[words.index(option) + 1] = "demo"
            if "--config" not in words:
                words += ["--model", "demo", "--quality", "fast"]
            words += ["--set", "pamr_steps=0"]
            shutil.rmtree(words[words.index("--out") + 1], ignore_errors=True)
        assert program(words) == 0, (page, words, capsys.readouterr())
    assert len(done) >= 5
