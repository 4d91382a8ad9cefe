"""The Ray cluster of a run: connecting to it, and how many workers its machines hold."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import ray
import ray.data

from itaclip.common.logs import quiet
from itaclip.core.settings import Settings
from itaclip.devices import GPU_PRECISION
from itaclip.errors import ItaclipError

_OBJECT_STORE = 2 * 2**30  # maximum bytes if Ray starts here; holds parts in transit
_LEVEL = "RAY_BACKEND_LOG_LEVEL"
_THREADS = 4  # of a worker without a GPU, if the machine has that many


class Allocation(NamedTuple):
    """Workers wanted, workers that the machines can hold now, whether they use GPUs, and threads per worker."""

    workers: int
    available: int
    gpu: bool
    threads: int


def allocate(workers: int | None, threads: int | None, device: str, settings: Settings) -> Allocation:
    """Choose the number and kind of workers.

    Args:
        workers: wanted number of workers; None takes as many as the machines hold.
        threads: wanted CPU threads per worker; None takes up to 4.
        device: "auto", "cpu" or "cuda".
        settings: of the segmenter; some run on CPUs only.

    Raises:
        ItaclipError: no machine has a GPU, or as many cores as a worker needs; or the precision would be chosen for a
            CPU, but there are GPUs.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(machine.get("GPU", 0) for machine in machines))
    if device == "cuda" and not gpus:
        raise ItaclipError("device = 'cuda': the Ray cluster has no GPU; add a machine that has one, or use cpu.")
    if gpus and device != "cpu" and settings.dtype == "auto":
        raise ItaclipError(GPU_PRECISION)
    if gpus and device != "cpu" and settings.engine != "openvino" and settings.dtype != "int8":
        return Allocation(workers or gpus, gpus, True, threads or _THREADS)
    cores = [int(machine.get("CPU", 0)) for machine in machines]
    each = threads or max(1, min(_THREADS, *(count for count in cores if count), max(cores)))
    available = sum(count // each for count in cores)
    if not available:
        raise ItaclipError(f"threads = {each}: the largest machine has {max(cores)} cores; use fewer threads.")
    return Allocation(workers or available, available, False, each)


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Connect to a cluster or start Ray here, and disconnect afterwards; leave the caller's own connection alone."""
    if ray.is_initialized():
        yield
        return
    own: dict[str, Any] = {}
    if address is None:
        own = {"include_dashboard": False}
        if hasattr(os, "sysconf"):  # Windows has none, and leaves the share to Ray
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            own["object_store_memory"] = min(_OBJECT_STORE, memory // 4)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    try:
        with _quiet_core():
            ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except Exception as error:  # of many types; a machine that is too slow raises a plain Exception
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        what = "Ray cannot start here" if address is None else f"address = {address!r}: cannot connect to a Ray cluster"
        raise ItaclipError(f"{what} ({reason}).") from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _quiet_core() -> Iterator[None]:
    """Let Ray's C++ core, if it starts in the block, write fatal errors only, unless the user chose a level.

    It writes past Python's loggers, and calls an error that Ray Data hands its workers a reference and restarts them
    (https://github.com/ray-project/ray/issues/53727). The core also reports the level that it is given; this line is
    held back, and all others are passed on.
    """
    if _LEVEL in os.environ:
        yield
        return
    os.environ[_LEVEL] = "fatal"
    with tempfile.TemporaryFile() as held, _written_to(held.fileno()):
        try:
            yield
        finally:
            del os.environ[_LEVEL]


@contextmanager
def _written_to(file: int) -> Iterator[None]:
    """Hold back what the block writes to standard error in a file; then pass it on without lines about `_LEVEL`."""
    if sys.stderr is not None:
        sys.stderr.flush()
    kept = os.dup(2)
    os.dup2(file, 2)
    try:
        yield
    finally:
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.lseek(file, 0, os.SEEK_SET)
        with os.fdopen(os.dup(file), "rb") as written:
            os.write(2, b"".join(line for line in written if _LEVEL.encode() not in line))


@contextmanager
def quiet_ray() -> Iterator[None]:
    """Run Ray Data without its own progress output, with one part per block, however large."""
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 1
    with quiet("ray.data"), ray.data.DataContext.current(context), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The maximum number of concurrent tasks")  # small collections have fewer
        yield


@contextmanager
def unwrapped() -> Iterator[None]:
    """Re-raise a worker's `ItaclipError` without Ray's wrapper."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        cause = getattr(error, "cause", None)
        if not isinstance(cause, ItaclipError):
            raise
        raise ItaclipError(str(cause)) from None
