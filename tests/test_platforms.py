"""What would end on another operating system, as far as this one can tell."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from itaclip.evaluation.report import peak_memory_mib
from itaclip.files import write_text
from itaclip.text.class_names import read_lines

PROGRAM = """
import builtins, importlib, pkgutil, sys
lacking = set(sys.argv[1].split(","))
real = builtins.__import__

def without(name, scope=None, *arguments, **named):
    if name.split(".")[0] in lacking and (scope or {}).get("__name__", "").startswith("itaclip"):
        raise ModuleNotFoundError(f"No module named {name!r}")
    return real(name, scope, *arguments, **named)

builtins.__import__ = without
import itaclip
for module in pkgutil.walk_packages(itaclip.__path__, "itaclip."):
    if module.name != "itaclip.__main__":
        importlib.import_module(module.name)
print("imported")
"""


def test_no_module_imports_what_windows_lacks() -> None:
    lacking = "fcntl,grp,pwd,pty,resource,syslog,termios,tty,posix,readline,curses"
    found = subprocess.run([sys.executable, "-c", PROGRAM, lacking], capture_output=True, text=True)
    assert found.stdout.endswith("imported\n"), found.stderr


def test_memory_is_reported_as_far_as_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peak_memory_mib()["process"] > 10
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert "process" not in peak_memory_mib()


def test_text_files_of_windows_are_read(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfcat, kitten\r\nsofa\r\n")
    assert read_lines(tmp_path / "classes.txt") == ["cat, kitten", "sofa"]


def test_text_files_have_the_same_line_ends_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = Path.write_text
    monkeypatch.setattr(
        Path, "write_text", lambda self, *a, **b: (seen.append(b.get("newline")), real(self, *a, **b))[1]
    )
    write_text(tmp_path / "a.txt", "a\nb\n")
    assert seen == ["\n"]  # Windows would write \\r\\n where this is left open
    assert (tmp_path / "a.txt").read_bytes() == b"a\nb\n"
