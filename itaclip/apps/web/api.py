"""The HTTP API: one image and its classes in, labels out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Form
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from itaclip.apps.web.docs_page import docs_page
from itaclip.apps.web.job_queue import JobQueue
from itaclip.apps.web.limits import Limits
from itaclip.apps.web.middleware import SEGMENT, AccessControl, RequestLimits, RequestLog
from itaclip.apps.web.observing import Metrics
from itaclip.apps.web.problems import BadRequestError, Problem, problem_response
from itaclip.apps.web.queued_request import NDJSON, ProgressResponse, QueuedRequest
from itaclip.apps.web.request import (
    GENERAL,
    SegmentFields,
    SegmentForm,
    SegmentJson,
    SegmentRoute,
    check_fields,
    explained,
    file_name,
)
from itaclip.apps.web.response import Health, Info, Segmentation, offered_outputs
from itaclip.apps.web.segmentation import default_options, offered_methods, own_classes
from itaclip.errors import ItaclipError
from itaclip.segmenter import Segmenter

_STATUSES = {
    400: "Malformed multipart or JSON", 403: "Sent by a page of another site", 408: "The request arrived too slowly",
    411: "No Content-Length", 413: "Too large", 415: "Unsupported content type",
    422: "A bad field, class list, setting or image", 429: "The queue is full; see Retry-After",
    500: "A fault of the server", 503: "The server is stopping", 504: "Computing took too long",
}  # fmt: skip
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Segmentation, "description": "The segmentation",
        "content": {
            "image/png": {},
            NDJSON: {"schema": {"type": "string", "description": "If the request accepts it: progress, line by line."}},
        },
    },
    **{status: {"model": Problem, "description": text} for status, text in _STATUSES.items()},
}  # fmt: skip


@dataclass(frozen=True)
class _Endpoints:
    """What the routes of the API do; see `make_api`."""

    segmenter: Segmenter
    title: str
    limits: Limits
    queue: JobQueue
    metrics: Metrics

    async def health(self) -> Health:
        """Tell whether the server accepts requests."""
        found = Health(status="stopping" if self.queue.closed else "ok")
        return JSONResponse(found.model_dump(), 503) if self.queue.closed else found  # type: ignore[return-value]

    async def info(self) -> Info:
        """Describe the model, the limits, and what a request may ask for."""
        settings, limits = self.segmenter.settings, asdict(self.limits)
        return Info(
            version=version("itaclip"), model=self.title, methods=offered_methods(settings),
            outputs=offered_outputs(), classes=list(self.segmenter.names), own=own_classes(self.segmenter.vocabulary),
            defaults={"background": GENERAL, "output": "json"} | default_options(settings),
            limits={name: value for name, value in limits.items() if name != "upload_seconds"},
            waiting=self.queue.waiting,
        )  # fmt: skip

    async def segment(
        self, request: Request, sent: Annotated[SegmentForm, Form(media_type="multipart/form-data")]
    ) -> Response:
        """Segment an image."""
        sent.name = sent.name or file_name(sent.image.filename)
        image = await sent.image.read()
        await sent.image.close()
        return await self._answer(request, image, sent)

    async def segment_json(self, request: Request, sent: SegmentJson) -> Response:
        """Segment an image that comes as JSON."""
        return await self._answer(request, sent.image, sent)

    async def segment_other(self) -> Response:
        """Refuse a body of another type."""
        raise BadRequestError(415, "Send multipart/form-data or application/json.")

    async def prometheus(self) -> Response:
        """Report counters for Prometheus."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _answer(self, request: Request, image: bytes, sent: SegmentFields) -> Response:
        check_fields(sent, image, self.segmenter.vocabulary is not None, self.limits)
        progress = NDJSON in request.headers.get("accept", "")
        if progress and sent.output in ("mask", "overlay"):
            raise BadRequestError(422, f"output = {sent.output!r}: progress comes only with outputs that are JSON.")
        fields = request.scope["state"]["fields"]
        queued = QueuedRequest(self.segmenter, image, sent, self.limits, self.queue, self.metrics, fields)
        if progress:
            return ProgressResponse(queued)
        body, media_type = await queued.result(request.receive)
        return Response(body, media_type=media_type)


def make_api(
    segmenter: Segmenter,
    title: str,
    limits: Limits,
    queue: JobQueue,
    token: str | None = None,
    page: Sequence[BaseRoute] = (),
) -> ASGIApp:
    """Build the API of a segmenter, and the page if there is one.

    Args:
        segmenter: shared by all clients; its classes, if any, serve requests that name none.
        title: describes the model to clients.
        limits: of every request.
        queue: in which images wait to be segmented.
        token: that clients must send as ``Authorization: Bearer TOKEN``; None asks for none.
        page: routes of the web page, from `itaclip.apps.web.page.routes`; they need no token.
    """
    metrics = Metrics(queue)
    app = FastAPI(
        title="ITACLIP", version=version("itaclip"), description=f"Segmentation with your own classes. {title}.",
        docs_url=None, redoc_url=None, openapi_url="/v1/openapi.json",
    )  # fmt: skip
    app.state.limits, app.state.queue = limits, queue
    _add_routes(app, _Endpoints(segmenter, title, limits, queue, metrics), bool(token))
    app.router.routes.extend(page)
    for kind in (RequestValidationError, ItaclipError, HTTPException, Exception):
        app.add_exception_handler(kind, _refused)
    paths = frozenset(getattr(route, "path", "") for route in page)
    return RequestLog(AccessControl(RequestLimits(app, limits), token, paths), metrics, paths)


def _add_routes(app: FastAPI, endpoints: _Endpoints, has_token: bool) -> None:
    # for the schema; `AccessControl` asks for the token before it lets a body in
    security = [Depends(HTTPBearer(auto_error=False))] if has_token else []
    refused: dict[int | str, dict[str, Any]] = (
        {401: {"model": Problem, "description": "Missing or wrong token"}} if has_token else {}
    )
    stopping: dict[int | str, dict[str, Any]] = {503: {"model": Health, "description": "The server is stopping"}}
    json_body = {"application/json": {"schema": SegmentJson.model_json_schema()}}
    add = app.router.add_api_route
    add("/v1/health", endpoints.health, responses=stopping)
    add("/v1/info", endpoints.info, dependencies=security, responses=refused)
    add(
        SEGMENT, endpoints.segment, methods=["POST"], route_class_override=SegmentRoute, response_class=Response,
        dependencies=security, responses=_ANSWERS | refused, openapi_extra={"requestBody": {"content": json_body}},
    )  # fmt: skip
    add(
        SEGMENT, endpoints.segment_json, methods=["POST"], route_class_override=SegmentRoute, response_class=Response,
        include_in_schema=False,
    )  # fmt: skip
    add(SEGMENT, endpoints.segment_other, methods=["POST"], include_in_schema=False)
    add(
        "/metrics", endpoints.prometheus, dependencies=security,
        responses={**refused, 200: {"content": {"text/plain": {}}}},
    )  # fmt: skip

    @app.get("/v1/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(docs_page(app.openapi()))


async def _refused(_: Request, error: Exception) -> Response:
    return problem_response(explained(error) if isinstance(error, RequestValidationError) else error)
