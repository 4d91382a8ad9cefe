"""What happens to a request before and around the application: log and headers, access, limits.

These are plain ASGI middlewares outside of FastAPI, because FastAPI checks tokens only after it has read the body, and
because the answer to a fault of the server must carry the headers, too.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import secrets
import time
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from itaclip.apps.web.address import HEADERS
from itaclip.apps.web.limits import Limits
from itaclip.apps.web.observing import REQUESTS, Metrics
from itaclip.apps.web.problems import CLIENT_GONE, BadRequestError, problem_response

_LOG = logging.getLogger(__name__)

SEGMENT = "/v1/segment"

OPEN = ("/v1/health", "/v1/docs", "/v1/openapi.json")
"""Paths that need no token: they reveal nothing about the server's work."""

_KNOWN = (SEGMENT, "/v1/info", *OPEN, "/metrics")
_ENVELOPE = 100_000  # bytes of a request around its file
_SECONDS_TO_TAKE = 60.0  # for a client to receive a part of an answer
_REQUEST_ID = re.compile(r"[\w-]{1,64}")
_API_HEADERS = HEADERS | {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


def _path(scope: Scope) -> str:
    """Return the path of a request below the one under which a reverse proxy shows the server."""
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path


class RequestLog:
    """Gives every request an id and its answer headers; logs and counts it.

    Args:
        app: the application.
        metrics: where requests are counted.
        page: paths of the page; their own headers stay.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, page: Collection[str]) -> None:
        self._app, self._metrics, self._page = app, metrics, page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        given = Headers(scope=scope).get("x-request-id", "")
        name = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        path = _path(scope)
        shown = path if path in _KNOWN else "page" if path in self._page else "other"
        fields: dict[str, Any] = {"id": name, "method": scope["method"][:10], "path": shown, "status": 500, "bytes": 0}
        scope.setdefault("state", {})["fields"] = fields

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                fields["status"] = message["status"]
                added = (HEADERS if path in self._page else _API_HEADERS) | {"X-Request-ID": name}
                MutableHeaders(scope=message).update(added)
            else:
                fields["bytes"] += len(message.get("body", b""))
            # an answer that the client does not receive must not stay in memory for ever
            await asyncio.wait_for(send(message), _SECONDS_TO_TAKE)

        try:
            await self._app(scope, receive, send_on)
        except asyncio.TimeoutError:
            fields["status"] = CLIENT_GONE
        except Exception:  # the client has its answer already
            _LOG.exception("Request %s failed.", name)
        finally:
            seconds = time.perf_counter() - began
            self._metrics.count(shown, fields["status"], seconds)
            REQUESTS.info("request", extra={"fields": fields | {"seconds": round(seconds, 3)}})


class AccessControl:
    """Refuses pages of other sites, and clients without the token.

    Args:
        app: the application.
        token: that clients must send; None asks for none.
        page: paths of the page, which are open to all as `OPEN` are.
    """

    def __init__(self, app: ASGIApp, token: str | None, page: Collection[str]) -> None:
        self._app, self._token, self._open = app, token, {*OPEN, *page}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        refusal = None
        if scope["type"] == "http" and _path(scope) not in self._open:
            refusal = self._refusal(Headers(scope=scope))
        await (problem_response(refusal) if refusal else self._app)(scope, receive, send)

    def _refusal(self, headers: Headers) -> BadRequestError | None:
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return BadRequestError(403, "Pages of other sites cannot use this server.")
        if self._token is None:
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        bearer, given = scheme.lower() == "bearer", given.strip()
        if bearer and hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode()):
            return None
        reason = "This is not the server's token." if bearer else "This server asks for a token."
        if bearer and not given:
            reason = "The token is empty: nothing follows the word Bearer; is the client's variable set?"
        return BadRequestError(
            401, f"{reason} Send the server's token: Authorization: Bearer TOKEN.", {"WWW-Authenticate": "Bearer"}
        )


class RequestLimits:
    """Bounds the size of requests, the time in which they arrive, and their number at once.

    Args:
        app: the application.
        limits: of every request.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._largest = limits.upload_bytes * 4 // 3 + _ENVELOPE + 4 * limits.characters  # base64 takes a third more
        self._at_once = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or _path(scope) in OPEN:
            await self._app(scope, receive, send)
            return
        self._at_once += 1
        try:
            refusal = self._refusal(_path(scope), Headers(scope=scope))
            await (problem_response(refusal) if refusal else self._app)(scope, self._bounded(receive), send)
        finally:
            self._at_once -= 1

    def _refusal(self, path: str, headers: Headers) -> BadRequestError | None:
        length = headers.get("content-length", "")
        if "transfer-encoding" in headers:
            return BadRequestError(411, "A request must state its length.")
        if length.isdigit() and int(length) > self._largest:
            return BadRequestError(413, f"Too large: at most {self._limits.upload_mb:g} MB are accepted.")
        if path == SEGMENT and self._at_once > 2 * self._limits.queue + 2:
            return BadRequestError(429, "Too many requests at once. Try again later.", {"Retry-After": "5"})
        return None

    def _bounded(self, receive: Receive) -> Receive:
        """Wrap `receive`: until the whole request has arrived, it waits only as long as the limit says."""
        loop = asyncio.get_running_loop()
        end, complete = loop.time() + self._limits.upload_seconds, False

        async def bounded() -> Message:
            nonlocal complete
            if complete:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), end - loop.time())
            except asyncio.TimeoutError:
                seconds = f"{self._limits.upload_seconds:g} s"
                raise BadRequestError(408, f"The request did not arrive within {seconds}.") from None
            if message["type"] == "http.disconnect":
                raise BadRequestError(CLIENT_GONE, "The client disconnected.")
            complete = not message.get("more_body", False)
            return message

        return bounded
