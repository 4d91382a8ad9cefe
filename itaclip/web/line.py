"""One image at a time, whoever asks: the worker that page and API share, and the line before it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from itaclip.errors import ItaclipError

T = TypeVar("T")


class LineFullError(ItaclipError):
    """No place is free; `seconds` is a guess at when one will be."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"Queue is full. Try again in about {seconds} s.")
        self.seconds = seconds


class LineClosedError(ItaclipError):
    """The server is stopping."""

    def __init__(self) -> None:
        super().__init__("The server is stopping; try again later.")


class Line:
    """Runs work one after the other, first come, first served, in a thread of its own.

    Args:
        places: how much work may wait; more is refused.
        others: how many others wait elsewhere for this worker; they take places, too.
    """

    def __init__(self, places: int, others: Callable[[], int] = lambda: 0) -> None:
        self.places, self.others = places, others
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="itaclip-line")
        self._lock = threading.Lock()
        self._pending = 0
        self._running = 0
        self._closed = False
        self._usual = 1.0  # seconds per piece of work, a running mean

    @property
    def running(self) -> int:
        """1 while work is done, else 0."""
        return self._running

    @property
    def waiting(self) -> int:
        """How much work waits, here and elsewhere."""
        return max(0, self._pending - self._running) + self.others()

    @property
    def closed(self) -> bool:
        """Whether the server is stopping."""
        return self._closed

    def check(self) -> None:
        """Refuse where `submit` would.

        Raises:
            LineFullError: no place is free.
            LineClosedError: the server is stopping.
        """
        if self._closed:
            raise LineClosedError
        pending = self._pending + self.others()
        if pending > self.places:  # one of them runs, or is about to
            raise LineFullError(max(1, math.ceil(self._usual * (pending - self.places))))

    def submit(self, work: Callable[[], T], admitted: bool = False) -> Future[T]:
        """Add work at the end of the line; cancelling its future while it waits takes it out again.

        Args:
            work: what to do.
            admitted: it waited elsewhere, so it needs no free place.

        Raises:
            LineFullError: no place is free.
            LineClosedError: the server is stopping.
        """
        with self._lock:
            if self._closed:
                raise LineClosedError
            if not admitted:
                self.check()
            future = self._pool.submit(self._run, work)
            self._pending += 1
        future.add_done_callback(self._leave)
        return future

    def close(self) -> None:
        """Take no more work, drop what waits, and wait until what runs is done."""
        with self._lock:
            self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, work: Callable[[], T]) -> T:
        began = time.perf_counter()
        self._running = 1
        try:
            return work()
        finally:
            self._running = 0
            self._usual += 0.2 * (time.perf_counter() - began - self._usual)

    def _leave(self, _: Future[T]) -> None:
        with self._lock:
            self._pending -= 1
