"""The error that bad input raises, and sentences that several messages share."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ItaclipError(ValueError):
    """Bad input. The message names the file, line or value, and says what to do.

    Command-line programs print only the message and exit with status 2.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest a name, as in `` Did you mean 'itaclip'?``; an empty string when no name is close."""
    close = get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def install_extra(name: str) -> str:
    """Tell how to install an extra of this package, as the end of a sentence."""
    return f"install the extra {name!r} (in a checkout: pip install '.[{name}]')"
