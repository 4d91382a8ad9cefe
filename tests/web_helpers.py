"""A running `itaclip serve`, and what its tests send to it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from processes import Program, start_python

COMMAND = ["-c", "from itaclip.apps.command.main import entry; entry()", "serve"]
OPTIONS = ["--model", "demo", "--quality", "fast", "--max-megapixels", "1", "--max-upload-mb", "2", "--queue-size", "2"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@dataclass(frozen=True)
class Server:
    """A server's address, the folder that it has for temporary files, its log, and its process."""

    address: str
    temporary: Path
    log: Path
    process: Program


@contextmanager
def running_server(folder: Path, *options: str, **environment: str) -> Iterator[Server]:
    """Start the command and wait for its address; at the end it must go quietly and leave nothing."""
    temporary, log = folder / "temporary", folder / "log.txt"
    temporary.mkdir()
    variables = os.environ | {
        "TMPDIR": str(temporary), "ITACLIP_CACHE_DIR": str(folder / "cache"),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    } | environment  # fmt: skip
    command = [*COMMAND, *OPTIONS, *options, "--port", str(free_port())]
    process = start_python(*command, env=variables, log=log)
    try:
        until = time.monotonic() + 90
        while "serving at" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        yield Server(log.read_text().split("serving at ")[1].split()[0], temporary, log, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert list(temporary.iterdir()) == []
        kept = [path.name for path in (folder / "cache").rglob("*") if path.is_file()]
        assert all(name.startswith("choices.") for name in kept)  # nothing that visitors typed
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_bomb(path: Path) -> Path:
    """A PNG of a few kB that claims 225 megapixels, and has them."""
    Image.new("1", (15_000, 15_000)).save(path)
    assert path.stat().st_size < 100_000
    return path
