"""What the operator of a server sees: a log line per request, and metrics. Never the contents of requests."""

from __future__ import annotations

import json
import logging
import sys
import time
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from itaclip.apps.web.job_queue import JobQueue

REQUESTS = logging.getLogger("itaclip.requests")
"""One record per request; its attribute ``fields`` holds the values to log."""

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120)


class JsonLines(logging.Formatter):
    """One line of JSON per record: time, level, logger, message, fields, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as a line."""
        content: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage(),
        }  # fmt: skip
        content |= getattr(record, "fields", {})
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False)


def log_json() -> None:
    """Make the whole program log to standard error as lines of JSON, one per request among them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    REQUESTS.setLevel(logging.INFO)


class Metrics:
    """The counters of one server, in their own registry.

    Args:
        queue: to report on.
    """

    def __init__(self, queue: JobQueue) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "itaclip_requests", "Requests by path and status.", ["path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "itaclip_request_seconds", "From the first byte of a request to the last byte of its answer.", ["path"],
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self._computing = Histogram(
            "itaclip_segment_seconds", "Computing time, without waiting.", buckets=_SECONDS, registry=self._registry
        )
        self._pixels = Counter("itaclip_pixels", "Pixels segmented.", registry=self._registry)
        for name, text in (("waiting", "Requests that wait."), ("running", "Requests being computed.")):
            Gauge(f"itaclip_{name}", text, registry=self._registry).set_function(partial(getattr, queue, name))
        ProcessCollector(registry=self._registry)

    def count(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def computed(self, seconds: float, pixels: int) -> None:
        """Count an image."""
        self._computing.observe(seconds)
        self._pixels.inc(pixels)

    def text(self) -> bytes:
        """Write all metrics in Prometheus's text format."""
        content: bytes = generate_latest(self._registry)
        return content
