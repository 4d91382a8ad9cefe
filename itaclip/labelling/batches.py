"""Batches of images: the next one is read while this one is segmented; a bad image costs only itself."""

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
    """Batches of items and what `read` gives for each, one batch ahead.

    Args:
        read: gives the H x W x 3 array of an item.
        items: what to read.
        batch: items per step.
        threads: how many items are read at a time.

    Yields:
        The items of a batch, and for each its array, or in words why there is none.
    """
    parts = [items[i : i + batch] for i in range(0, len(items), batch)]
    with ThreadPoolExecutor(threads) as pool:
        waiting = [pool.submit(_attempt, read, item) for item in parts[0]] if parts else []
        for n, part in enumerate(parts):
            ready = [future.result() for future in waiting]
            waiting = [pool.submit(_attempt, read, item) for item in parts[n + 1]] if n + 1 < len(parts) else []
            yield part, ready


def segment_batch(segmenter: Segmenter, vocabulary: Vocabulary, read: Sequence[Any]) -> list[Any]:
    """A result, or in words why there is none, per image; images of a batch that fails are tried alone.

    Args:
        segmenter: how.
        vocabulary: the classes.
        read: arrays, or words, as `read_ahead` gives them.
    """
    good = [n for n, image in enumerate(read) if not isinstance(image, str)]
    found = _attempt(segmenter, [read[n] for n in good], vocabulary) if good else []
    if isinstance(found, str):
        found = [_attempt(segmenter, read[n], vocabulary) for n in good]
    outcome = list(read)
    for n, result in zip(good, found, strict=True):
        outcome[n] = result
    return outcome


def _attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function gives, or in words why it gives nothing."""
    try:
        return function(*arguments)
    except ItaclipError as error:
        return str(error)
    except (RuntimeError, MemoryError) as error:  # as a rule too little memory
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'out of memory'}"
