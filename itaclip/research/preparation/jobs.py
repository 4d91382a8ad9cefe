"""Run many small jobs in several processes, in constant memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

from itaclip.errors import ItaclipError

Job = TypeVar("Job")
Result = TypeVar("Result")

# Jobs sent at a time: a job takes milliseconds, and sending it alone would take almost as long.
_CHUNK = 4

# Chunks in flight per process: enough to keep it busy, few enough to save memory.
_AHEAD = 2


def default_workers() -> int:
    """Count the CPUs available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Iterator[Result]:
    """Apply a picklable function to every job; yield results in the order of the jobs.

    Jobs are read only as fast as they finish. The first error ends the run: running jobs finish,
    waiting ones are dropped, and the error is raised here.

    Raises:
        ItaclipError: fewer than one worker, or a worker process was killed.
    """
    if workers < 1:
        raise ItaclipError(f"--workers {workers}: expected 1 or more.")
    if workers == 1:
        yield from map(function, jobs)
        return
    # Spawned, not forked: the progress bar runs a thread, and forking threads can deadlock.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_prepare_worker)
    waiting: deque[Future[list[Result]]] = deque()
    source = iter(jobs)
    try:
        while chunk := list(islice(source, _CHUNK)):
            waiting.append(pool.submit(_run_chunk, function, chunk))
            if len(waiting) >= workers * _AHEAD:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise ItaclipError(
            "A worker process was killed, possibly because memory ran out; run again with fewer --workers. "
            "Files written so far are complete and are kept."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _run_chunk(function: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
    return [function(job) for job in jobs]


def _prepare_worker() -> None:
    """Leave Ctrl-C to the parent, and exit with it: a killed parent cannot stop its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
