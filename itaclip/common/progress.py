"""How far a long computation is, reported to whoever listens in the same thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

Listener: TypeAlias = Callable[[str, float], None]
"""Receives a step ("texts", "image" or "edges") and the share of it that is done, in [0, 1]."""

_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Pass every report that this thread makes within the block to `listener`."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def report(step: str, done: int, total: int) -> None:
    """Say how much of a step is done; free when nobody listens."""
    listener = _LISTENER.get()
    if listener is not None and total:
        listener(step, done / total)
