"""A request while its image waits and is segmented, and the answer that reports its progress."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from itaclip.apps.web.job_queue import JobQueue, QueueClosedError
from itaclip.apps.web.limits import Limits, StoppedError
from itaclip.apps.web.observing import Metrics
from itaclip.apps.web.problems import CLIENT_GONE, status_and_detail
from itaclip.apps.web.progress import Progress
from itaclip.apps.web.request import SegmentFields
from itaclip.apps.web.response import rendered
from itaclip.apps.web.segmentation import collected_warnings, default_options, segment
from itaclip.common.progress import listening
from itaclip.segmenter import Segmenter

_LOG = logging.getLogger(__name__)

NDJSON = "application/x-ndjson"
"""Content type of answers that report progress, one JSON object per line."""

_SECONDS_BETWEEN = 0.2  # two reports of progress


class QueuedRequest:
    """An image in the queue, for one client.

    Args:
        segmenter: as for `itaclip.apps.web.api.make_api`.
        image: content of the image file.
        sent: the other fields.
        limits: of every request.
        queue: in which the image waits.
        metrics: where images are counted.
        fields: of the log; filled in.

    Raises:
        QueueFullError: the queue is full.
        QueueClosedError: the server is stopping.
    """

    def __init__(
        self, segmenter: Segmenter, image: bytes, sent: SegmentFields, limits: Limits, queue: JobQueue,
        metrics: Metrics, fields: dict[str, Any],
    ) -> None:  # fmt: skip
        self.fields = fields
        refine = sent.refine if sent.refine is not None else default_options(segmenter.settings)["refine"]
        self._queue, self._stopped, self._progress = queue, threading.Event(), Progress(refine)
        began = time.perf_counter()

        def work() -> tuple[bytes, str]:
            started = time.perf_counter()
            fields["waited"] = round(started - began, 3)
            with listening(self._progress), collected_warnings() as warnings:
                result, vocabulary = segment(segmenter, image, sent, limits, self._stopped)
            seconds = time.perf_counter() - started
            height, width = result.labels.shape
            fields.update(height=height, width=width, classes=len(result.names), computed=round(seconds, 3))
            metrics.computed(seconds, height * width)
            return rendered(result, vocabulary, sent.output, image, list(dict.fromkeys(warnings)), seconds)

        self._future = queue.submit(work)
        self._answer: asyncio.Future[Any] = asyncio.wrap_future(self._future)

    async def result(
        self, receive: Receive, report: Callable[[dict[str, Any]], Any] | None = None
    ) -> tuple[bytes, str]:
        """Wait for body and content type of the answer; the image leaves the queue, or stops, if the client goes.

        Args:
            receive: reports that the client is gone; the request has been read.
            report: a coroutine that sends news of the progress; None sends none.

        Raises:
            StoppedError: the client is gone.
            QueueClosedError: the server is stopping.
            ItaclipError: as `segment`.
        """
        gone: asyncio.Future[Any] = asyncio.ensure_future(_disconnected(receive))
        reported: dict[str, Any] = {}
        try:
            while not self._answer.done():
                if report and (state := self._state()) != reported:
                    await report(state)
                    reported = state
                wait = _SECONDS_BETWEEN if report else None
                await asyncio.wait({self._answer, gone}, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                if gone.done() and not self._answer.done():
                    raise StoppedError
            body, media_type = self._answer.result()
            return body, media_type
        except (CancelledError, asyncio.CancelledError):
            raise QueueClosedError from None
        finally:
            self._stopped.set()  # without effect if the work is done
            self._future.cancel()
            gone.cancel()
            self._answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # or asyncio complains

    def _state(self) -> dict[str, Any]:
        if not self._future.running():
            return {"state": "waiting", "ahead": self._queue.ahead(self._future)}
        return {"state": "running", "step": self._progress.step, "share": round(self._progress.share, 3)}


class ProgressResponse(Response):
    """An answer that reports progress line by line, and ends with the result or an error."""

    media_type = NDJSON

    def __init__(self, queued: QueuedRequest) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})  # or nginx keeps the lines back
        del self.headers["content-length"]
        self._queued = queued

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""

        async def send_line(line: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": line + b"\n", "more_body": more})

        async def report(state: dict[str, Any]) -> None:
            await send_line(json.dumps(state).encode())

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            body, _ = await self._queued.result(receive, report)
            last = b'{"state": "done", "answer": ' + body + b"}"
        except asyncio.TimeoutError:  # the client takes nothing
            raise
        except Exception as error:
            status, detail = status_and_detail(error)
            if status == 500:
                _LOG.exception("Request %s failed.", self._queued.fields["id"])
            self._queued.fields["status"] = status
            last = json.dumps({"state": "failed", "status": status, "detail": detail}).encode()
            if status == CLIENT_GONE:
                return
        await send_line(last, more=False)


async def _disconnected(receive: Receive) -> None:
    """Wait until the client closes the connection, once the whole request has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
