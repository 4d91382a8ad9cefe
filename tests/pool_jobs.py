"""Jobs that tests send to other processes: a module that imports little, since each process imports it afresh."""

from __future__ import annotations

import os

from itaclip.errors import ItaclipError


def double(number: int) -> int:
    """Twice the number; 13 fails."""
    if number == 13:
        raise ItaclipError("thirteen")
    return 2 * number


def die(_: int) -> None:
    """End the process as the kernel does when memory runs out."""
    os._exit(1)
