"""Batches of images: read the next batch while segmenting the current one; a bad image affects no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from itaclip.errors import ItaclipError
from itaclip.segmenter import Segmenter
from itaclip.vocabulary import Vocabulary

T = TypeVar("T")


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
