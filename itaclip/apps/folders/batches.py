"""Batches of images: while one is segmented, the next is read and the last written; a bad image affects no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from itaclip.errors import ItaclipError
from itaclip.segmenter import Segmenter
from itaclip.vocabulary import Vocabulary

T = TypeVar("T")
R = TypeVar("R")


def read_ahead(
    read: Callable[[T], Any], items: Sequence[T], batch: int, threads: int = 1
) -> Iterator[tuple[Sequence[T], list[Any]]]:
    """Read items in batches, one batch ahead of the caller.

    Args:
        read: returns the H x W x 3 array of an item.
        items: the items to read.
        batch: items per batch.
        threads: number of items read concurrently.

    Yields:
        The items of a batch, and for each its array, or the error message if it cannot be read.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting = [pool.submit(_attempt, read, item) for item in items[:batch]]
        for first in range(0, len(items), batch):
            ready = [future.result() for future in waiting]
            waiting = [pool.submit(_attempt, read, item) for item in items[first + batch : first + 2 * batch]]
            yield items[first : first + batch], ready


def write_behind(
    write: Callable[[T, Any], R], batches: Iterable[tuple[Sequence[T], Sequence[Any]]]
) -> Iterator[tuple[Sequence[T], list[R]]]:
    """Write results in a thread while the next batch is made.

    Args:
        write: writes the result of an item.
        batches: items and their results.

    Yields:
        The items of a batch, and what `write` returned for each, one batch behind; whatever it raises is raised.
    """
    with ThreadPoolExecutor(1) as pool:
        behind: list[tuple[Sequence[T], list[Future[R]]]] = []
        try:
            for items, results in batches:
                behind.append((items, [pool.submit(write, *pair) for pair in zip(items, results, strict=True)]))
                if len(behind) > 1:
                    yield _finished(*behind.pop(0))
            for items, futures in behind:
                yield _finished(items, futures)
        finally:
            pool.shutdown(cancel_futures=True)  # after a full disk, nothing more is written


def _finished(items: Sequence[T], futures: Sequence[Future[R]]) -> tuple[Sequence[T], list[R]]:
    return items, [future.result() for future in futures]


def segment_batch(segmenter: Segmenter, vocabulary: Vocabulary, read: Sequence[Any]) -> list[Any]:
    """Segment a batch; if it fails as a whole, segment its images one by one.

    Args:
        segmenter: the segmenter to run.
        vocabulary: the classes.
        read: arrays or error messages, as `read_ahead` yields them.

    Returns:
        A result or an error message per image.
    """
    good = [n for n, image in enumerate(read) if not isinstance(image, str)]
    found = _attempt(segmenter, [read[n] for n in good], vocabulary) if good else []
    if isinstance(found, str):
        found = [_attempt(segmenter, read[n], vocabulary) for n in good]
    outcome = list(read)
    for n, result in zip(good, found, strict=True):
        outcome[n] = result
    return outcome


def reason_of(error: Exception) -> str:
    """Return the first line of an error, with its type if the message was not written for users."""
    if isinstance(error, ItaclipError):
        return str(error)
    lines = str(error).strip().splitlines() or ["out of memory" if isinstance(error, MemoryError) else "no message"]
    return f"{type(error).__name__}: {lines[0]}"


def _attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function; return its value, or the message of its error."""
    try:
        return function(*arguments)
    except Exception as error:  # whatever an image raises, the run goes on
        return reason_of(error)
