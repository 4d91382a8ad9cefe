"""What would end on another operating system, as far as this one can tell."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mmseg.datasets import ADE20KDataset

from itaclip.common import shipped
from itaclip.common.environment import peak_memory_mib
from itaclip.core.text.class_names import read_lines
from itaclip.errors import ItaclipError
from itaclip.files import atomic_folder, atomic_path, write_text
from itaclip.research.evaluation.loading import _Guarded

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


@pytest.mark.slow
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


def test_loading_processes_started_afresh_can_load(tmp_path: Path) -> None:
    """macOS and Windows start processes afresh; what they get must bring all imports with it."""
    dataset = ADE20KDataset(lazy_init=True, pipeline=[dict(type="mmseg.LoadAnnotations")])
    (tmp_path / "dataset.pickle").write_bytes(pickle.dumps(_Guarded(dataset)))
    program = "import pickle, sys; print(type(pickle.load(open(sys.argv[1], 'rb'))).__name__)"
    command = [sys.executable, "-c", program, str(tmp_path / "dataset.pickle")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.stdout == "_Guarded\n", found.stderr


def test_a_folder_takes_the_place_of_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace

    def replace(source: Any, target: Any) -> None:  # as on Windows
        if Path(target).is_dir():
            raise PermissionError(13, "Access is denied", str(target))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    (tmp_path / "made").mkdir()
    with atomic_folder(tmp_path / "made", "marker") as partial:
        (partial / "marker").touch()
    assert (tmp_path / "made/marker").is_file()
    with atomic_folder(tmp_path / "made", "marker") as partial:  # another process was first
        (partial / "other").touch()
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["marker"]


def test_a_file_that_another_program_holds_open_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(source: Any, target: Any) -> None:  # as on Windows
        raise PermissionError(13, "The process cannot access the file", str(target))

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(ItaclipError, match=r"a\.txt: cannot be written \(The process cannot access the file"):
        write_text(tmp_path / "a.txt", "a")
    assert list(tmp_path.iterdir()) == []


def test_output_that_the_terminal_has_no_letters_for_is_escaped() -> None:
    program = (
        "from itaclip.common.console import make_console, run; run(lambda: make_console().print('\u732b, caf\u00e9'))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        check=False,
    )
    assert found.stderr == b""
    assert found.stdout.decode("cp1252").strip() == "\\u732b, café"


@pytest.mark.parametrize("lacking", ["SIGPIPE", None])
def test_the_program_starts_with_the_signals_that_there_are(lacking: str | None) -> None:
    program = "import signal, sys; sys.argv = ['itaclip', '--help']\n"
    program += f"del signal.{lacking}\n" if lacking and hasattr(signal, lacking) else ""
    program += "from itaclip.apps.command.main import entry; entry()"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize("name", ["ümlaut \u732b", "with space", "a.b.c", "x" * 200])
def test_unusual_names_are_written_and_leave_nothing_behind(name: str, tmp_path: Path) -> None:
    with atomic_path(tmp_path / name / f"{name}.txt") as partial:
        partial.write_text("a")
    assert [path.name for path in (tmp_path / name).iterdir()] == [f"{name}.txt"]


def test_configurations_are_found_by_name_whatever_the_separator() -> None:
    assert shipped.find_configuration("voc").name == "cfg_voc.py"
    assert shipped.find_configuration(Path("zero_shot") / "clip_rc_demo").name == "clip_rc_demo.py"
    with pytest.raises(ItaclipError, match=r"cfg_vok\.py: no such configuration file\. Did you mean 'voc'"):
        shipped.find_configuration(Path("configs") / "cfg_vok.py")
