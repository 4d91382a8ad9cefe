"""Being one of the processes of a distributed run, and ending soon when another one dies."""

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
"""Exit status of a process that ended because another one did."""

_SLURM = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}

_BETWEEN_LOOKS = 0.5
"""Seconds."""

_SILENCE = timedelta(minutes=2)
"""A process that died is noticed at once, for its connections close; a machine that vanished
leaves them open, and is given up after this long."""

_TO_JOIN = timedelta(minutes=30)
"""For the first process to wait for the last, which may find its disks cold."""

_BEFORE_EXIT = 3.0
"""Seconds for a launcher on this machine to see the process that failed first."""


@contextmanager
def joined(launcher: str) -> Iterator[Callable[[], None]]:
    """Be one of the processes of a run inside the block: over NCCL with GPUs, over gloo without.

    When a process or the launcher disappears, the others say so and exit with status `LOST`.

    Args:
        launcher: "none" is alone; "pytorch" (torchrun) and "slurm" (srun) tell each process its place.

    Yields:
        A function that waits until all processes have called it, for hours if need be;
        collective operations would give up.

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
        torch.distributed.init_process_group("nccl" if gpus else "gloo", timeout=_TO_JOIN)
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
class _News:
    """What a process tells the others.

    Attributes:
        met: how often it has called `_Watch.meet`.
        ended: None while it runs, "" when all went well, else the reason why not.
    """

    met: int = 0
    ended: str | None = None


class _Watch:
    """A thread that exchanges news with the other processes twice a second, over gloo.

    Launchers end the processes of their own machine only; those of other machines would
    work on, and wait at the end for one that is gone.
    """

    def __init__(self) -> None:
        self._group: Any = torch.distributed.new_group(backend="gloo", timeout=_SILENCE)
        self._mine = _News()
        self._all_met = 0  # how often all have
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def meet(self) -> None:
        """Wait until all processes have called this as often as this one has."""
        self._mine = replace(self._mine, met=self._mine.met + 1)
        while self._all_met < self._mine.met:
            time.sleep(_BETWEEN_LOOKS / 10)

    def end(self, reason: str) -> None:
        """Tell the others that this process is done, or why it fails; wait until they know."""
        self._mine = replace(self._mine, ended=reason)
        self._thread.join(_BEFORE_EXIT if reason else None)

    def _look(self) -> None:
        news = [_News()] * torch.distributed.get_world_size()
        while any(one.ended is None for one in news):
            time.sleep(_BETWEEN_LOOKS)
            mine = self._mine
            try:
                torch.distributed.all_gather_object(news, mine, group=self._group)
            except RuntimeError as error:
                if self._mine.ended is None:
                    _exit(f"another process of this run is gone ({str(error).splitlines()[0]})")
                return
            self._all_met = min(one.met for one in news)
            failed = [f"process {i} of {len(news)} failed: {one.ended}" for i, one in enumerate(news) if one.ended]
            if failed and mine.ended:
                return
            if failed:
                _exit(failed[0])


def _end_with(launcher: int) -> None:
    """End this process when its parent is gone: nobody else would."""
    while os.getppid() == launcher:
        time.sleep(_BETWEEN_LOOKS)
    _exit("the launcher of this process is gone", 0)


def _exit(reason: str, wait: float = _BEFORE_EXIT) -> NoReturn:
    """End the process from a thread; what was counted is in the journal."""
    time.sleep(wait)
    with suppress(OSError):  # a launcher that is gone reads no more
        sys.stderr.write(f"error: {reason}\nThe same command continues with what was counted.\n")
        sys.stderr.flush()
    os._exit(LOST)
