"""The server around the page: address, headers, size limits, temporary files."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import signal
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import processing_utils
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from itaclip.errors import ItaclipError
from itaclip.segmenter import Segmenter
from itaclip.web.limits import Limits
from itaclip.web.page import CSS, make_page

_LOG = logging.getLogger(__name__)

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    # gradio's page is scripts and styles written into the HTML
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
}
"""Of every answer: no guessing of types, no frames elsewhere, nothing loaded from elsewhere."""

_ENVELOPE = 100_000  # bytes of a request around its file
_FETCHERS = re.compile(r"/gradio_api/(proxy=|file/|file=(?P<file>.*))", re.DOTALL)


class Guard:
    """Headers on every answer; requests too large, or for files that are none of the page's, are refused.

    Args:
        app: what is guarded.
        folder: of the files that may be fetched.
        largest: bytes of an uploaded file.
    """

    def __init__(self, app: ASGIApp, folder: Path, largest: int) -> None:
        self._app, self._folder, self._largest = app, folder, largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._refusal(scope)
        answer: ASGIApp = PlainTextResponse(refusal[1], refusal[0]) if refusal else self._app
        await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and message; None lets the request pass."""
        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        if "transfer-encoding" in headers:
            return 411, "A request must say its length."
        if length.isdigit() and int(length) > self._largest + _ENVELOPE:
            return 413, f"Too large: at most {self._largest / 1e6:g} MB are taken."
        if found := _FETCHERS.search(scope["path"]):
            path = Path(os.path.normpath(found["file"] or "/"))
            if not path.is_relative_to(self._folder):
                return 403, "No such file here."
        return None


def serve(
    segmenter: Segmenter,
    title: str,
    limits: Limits,
    host: str,
    port: int,
    root_path: str | None = None,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve the page until SIGINT or SIGTERM; leaves no file behind.

    Args:
        segmenter: what all visitors share.
        title: the model, told to visitors.
        limits: of every request.
        host: name or address to listen at.
        port: to listen at.
        root_path: where a reverse proxy shows the page, such as ``/segment``.
        ready: called with the page's address when it can be opened.

    Raises:
        ItaclipError: the address cannot be listened at.
    """
    if not is_loopback(host):
        _LOG.warning("%s: whoever reaches this machine can use the page; it asks nobody for a name.", host)
    check_address(host, port)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    processing_utils.async_ssrf_protected_download = _no_links
    with tempfile.TemporaryDirectory(prefix="itaclip-web-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        page = make_page(segmenter, title, limits, folder)
        try:
            page.launch(
                server_name=host, server_port=port, root_path=root_path, max_file_size=limits.upload_bytes,
                prevent_thread_lock=True, quiet=True, share=False, show_error=False, ssr_mode=False,
                enable_monitoring=False, run_history=False, mcp_server=False, pwa=False, num_workers=0,
                footer_links=["api"], state_session_capacity=1000, css=CSS, theme=_theme(),
                allowed_paths=[], blocked_paths=[],
                app_kwargs={"middleware": [Middleware(Guard, folder=folder, largest=limits.upload_bytes)]},
            )  # fmt: skip
            ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
            stopped.wait()
        finally:
            page.close(verbose=False)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_address(host: str, port: int) -> None:
    """Refuse what cannot be listened at; gradio would say it of every cause in the same words.

    Raises:
        ItaclipError: no such address, another program listens there, or no right to.
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
            f"--host {host} --port {port}: cannot be listened at ({error.strerror or error}). "
            "Take another port, or stop the program that uses it."
        ) from None


async def _no_links(url: str, cache_dir: str) -> str:
    """In the place of gradio's download of links that visitors send instead of files."""
    raise gr.Error("Links are not fetched; upload the file.", print_exception=False)


def _theme() -> Any:
    """gradio's own look, with fonts of the visitor's machine: nothing is fetched from elsewhere."""
    return gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
