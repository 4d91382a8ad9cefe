"""Programs in processes of their own, without the seconds in which each would import PyTorch and MMSegmentation.

A server imports them once and forks for every program. What runs is as separate as after a start afresh: arguments,
environment, folder, output, exit status and signals are its own. Where there is no such server (Windows, macOS),
`subprocess` starts Python; so do tests of what happens at import.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

PRELOADED = ["itaclip.research.openmmlab", "itaclip.segmenter", "itaclip.research.evaluation.command"]


def _run(
    words: list[str],
    environment: dict[str, str],
    place: str,
    streams: tuple[Path, Path],
    before: Callable[[], None] | None,
) -> None:
    """Turn the forked process into what `python WORDS...` is, and run it."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(place)
    for number, stream in enumerate(streams, 1):
        file = os.open(stream, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False, buffering=1, errors="backslashreplace")
    extra = environment.get("PYTHONPATH", "")
    sys.path[:] = [*filter(None, extra.split(os.pathsep)), *sys.path]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, tests among them, ignore it
    multiprocessing.set_start_method(None, force=True)  # of its own processes: Python's default, not this server
    if before is not None:
        before()
    try:
        if words[0] == "-c":
            sys.argv = ["-c", *words[2:]]
            exec(compile(words[1], "<string>", "exec"), sys.modules["__main__"].__dict__ | {"__name__": "__main__"})
        elif words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            sys.path.insert(0, str(Path(words[0]).parent))
            runpy.run_path(words[0], run_name="__main__")
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        atexit._run_exitfuncs()


class Running:
    """A running program, with the part of `subprocess.Popen`'s interface that tests need."""

    def __init__(self, process: Any, streams: tuple[Path, Path], folder: tempfile.TemporaryDirectory[str]) -> None:
        self._process, self._streams = process, streams
        self._folder = folder  # which vanishes with this object
        self.pid: int = process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, or minus the signal; None while the program runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0, *self._written())
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        return self._written()

    def _written(self) -> tuple[str, str]:
        out, errors = (stream.read_text(encoding="utf-8") for stream in self._streams)
        return out, errors


@cache
def _server() -> Any:
    """The running server, which has imported everything: time limits of tests begin after that."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    first = context.Process(target=int)
    first.start()
    first.join()
    return context


Program: TypeAlias = Running | subprocess.Popen[str]


def limit_files(size: int) -> None:
    """Let this process write files of at most so many bytes, and get an error beyond."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def start_python(
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    before: Callable[[], None] | None = None,
    log: Path | None = None,
) -> Program:
    """Start `python ARGUMENTS...`, which are `-m MODULE`, `-c CODE` or the path of a script, and what follows.

    Args:
        env: Its whole environment; without it, this process's.
        cwd: Its folder; without it, this process's.
        before: A function of a module, run first; limits of resources, for example.
        log: A file that takes what it prints and reports; without it, `communicate` returns that.
    """
    words = [str(argument) for argument in arguments]
    if sys.platform != "linux":
        file = subprocess.PIPE if log is None else log.open("w")
        return subprocess.Popen(
            [sys.executable, *words], env=env, cwd=cwd, preexec_fn=before, text=True, stdout=file, stderr=file
        )
    context = _server()
    folder = tempfile.TemporaryDirectory()
    streams = (Path(folder.name, "out"), Path(folder.name, "err")) if log is None else (log, log)
    for stream in streams:
        stream.touch()
    process = context.Process(
        target=_run, args=(words, dict(os.environ if env is None else env), str(cwd or Path.cwd()), streams, before)
    )
    process.start()
    return Running(process, streams, folder)


def run_python(
    *arguments: str | Path, timeout: float | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS...` to its end, as `start_python` starts it."""
    running = start_python(*arguments, **options)
    try:
        out, errors = running.communicate(timeout)
    except subprocess.TimeoutExpired:
        running.kill()
        raise
    return subprocess.CompletedProcess([sys.executable, *map(str, arguments)], running.returncode or 0, out, errors)
