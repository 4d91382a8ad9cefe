"""The HTTP API: one image and its classes in, labels out."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from itaclip.errors import ItaclipError
from itaclip.images import ImageTooLargeError
from itaclip.progress import listening
from itaclip.segmenter import Segmenter
from itaclip.web.address import HEADERS
from itaclip.web.answer import Form, offered_methods, segment_and_warn
from itaclip.web.api_answer import rendered
from itaclip.web.api_docs import describe, docs_page
from itaclip.web.api_request import BadRequestError, defaults, offered_outputs, own_classes, read_form
from itaclip.web.limits import Limits, StoppedError, TimeOverError
from itaclip.web.line import Line, LineClosedError, LineFullError
from itaclip.web.observing import REQUESTS, Metrics
from itaclip.web.progress import Progress

_LOG = logging.getLogger(__name__)

OPEN = ("/v1/health", "/v1/docs", "/v1/openapi.json")
"""Paths that need no token: they reveal nothing about the server's work."""

CLIENT_GONE = 499
"""Status in the log when a client did not wait for the answer."""

LINES = "application/x-ndjson"
"""Content type of answers that report progress, one JSON object per line."""

_KNOWN = ("/v1/segment", "/v1/info", *OPEN, "/metrics")
_ENVELOPE = 100_000  # bytes of a request around its file
_SECONDS_TO_TAKE = 60.0  # for a client to receive a part of an answer
_SECONDS_BETWEEN = 0.2  # two reports of progress
_REQUEST_ID = re.compile(r"[\w-]{1,64}")
_API_HEADERS = HEADERS | {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


def make_api(
    segmenter: Segmenter,
    title: str,
    limits: Limits,
    line: Line,
    token: str | None = None,
    page: Sequence[BaseRoute] = (),
) -> ASGIApp:
    """The API of a segmenter, and the page if there is one.

    Args:
        segmenter: shared by all clients; its classes, if any, serve requests that name none.
        title: describes the model to clients.
        limits: of every request.
        line: the queue in which images wait to be segmented.
        token: that clients must send as ``Authorization: Bearer TOKEN``; None asks for none.
        page: routes of the web page, from `itaclip.web.page.routes`; they need no token.
    """
    metrics = Metrics(line)
    app = FastAPI(
        title="ITACLIP", version=version("itaclip"), description=f"Segmentation with your own classes. {title}.",
        docs_url=None, redoc_url=None, openapi_url="/v1/openapi.json",
    )  # fmt: skip

    @app.get("/v1/health", summary="Whether the server accepts requests")
    async def health() -> Response:
        return JSONResponse({"status": "stopping" if line.closed else "ok"}, 503 if line.closed else 200)

    @app.get("/v1/info", summary="The model, the limits, and what a request may ask for")
    async def info() -> dict[str, Any]:
        return {
            "version": version("itaclip"), "model": title, "methods": offered_methods(segmenter.settings),
            "outputs": offered_outputs(), "defaults": defaults(segmenter.settings), "classes": segmenter.names,
            "own": own_classes(segmenter.vocabulary),
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
        fields = request.scope["state"]["fields"]
        if LINES not in request.headers.get("accept", ""):
            return await _answer(request, Job(segmenter, form, output, limits, line, metrics, fields))
        if output in ("mask", "overlay"):
            raise BadRequestError(422, f"output = {output!r}: progress comes only with outputs that are JSON.")
        return Reporting(Job(segmenter, form, output, limits, line, metrics, fields))

    @app.get("/v1/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(docs_page(app.openapi()))

    @app.get("/metrics", summary="Counters for Prometheus")
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    app.router.routes.extend(page)
    for kind in (BadRequestError, ItaclipError, HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(kind, _refused)
    return Gate(app, limits, token, metrics, [getattr(route, "path", "") for route in page])


class Job:
    """An image in the queue, for one client.

    Args:
        segmenter: as for `make_api`.
        form: what to do.
        output: as for `rendered`.
        limits: as for `make_api`.
        line: as for `make_api`.
        metrics: where images are counted.
        fields: of the log; filled in.

    Raises:
        LineFullError: the queue is full.
        LineClosedError: the server is stopping.
    """

    def __init__(
        self, segmenter: Segmenter, form: Form, output: str, limits: Limits, line: Line, metrics: Metrics,
        fields: dict[str, Any],
    ) -> None:  # fmt: skip
        self.fields = fields
        self._line, self._stopped, self._progress = line, threading.Event(), Progress(form.refine)
        began = time.perf_counter()

        def work() -> tuple[bytes, str]:
            started = time.perf_counter()
            fields["waited"] = round(started - began, 3)
            with listening(self._progress):
                result, warnings = segment_and_warn(segmenter, form, limits, self._stopped)
            seconds = time.perf_counter() - started
            height, width = result.labels.shape
            fields.update(height=height, width=width, classes=len(result.names), computed=round(seconds, 3))
            metrics.computed(seconds, height * width)
            return rendered(result, output, form.image, warnings, seconds)

        self._future = line.submit(work)
        self._answer: asyncio.Future[Any] = asyncio.wrap_future(self._future)

    async def result(
        self, receive: Receive, report: Callable[[dict[str, Any]], Any] | None = None
    ) -> tuple[bytes, str]:
        """Body and content type of the answer; the image leaves the queue, or stops, if the client goes.

        Args:
            receive: reports that the client is gone; the request has been read.
            report: a coroutine that sends news of the progress; None sends none.

        Raises:
            ClientDisconnect: the client is gone.
            LineClosedError: the server is stopping.
            ItaclipError: as `segment`.
        """
        gone: asyncio.Future[Any] = asyncio.ensure_future(_gone(receive))
        reported: dict[str, Any] = {}
        try:
            while not self._answer.done():
                if report and (state := self._state()) != reported:
                    await report(state)
                    reported = state
                wait = _SECONDS_BETWEEN if report else None
                await asyncio.wait({self._answer, gone}, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                if gone.done() and not self._answer.done():
                    raise ClientDisconnect
            body, media_type = self._answer.result()
            return body, media_type
        except (CancelledError, asyncio.CancelledError):
            raise LineClosedError from None
        finally:
            self._stopped.set()  # without effect if the work is done
            self._future.cancel()
            gone.cancel()
            self._answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # or asyncio complains

    def _state(self) -> dict[str, Any]:
        if not self._future.running():
            return {"state": "waiting", "ahead": self._line.ahead(self._future)}
        return {"state": "running", "step": self._progress.step, "share": round(self._progress.share, 3)}


async def _answer(request: Request, job: Job) -> Response:
    body, media_type = await job.result(request.receive)
    return Response(body, media_type=media_type)


class Reporting(Response):
    """An answer that reports progress line by line, and ends with the result or an error."""

    media_type = LINES

    def __init__(self, job: Job) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})  # or nginx keeps the lines back
        del self.headers["content-length"]
        self._job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""

        async def send_line(line: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": line + b"\n", "more_body": more})

        async def report(state: dict[str, Any]) -> None:
            await send_line(json.dumps(state).encode())

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            body, _ = await self._job.result(receive, report)
            last = b'{"state": "done", "answer": ' + body + b"}"
        except asyncio.TimeoutError:  # the client takes nothing
            raise
        except Exception as error:
            status, message = _problem_of(error)
            if status == 500:
                _LOG.exception("Request %s failed.", self._job.fields["id"])
            self._job.fields["status"] = status
            last = json.dumps({"state": "failed", "status": status, "detail": message}).encode()
            if status == CLIENT_GONE:
                return
        await send_line(last, more=False)


async def _gone(receive: Receive) -> None:
    """Ends when the client closes the connection, once the whole request has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refused(request: Request, error: Exception) -> Response:
    """The answer to an error."""
    status, message = _problem_of(error)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if isinstance(error, LineFullError):
        headers["Retry-After"] = str(error.seconds)
    if isinstance(error, LineClosedError):
        headers["Retry-After"] = "10"
    return _problem(status, message, headers)


def _problem_of(error: Exception) -> tuple[int, str]:
    """Status and message of an error; of a fault of the server, clients get no details."""
    if isinstance(error, LineFullError):
        return 429, str(error)
    if isinstance(error, LineClosedError):
        return 503, str(error)
    if isinstance(error, HTTPException):
        return error.status_code, f"{error.detail}."
    if isinstance(error, (ClientDisconnect, StoppedError)):
        return CLIENT_GONE, "Nobody waits for the answer."
    if isinstance(error, BadRequestError):
        return error.status, str(error)
    if isinstance(error, ImageTooLargeError):
        return 413, str(error)
    if isinstance(error, TimeOverError):
        return 504, str(error)
    if isinstance(error, ItaclipError):
        return 422, str(error)
    return 500, "Something went wrong; the server's log says what."


def _problem(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"detail": message}, status, headers)


class Gate:
    """Around the application: token, size, headers, number of requests at once; the log and the counters.

    Args:
        app: the application.
        limits: of every request.
        token: that clients must send; None asks for none.
        metrics: where requests are counted.
        page: paths of the page; they need no token, and their own headers stay.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, token: str | None, metrics: Metrics, page: Sequence[str] = ()
    ) -> None:
        self._app, self._limits, self._metrics, self._page = app, limits, metrics, frozenset(page)
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
        of_page = path in self._page
        shown = path if path in _KNOWN else "page" if of_page else "other"
        fields: dict[str, Any] = {"id": name, "method": scope["method"][:10], "path": shown, "status": 500, "bytes": 0}
        scope.setdefault("state", {})["fields"] = fields

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                fields["status"] = message["status"]
                added = (HEADERS if of_page else _API_HEADERS) | {"X-Request-ID": name}
                MutableHeaders(scope=message).update(added)
            else:
                fields["bytes"] += len(message.get("body", b""))
            # an answer that the client does not receive must not stay in memory for ever
            await asyncio.wait_for(send(message), _SECONDS_TO_TAKE)

        self._at_once += 1
        try:
            refusal = self._refusal(path, headers)
            await (refusal or self._app)(scope, receive, send_on)
        except asyncio.TimeoutError:
            fields["status"] = CLIENT_GONE
        except Exception:  # the client has its answer already
            _LOG.exception("Request %s failed.", name)
        finally:
            self._at_once -= 1
            seconds = time.perf_counter() - began
            self._metrics.count(shown, fields["status"], seconds)
            REQUESTS.info("request", extra={"fields": fields | {"seconds": round(seconds, 3)}})

    def _refusal(self, path: str, headers: Headers) -> Response | None:
        """The answer to a request that goes no further; None lets it pass."""
        if path in OPEN or path in self._page:
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
            return _problem(411, "A request must state its length.")
        if length.isdigit() and int(length) > self._largest:
            return _problem(413, f"Too large: at most {self._limits.upload_mb:g} MB are accepted.")
        if path == "/v1/segment" and self._at_once > 2 * self._limits.queue + 2:
            return _problem(429, "Too many requests at once. Try again later.", {"Retry-After": "5"})
        return None

    def _knows(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        given = token.strip().encode("utf-8", "replace")
        return scheme.lower() == "bearer" and self._token is not None and hmac.compare_digest(given, self._token)
