"""The error that bad input raises."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ItaclipError(ValueError):
    """Bad input. The message names the file, line or value, and says what to do.

    Command-line programs print only the message and exit with status 2.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint such as `` Did you mean 'itaclip'?``, or an empty string when no name is close."""
    close = get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
