"""Shell completion: the right words, at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from itaclip.core.methods import METHODS as ALL_METHODS
from itaclip.research.evaluation.options import METHODS

PROGRAM = """
import os, sys
from itaclip.apps.command.main import entry

def leave(status, leave=os._exit):  # which is how argcomplete ends the process
    print("loaded:", *sorted({"torch", "numpy", "mmengine"} & set(sys.modules)), flush=True)
    leave(status)

os._exit = leave
entry()
"""


def completed(line: str, answer: Path) -> tuple[set[str], str]:
    """The words that a shell is offered at the end of a line, and what was loaded to find them."""
    asked = {
        "_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer), "COMP_LINE": line, "COMP_POINT": str(len(line)),
    }  # fmt: skip
    command = [sys.executable, "-c", PROGRAM]
    found = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True, check=True)
    return set(answer.read_text().split("\n")), found.stdout.strip()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("itaclip se", {"segment", "serve"}),
        ("itaclip segment photos --qu", {"--quality"}),
        ("itaclip segment photos --quality ba", {"balanced"}),
        ("itaclip segment --config zero_shot/clip_rc_demo_", {"zero_shot/clip_rc_demo_transductive"}),
        ("itaclip label --max", {"--max-errors"}),
        ("itaclip eval --config coco_", {"coco_object", "coco_stuff"}),
        ("itaclip eval --config voc --method na", {"naclip"}),
        ("itaclip demo --im", {"--images"}),
        ("itaclip serve --up", {"--upload-time"}),
        ("itaclip models --h", {"--help", "--here"}),
        ("itaclip env --no", {"--no-check"}),
    ],
)
def test_words_are_completed_without_pytorch(line: str, expected: set[str], tmp_path: Path) -> None:
    assert completed(line, tmp_path / "answer") == (expected, "loaded:")


def test_completion_answers_at_once(tmp_path: Path) -> None:
    seconds = []
    for _ in range(3):  # the machine may be busy
        began = time.perf_counter()
        completed("itaclip eval --c", tmp_path / "answer")
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 1


def test_options_name_every_method() -> None:
    assert set(METHODS) == set(ALL_METHODS)
