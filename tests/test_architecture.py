"""The layout that docs/architecture.md describes: imports run downward, and what the page names exists."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "itaclip"
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")

FLOORS = (
    ("itaclip.errors", "itaclip.files", "itaclip.devices", "itaclip.common"),
    ("itaclip.core",),
    ("itaclip.vocabulary",),
    ("itaclip.formats",),
    ("itaclip.result",),
    ("itaclip.segmenter",),
    ("itaclip.research",),
    ("itaclip.apps",),
    ("itaclip", "itaclip.__main__"),
)
"""Modules by floor, from the ground up. A module imports from its own floor and from lower ones."""

DOOR_BETWEEN = {"itaclip.apps.command.eval": "itaclip.research.evaluation"}
"""The one arrow from `apps` to `research`: `itaclip eval` is the command that runs an evaluation."""

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports_of(module: str) -> Iterator[str]:
    """Every module of the package that a module imports, inside functions too; not those for type checkers alone."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full in MODULES or node.module in MODULES:
                    yield full if full in MODULES else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)


def floor_of(module: str) -> int:
    """The floor of a module: that of the longest name in `FLOORS` that it is or lies in."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        for number, names in enumerate(FLOORS):
            if name in names and (length == len(parts) or name != "itaclip"):
                return number
    raise AssertionError(f"{module} is on no floor; add it to FLOORS and to docs/architecture.md")


GRAPH = {module: sorted(set(imports_of(module)) - {module}) for module in MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downward(module: str) -> None:
    upward = [name for name in GRAPH[module] if floor_of(name) > floor_of(module)]
    assert not upward, f"{module} imports from a higher floor: {', '.join(upward)}"


def test_people_and_research_meet_in_one_place() -> None:
    arrows = {
        (module, name)
        for module, names in GRAPH.items()
        for name in names
        if module.startswith("itaclip.apps") and name.startswith("itaclip.research")
    }
    assert arrows, "the named arrow is gone: remove it here and from docs/architecture.md"
    for module, name in arrows:
        assert name.startswith(DOOR_BETWEEN.get(module, "nothing")), f"{module} -> {name}"
        assert module in PAGE


def test_no_circles() -> None:
    """A depth-first walk meets no module that it is still inside of."""
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail[trail.index(module) :], module))
        if module not in done:
            for name in GRAPH[module]:
                visit(name, (*trail, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_the_root_holds_the_public_api_and_the_ground_floor_alone() -> None:
    files = sorted(path.name for path in PACKAGE.glob("*.py"))
    assert len(files) <= 8, files
    rooms = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file())
    assert rooms == ["apps", "common", "core", "formats", "research"]
    assert all(f"`itaclip/{room}/`" in PAGE for room in rooms)


def test_every_path_on_the_page_exists() -> None:
    paths = re.findall(r"`((?:itaclip|tools|tests|docs|datasets|configs|llm_texts)/[\w./*-]*)`", PAGE)
    assert len(paths) > 30
    assert not [path for path in paths if not list(ROOT.glob(path.rstrip("/")))]


def test_the_path_of_an_image_names_functions_that_call_each_other() -> None:
    """Each step's function exists, and the source of the step before mentions it; the path has at most five files."""
    block = PAGE.split("## The path of an image")[1].split("```text\n")[1].split("```")[0]
    steps = [line.split()[:2] for line in block.splitlines() if line.strip()]
    assert len({file for file, _ in steps}) <= 5
    for file, name in steps:
        module = importlib.import_module("itaclip." + file.removesuffix(".py").replace("/", "."))
        found: object = module
        for part in name.split("."):
            found = getattr(found, part)
        assert callable(found), name
    for (file, _), (_, callee) in pairwise(steps):
        owner, _, method = callee.rpartition(".")
        used = owner if method == "forward" else method or callee  # a module's forward is called by its name
        assert re.search(rf"\b{used}\b", (PACKAGE / file).read_text(encoding="utf-8")), f"{file} does not use {callee}"
