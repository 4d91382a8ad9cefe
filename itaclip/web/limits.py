"""What one visitor may ask for, so that the next one is served too."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

from torch.overrides import TorchFunctionMode

from itaclip.errors import ItaclipError


@dataclass(frozen=True)
class Limits:
    """Limits per request and on the queue.

    Raises:
        ItaclipError: a limit that is not positive; the message shows it.
    """

    megapixels: float = 16.0
    """Of an image, told from its header: small files can claim far more. Photographs have 12."""
    upload_mb: float = 20.0
    """Of an image file."""
    words: int = 100
    """Class words, synonyms and words of the background. Every word is a map of scores in
    memory: 100 take 1.3 GB at 2048 x 1536, the largest working size of a photograph."""
    characters: int = 50_000
    """Of the form's text: 100 words with a definition of 400 and more each."""
    seconds: float = 120.0
    """Of computing; waiting in the queue does not count. One CPU core takes 97 for the texts of
    100 new words of ViT-B/16 (80 templates each)."""
    queue: int = 20
    """Requests that wait; the next one is told to come back."""
    upload_seconds: float = 30.0
    """For a request to the API to arrive; slower ones are given up."""
    minutes_kept: float = 30.0
    """How long uploads and downloads lie on the disk when a visitor never leaves."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ItaclipError(f"{field.name} = {value}: expected a positive number.")

    @property
    def pixels(self) -> int:
        """Of an image at most."""
        return int(self.megapixels * 1e6)

    @property
    def upload_bytes(self) -> int:
        """Of an image file at most."""
        return int(self.upload_mb * 1e6)


class TimeOverError(ItaclipError):
    """Computing took longer than is allowed."""


class StoppedError(ItaclipError):
    """Nobody waits for the result any more."""


class TimeLimit(TorchFunctionMode):
    """Ends a block after so many seconds, or when asked to, at its next torch operation, in its thread alone.

    A thread cannot be ended from outside; this one looks at the clock by itself. Locks are
    given back and memory freed as after any other error.

    Args:
        seconds: that the block may take.
        stopped: ends the block once it is set; None leaves that out.

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
                f"stopped after {self._seconds:g} s, the limit of this server. Take a smaller image or fewer words, "
                "or switch off five views or the refinement."
            )
        if self._stopped is not None and self._stopped.is_set():
            raise StoppedError("stopped: nobody waits for the result.")
        return func(*args, **(kwargs or {}))
