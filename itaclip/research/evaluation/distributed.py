"""Join a distributed run, and exit promptly when another process dies."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed

from itaclip.errors import ItaclipError

LOST = 3
"""Exit status of a process that ended because another one died."""

_SLURM = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}

_POLL_INTERVAL = 0.5
"""Seconds."""

_PEER_TIMEOUT = timedelta(minutes=2)
"""When to give up on an unreachable machine. The death of a process is noticed at once,
because its connections close; those of a vanished machine stay open."""

_JOIN_TIMEOUT = timedelta(minutes=30)
"""How long the first process waits for the last, which may start with cold disk caches."""

_EXIT_DELAY = 3.0
"""Seconds that let the launcher on this machine see the process that failed first."""


@contextmanager
def joined(launcher: str) -> Iterator[Callable[[], None]]:
    """Join the process group of a run for the duration of the block: NCCL with GPUs, gloo without.

    When a process or the launcher disappears, the others report it and exit with status `LOST`.

    Args:
        launcher: "none" for a single process; "pytorch" (torchrun) or "slurm" (srun), which give
            each process its rank.

    Yields:
        A barrier without a timeout: it waits until all processes have called it, for hours if
        necessary, whereas collective operations would time out.

    Raises:
        ItaclipError: the launcher did not start this process, or the others cannot be reached.
    """
    if launcher == "none":
        yield lambda: None
        return
    if launcher == "slurm":
        os.environ.update({name: os.environ[theirs] for name, theirs in _SLURM.items() if theirs in os.environ})
    missing = [name for name in (*_SLURM, "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ItaclipError(
            f"--launcher {launcher}: ${missing[0]} is not set; start with "
            f"tools/{'slurm' if launcher == 'slurm' else 'dist'}_test.sh."
        )
    threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    gpus = torch.cuda.device_count()
    if gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % gpus)
    try:
        torch.distributed.init_process_group("nccl" if gpus else "gloo", timeout=_JOIN_TIMEOUT)
        watch = _Watch()
    except (RuntimeError, ValueError) as error:
        raise ItaclipError(
            f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} cannot join the others at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} ({str(error).splitlines()[0]})."
        ) from error
    try:
        yield watch.meet
    except BaseException as error:
        watch.end(f"{type(error).__name__}: {error}")
        raise
    watch.end("")
    torch.distributed.destroy_process_group()


@dataclass(frozen=True)
class _Status:
    """Status that a process sends to the others.

    Attributes:
        met: number of calls of `_Watch.meet`.
        ended: None while it runs, "" after success, otherwise the reason for the failure.
    """

    met: int = 0
    ended: str | None = None


class _Watch:
    """A thread that exchanges statuses with the other processes twice a second over gloo.

    Launchers end only the processes of their own machine; those of other machines would
    continue, and in the end wait for a process that is gone.
    """

    def __init__(self) -> None:
        self._group: Any = torch.distributed.new_group(backend="gloo", timeout=_PEER_TIMEOUT)
        self._mine = _Status()
        self._all_met = 0  # the minimum over all processes
        self._thread = threading.Thread(target=self._exchange, daemon=True)
        self._thread.start()

    def meet(self) -> None:
        """Wait until all processes have called this as often as this one has."""
        self._mine = replace(self._mine, met=self._mine.met + 1)
        while self._all_met < self._mine.met:
            time.sleep(_POLL_INTERVAL / 10)

    def end(self, reason: str) -> None:
        """Tell the others that this process has finished, or why it failed; wait until they know."""
        self._mine = replace(self._mine, ended=reason)
        self._thread.join(_EXIT_DELAY if reason else None)

    def _exchange(self) -> None:
        statuses = [_Status()] * torch.distributed.get_world_size()
        while any(status.ended is None for status in statuses):
            time.sleep(_POLL_INTERVAL)
            mine = self._mine
            try:
                torch.distributed.all_gather_object(statuses, mine, group=self._group)
            except RuntimeError as error:
                if self._mine.ended is None:
                    _exit(f"another process of this run is gone ({str(error).splitlines()[0]})")
                return
            self._all_met = min(status.met for status in statuses)
            failed = [f"process {i} of {len(statuses)} failed: {s.ended}" for i, s in enumerate(statuses) if s.ended]
            if failed and mine.ended:
                return
            if failed:
                _exit(failed[0])


def _end_with(launcher: int) -> None:
    """End this process when its parent is gone; nothing else would."""
    while os.getppid() == launcher:
        time.sleep(_POLL_INTERVAL)
    _exit("the launcher of this process is gone", 0)


def _exit(reason: str, wait: float = _EXIT_DELAY) -> NoReturn:
    """End the process from a thread; the journal keeps its results."""
    time.sleep(wait)
    with suppress(OSError):  # stderr is closed if the launcher is gone
        sys.stderr.write(f"error: {reason}\nRun the same command again to resume.\n")
        sys.stderr.flush()
    os._exit(LOST)
