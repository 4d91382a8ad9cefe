"""`itaclip serve` as a process of its own, for the tools that look at it from outside."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from itaclip.errors import ItaclipError

_SECONDS_TO_START = 120
_SECONDS_TO_STOP = 60


@contextmanager
def running_server(log: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a server on this machine within the block, then ask it to stop.

    Args:
        log: file for its messages.
        options: of `itaclip serve`.

    Yields:
        Its address and its process, which has an exit status after the block.

    Raises:
        ItaclipError: the server exited, or did not start within two minutes.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "itaclip", "serve", *options, "--port", str(port)]
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        address = f"http://127.0.0.1:{port}"
        until = time.monotonic() + _SECONDS_TO_START
        while not _answers(address):
            if server.poll() is not None or time.monotonic() > until:
                raise ItaclipError(f"the server did not start; its log ends:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield address, server
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(_SECONDS_TO_STOP)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/v1/health", timeout=5):
            return True
    except OSError:
        return False
