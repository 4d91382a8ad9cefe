"""The code blocks of the pages, and the files that they speak of."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from conftest import ROOT
from PIL import Image

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "demo.ipynb", "llm_texts/README.md")),
    ROOT / "examples/label_studio/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs/reference").glob("*.md")),
]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
NOT_RUN = re.compile(r"^<!-- not run: (.*?) -->$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: str
    line: int
    language: str
    code: str
    not_run: str | None
    """Why it is not run: the comment before it."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def text_of(page: str) -> str:
    """A page's Markdown; of a notebook, its Markdown cells."""
    text = (ROOT / page).read_text(encoding="utf-8")
    if not page.endswith(".ipynb"):
        return text
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
    return "\n\n".join("".join(cell["source"]) for cell in cells)


def blocks(page: str, *languages: str) -> list[Block]:
    """The fenced blocks of a page in the given languages; without any, all of them."""
    found, lines = [], text_of(page).split("\n")
    start, reason = None, None
    for number, line in enumerate(lines, start=1):
        if start is None and line.startswith("```"):
            start = number
        elif start is not None and line == "```":
            language = lines[start - 1].removeprefix("```").strip()
            found.append(Block(page, start, language, "\n".join(lines[start : number - 1]) + "\n", reason))
            start, reason = None, None
        elif start is None and (marked := NOT_RUN.fullmatch(line)):
            reason = marked[1]
        elif start is None and line:
            reason = None
    assert start is None, f"{page}:{start}: a block without an end"
    return [block for block in found if not languages or block.language in languages]


def commands(script: str) -> Iterator[list[str]]:
    """The commands of a shell script, one list of words each, without assignments before them."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;"):
                while words and re.match(r"[A-Z_]+=", words[0]):
                    words.pop(0)
                if words:
                    yield [words[0].removeprefix(".venv/bin/"), *words[1:]]
                words = []
            else:
                words.append(word)


def write_inputs(folder: Path, scenes: Path) -> None:
    """Files and folders that the pages speak of: photographs, a clip, class lists, and the checkout's data."""
    images = sorted((scenes / "JPEGImages").iterdir())
    for place in (
        "photo.jpg",
        "work_dirs/demo/scenes/JPEGImages/scene_002.jpg",
        "photos/a.jpg",
        "photos/b.jpg",
        "shots/1.jpg",
    ):
        (folder / place).parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(images[2], folder / place)
    Image.open(images[2]).crop((0, 0, 100, 80)).save(folder / "town.tif")
    for name in ("classes.txt", "my_classes.txt"):
        (folder / name).write_text("sky, cloud\ntree, bush\nhouse\n")
    for name in ("configs", "llm_texts"):
        shutil.copytree(ROOT / name, folder / name)
    video = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 5.0, (64, 48))
    for grey in (60, 90):
        video.write(np.full((48, 64, 3), grey, dtype=np.uint8))
    video.release()
