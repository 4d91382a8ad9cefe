"""The HTTP API: one image and its classes in, labels out."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import secrets
import threading
import time
from concurrent.futures import CancelledError
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from itaclip.core.images import ImageTooLargeError
from itaclip.errors import ItaclipError
from itaclip.segmenter import Segmenter
from itaclip.web.address import HEADERS
from itaclip.web.answer import Form, offered_methods, segment_and_warn
from itaclip.web.api_answer import rendered
from itaclip.web.api_docs import describe, docs_page
from itaclip.web.api_request import BadRequestError, defaults, offered_outputs, read_form
from itaclip.web.limits import Limits, StoppedError, TimeOverError
from itaclip.web.line import Line, LineClosedError, LineFullError
from itaclip.web.observing import REQUESTS, Metrics

_LOG = logging.getLogger(__name__)

OPEN = ("/v1/health", "/v1/docs", "/v1/openapi.json")
"""Paths that need no token: they tell nothing of the server's work."""

CLIENT_GONE = 499
"""What the log says of a client that did not wait for the answer."""

_KNOWN = ("/v1/segment", "/v1/info", *OPEN, "/metrics")
_ENVELOPE = 100_000  # bytes of a request around its file
_SECONDS_TO_TAKE = 60.0  # for a part of an answer to be taken
_REQUEST_ID = re.compile(r"[\w-]{1,64}")
_API_HEADERS = HEADERS | {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


def make_api(segmenter: Segmenter, title: str, limits: Limits, line: Line, token: str | None = None) -> ASGIApp:
    """The API of a segmenter.

    Args:
        segmenter: what all clients share; its classes, if any, are those of requests that name none.
        title: the model, told to clients.
        limits: of every request.
        line: where images are segmented one after the other.
        token: what clients must send as ``Authorization: Bearer TOKEN``; None asks for nothing.
    """
    metrics = Metrics(line)
    app = FastAPI(
        title="ITACLIP", version=version("itaclip"), description=f"Segmentation with classes of your own. {title}.",
        docs_url=None, redoc_url=None, openapi_url="/v1/openapi.json",
    )  # fmt: skip

    @app.get("/v1/health", summary="Whether the server takes requests")
    async def health() -> Response:
        return JSONResponse({"status": "stopping" if line.closed else "ok"}, 503 if line.closed else 200)

    @app.get("/v1/info", summary="Model, limits, and what a request may ask for")
    async def info() -> dict[str, Any]:
        return {
            "version": version("itaclip"), "model": title, "methods": offered_methods(segmenter.settings),
            "outputs": offered_outputs(), "defaults": defaults(segmenter.settings), "classes": segmenter.names,
            "limits": {
                "megapixels": limits.megapixels, "upload_mb": limits.upload_mb, "words": limits.words,
                "characters": limits.characters, "seconds": limits.seconds, "queue": limits.queue,
            },
            "waiting": line.waiting,
        }  # fmt: skip

    @app.post("/v1/segment", **describe(limits, token is not None))
    async def segment(request: Request) -> Response:
        line.check()  # before an image is sent in vain
        try:
            form, output = await asyncio.wait_for(read_form(request, segmenter, limits), limits.upload_seconds)
        except asyncio.TimeoutError:
            raise BadRequestError(408, f"The request did not arrive within {limits.upload_seconds:g} s.") from None
        return await _segment(request, segmenter, form, output, limits, line, metrics)

    @app.get("/v1/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(docs_page(app.openapi()))

    @app.get("/metrics", summary="Counters for Prometheus")
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    for kind in (BadRequestError, ItaclipError, HTTPException, ClientDisconnect):
        app.add_exception_handler(kind, _refused)
    return Gate(app, limits, token, metrics)


async def _segment(
    request: Request, segmenter: Segmenter, form: Form, output: str, limits: Limits, line: Line, metrics: Metrics
) -> Response:
    """Wait for the line's turn and the result, or until the client goes."""
    stopped = threading.Event()
    began = time.perf_counter()
    fields = request.scope["state"]["fields"]

    def work() -> tuple[bytes, str]:
        started = time.perf_counter()
        fields["waited"] = round(started - began, 3)
        result, warnings = segment_and_warn(segmenter, form, limits, stopped)
        seconds = time.perf_counter() - started
        height, width = result.labels.shape
        fields.update(height=height, width=width, classes=len(result.names), computed=round(seconds, 3))
        metrics.computed(seconds, height * width)
        return rendered(result, output, warnings, seconds)

    future = line.submit(work)
    answer: asyncio.Future[Any] = asyncio.wrap_future(future)
    gone: asyncio.Future[Any] = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientDisconnect
        body, media_type = answer.result()
    except (CancelledError, asyncio.CancelledError):
        raise LineClosedError from None
    finally:
        stopped.set()  # without effect where the work is done
        future.cancel()
        gone.cancel()
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else will ask
    return Response(body, media_type=media_type)


async def _gone(request: Request) -> None:
    """Ends when the client closes the connection; all of the request has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refused(request: Request, error: Exception) -> Response:
    """The answer to an error that is the client's, or the load's."""
    if isinstance(error, LineFullError):
        return _problem(429, str(error), {"Retry-After": str(error.seconds)})
    if isinstance(error, LineClosedError):
        return _problem(503, str(error), {"Retry-After": "10"})
    if isinstance(error, HTTPException):
        return _problem(error.status_code, f"{error.detail}.", dict(error.headers or {}))
    if isinstance(error, (ClientDisconnect, StoppedError)):
        return _problem(CLIENT_GONE, "Nobody waits for the answer.")
    status = error.status if isinstance(error, BadRequestError) else 422
    if isinstance(error, ImageTooLargeError):
        status = 413
    if isinstance(error, TimeOverError):
        status = 504
    return _problem(status, str(error))


def _problem(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"detail": message}, status, headers)


class Gate:
    """Around the API: token, size, headers, how many requests at once; the log and the counters.

    Args:
        app: the API.
        limits: of every request.
        token: what clients must send; None asks for nothing.
        metrics: where requests are counted.
    """

    def __init__(self, app: ASGIApp, limits: Limits, token: str | None, metrics: Metrics) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._token = token.encode() if token else None
        self._largest = limits.upload_bytes * 4 // 3 + _ENVELOPE + 4 * limits.characters  # base64 takes a third more
        self._at_once = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        name = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        path = path if path in _KNOWN else "other"
        fields: dict[str, Any] = {"id": name, "method": scope["method"][:10], "path": path, "status": 500, "bytes": 0}
        scope.setdefault("state", {})["fields"] = fields

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                fields["status"] = message["status"]
                MutableHeaders(scope=message).update(_API_HEADERS | {"X-Request-ID": name})
            else:
                fields["bytes"] += len(message.get("body", b""))
            # a client that takes nothing holds no answer in memory for ever
            await asyncio.wait_for(send(message), _SECONDS_TO_TAKE)

        self._at_once += 1
        try:
            refusal = self._refusal(path, headers)
            await (refusal or self._app)(scope, receive, send_on)
        except asyncio.TimeoutError:
            fields["status"] = CLIENT_GONE
        except Exception:
            _LOG.exception("Request %s failed.", name)
            if not fields["bytes"]:
                problem = _problem(500, f"Something went wrong; the server's log says what, under {name}.")
                await problem(scope, receive, send_on)
        finally:
            self._at_once -= 1
            seconds = time.perf_counter() - began
            self._metrics.count(path, fields["status"], seconds)
            REQUESTS.info("request", extra={"fields": fields | {"seconds": round(seconds, 3)}})

    def _refusal(self, path: str, headers: Headers) -> Response | None:
        """The answer to a request that is not passed on; None passes it."""
        if path in OPEN:
            return None
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return _problem(403, "Pages of other sites cannot use this server.")
        if self._token is not None and not self._knows(headers.get("authorization", "")):
            return _problem(
                401, "Send the server's token: Authorization: Bearer TOKEN.", {"WWW-Authenticate": "Bearer"}
            )
        length = headers.get("content-length", "")
        if "transfer-encoding" in headers:
            return _problem(411, "A request must say its length.")
        if length.isdigit() and int(length) > self._largest:
            return _problem(413, f"Too large: at most {self._limits.upload_mb:g} MB are taken.")
        if path == "/v1/segment" and self._at_once > 2 * self._limits.queue + 2:
            return _problem(429, "Too many requests at once. Try again later.", {"Retry-After": "5"})
        return None

    def _knows(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        given = token.strip().encode("utf-8", "replace")
        return scheme.lower() == "bearer" and self._token is not None and hmac.compare_digest(given, self._token)
