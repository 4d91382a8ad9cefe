"""The server around the page: address, headers, size limits, temporary files."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import processing_utils
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from itaclip.segmenter import Segmenter
from itaclip.web.address import HEADERS, address_of, check_address, is_loopback, stop_signal, wait_until
from itaclip.web.limits import Limits
from itaclip.web.line import Line
from itaclip.web.page import CSS, make_page

_LOG = logging.getLogger(__name__)

PAGE_HEADERS = HEADERS | {
    # gradio's page is scripts and styles written into the HTML
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
}
"""Of every answer: nothing is loaded from elsewhere, either."""

_ENVELOPE = 100_000  # bytes of a request around its file
_FETCHERS = re.compile(r"/gradio_api/(proxy=|file/|file=(?P<file>.*))", re.DOTALL)


class Beside:
    """The API's paths go to the API, all others to the page.

    Args:
        app: the page.
        api: the API, or None.
        paths: that belong to it, with all that is below them.
    """

    def __init__(self, app: ASGIApp, api: ASGIApp | None, paths: Sequence[str]) -> None:
        self._app, self._api, self._paths = app, api, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        ours = any(path == known or path.startswith(f"{known}/") for known in self._paths)
        chosen = self._api if self._api and ours and scope["type"] == "http" else self._app
        await chosen(scope, receive, send)


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
                MutableHeaders(scope=message).update(PAGE_HEADERS)
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
    make_api: Callable[[Line], ASGIApp] | None = None,
    api_paths: Sequence[str] = (),
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
        make_api: gives the API that is served beside the page, from the line that both share.
        api_paths: the API's paths.

    Raises:
        ItaclipError: the address cannot be listened at.
    """
    if not is_loopback(host):
        _LOG.warning("%s: whoever reaches this machine can use the page; it asks nobody for a name.", host)
    check_address(host, port)
    stopped = stop_signal()
    line = Line(limits.queue)
    processing_utils.async_ssrf_protected_download = _no_links
    with tempfile.TemporaryDirectory(prefix="itaclip-web-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        page = make_page(segmenter, title, limits, folder, line)
        line.others = lambda: len(page._queue)  # visitors who wait in gradio's own queue
        middleware = [
            Middleware(Beside, api=make_api(line) if make_api else None, paths=api_paths),
            Middleware(Guard, folder=folder, largest=limits.upload_bytes),
        ]
        try:
            page.launch(
                server_name=host, server_port=port, root_path=root_path, max_file_size=limits.upload_bytes,
                prevent_thread_lock=True, quiet=True, share=False, show_error=False, ssr_mode=False,
                enable_monitoring=False, run_history=False, mcp_server=False, pwa=False, num_workers=0,
                footer_links=["api"], state_session_capacity=1000, css=CSS, theme=_theme(),
                allowed_paths=[], blocked_paths=[],
                app_kwargs={"middleware": middleware},
            )  # fmt: skip
            ready(address_of(host, port))
            wait_until(stopped)
        finally:
            line.close()
            page.close(verbose=False)


async def _no_links(url: str, cache_dir: str) -> str:
    """In the place of gradio's download of links that visitors send instead of files."""
    raise gr.Error("Links are not fetched; upload the file.", print_exception=False)


def _theme() -> Any:
    """gradio's own look, with fonts of the visitor's machine: nothing is fetched from elsewhere."""
    return gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
