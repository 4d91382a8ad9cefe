"""The address a server listens on, and the headers of its answers."""

from __future__ import annotations

import ipaddress
import signal
import socket
import threading

from itaclip.errors import ItaclipError

HEADERS = {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"}
"""Sent with every answer: browsers guess no content types and show the page in no frame."""


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach a server on this host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_address(host: str, port: int) -> None:
    """Check that a server can listen on an address, before anything slow is loaded.

    Raises:
        ItaclipError: the address does not exist, is in use, or may not be used.
    """
    if not 1 <= port <= 65535:
        raise ItaclipError(f"--port {port}: expected 1 to 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ItaclipError(
            f"--host {host} --port {port}: cannot listen there ({error.strerror or error}). "
            "Choose another port, or stop the program that uses this one."
        ) from None


def address_of(host: str, port: int) -> str:
    """Return the address to open in a browser."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def stop_signal() -> threading.Event:
    """Make an event that SIGINT and SIGTERM set from now on."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    return stopped


def wait_until(stopped: threading.Event) -> None:
    """Wait for an event; in short steps, because an endless wait ignores Ctrl-C on Windows."""
    while not stopped.wait(1.0):
        pass
