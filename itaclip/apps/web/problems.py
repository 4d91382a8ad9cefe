"""Errors as clients see them: a status and ``{"detail": "..."}``, whatever part of the server refuses."""

from __future__ import annotations

from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from itaclip.apps.web.job_queue import QueueClosedError, QueueFullError
from itaclip.apps.web.limits import StoppedError, TimeOverError
from itaclip.common.images import ImageTooLargeError
from itaclip.errors import ItaclipError

CLIENT_GONE = 499
"""Status in the log when a client did not wait for the answer."""

_STATUSES = {
    QueueFullError: 429, QueueClosedError: 503, ImageTooLargeError: 413, TimeOverError: 504,
    StoppedError: CLIENT_GONE, ItaclipError: 422,
}  # fmt: skip


class BadRequestError(HTTPException):
    """A request that is refused; the message, for the client, is a whole sentence."""


class Problem(BaseModel):
    """Why a request failed."""

    detail: str


def status_and_detail(error: Exception) -> tuple[int, str]:
    """Return the status and message of an error; of a fault of the server, clients get no details."""
    if isinstance(error, HTTPException):
        return error.status_code, error.detail if isinstance(error, BadRequestError) else f"{error.detail}."
    for kind, status in _STATUSES.items():
        if isinstance(error, kind):
            return status, str(error)
    return 500, "Something went wrong; the server's log says what."


def problem_response(error: Exception) -> JSONResponse:
    """Return the answer to an error."""
    status, detail = status_and_detail(error)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if isinstance(error, (QueueFullError, QueueClosedError)):
        headers["Retry-After"] = str(error.seconds)
    return JSONResponse(Problem(detail=detail).model_dump(), status, headers)
