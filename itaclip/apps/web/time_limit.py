"""A limit on computing time, apart from `limits`, which the command line reads without PyTorch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from torch.overrides import TorchFunctionMode

from itaclip.apps.web.limits import StoppedError, TimeOverError


class TimeLimit(TorchFunctionMode):
    """Ends a block after a number of seconds, or on demand: at the next torch operation of its thread.

    A thread cannot be ended from outside, so this one checks the clock itself. Reports of
    progress would be too rare for that: map correction of 12 megapixels makes none for a minute.
    Locks are released and memory is freed as after any other error.

    Args:
        seconds: that the block may take.
        stopped: ends the block once it is set; None for no such event.

    Raises:
        TimeOverError: from within the block, once the time is over.
        StoppedError: from within the block, once `stopped` is set.
    """

    def __init__(self, seconds: float, stopped: threading.Event | None = None) -> None:
        super().__init__()
        self._stopped = stopped
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        if time.monotonic() > self._end:
            raise TimeOverError(
                f"stopped after {self._seconds:g} s, the limit of this server. Use a smaller image or fewer words, "
                "or switch off five views or the refinement."
            )
        if self._stopped is not None and self._stopped.is_set():
            raise StoppedError
        return func(*args, **(kwargs or {}))
