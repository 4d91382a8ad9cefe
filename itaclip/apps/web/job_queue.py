"""The queue of jobs for the one thread that segments images: first in, first out."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from itaclip.errors import ItaclipError

T = TypeVar("T")


class QueueFullError(ItaclipError):
    """The queue is full; `seconds` estimates when it will accept a job again."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"The queue is full. Try again in about {seconds} s.")
        self.seconds = seconds


class QueueClosedError(ItaclipError):
    """The server is stopping."""

    seconds = 10

    def __init__(self) -> None:
        super().__init__("The server is stopping; try again later.")


class JobQueue:
    """Runs jobs one after the other, in order, in a thread of its own.

    Args:
        capacity: how many jobs may wait; any more are refused.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="itaclip-queue")
        self._lock = threading.Lock()
        self._jobs: list[Future[Any]] = []  # unfinished, in order
        self._running = 0
        self._closed = False
        self._mean_seconds = 1.0  # per job, a running mean

    @property
    def running(self) -> int:
        """1 while a job runs, else 0."""
        return self._running

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return max(0, len(self._jobs) - self._running)

    @property
    def closed(self) -> bool:
        """Whether the server is stopping."""
        return self._closed

    def ahead(self, job: Future[Any]) -> int:
        """Count the jobs that come before this one, the running one included."""
        with self._lock:
            return self._jobs.index(job) if job in self._jobs else 0

    def check(self) -> None:
        """Refuse if `submit` would.

        Raises:
            QueueFullError: as many jobs wait as may.
            QueueClosedError: the server is stopping.
        """
        if self._closed:
            raise QueueClosedError
        pending = len(self._jobs)
        if pending > self.capacity:  # one of them runs, or is about to
            raise QueueFullError(max(1, math.ceil(self._mean_seconds * (pending - self.capacity))))

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Add a job at the end of the queue; cancelling its future before it runs removes it.

        Raises:
            QueueFullError: as many jobs wait as may.
            QueueClosedError: the server is stopping.
        """
        with self._lock:
            self.check()
            job = self._pool.submit(self._run, work)
            self._jobs.append(job)
        job.add_done_callback(self._remove)
        return job

    def close(self) -> None:
        """Accept no more jobs, cancel those that wait, and wait until the running one is done."""
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
            self._mean_seconds += 0.2 * (time.perf_counter() - began - self._mean_seconds)

    def _remove(self, job: Future[Any]) -> None:
        with self._lock:
            self._jobs.remove(job)
