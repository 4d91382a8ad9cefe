"""Iterate over folders of 10^5 files without storing their names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from itaclip.errors import ItaclipError


def iterate_files(folder: Path, suffix: str = "", recursive: bool = False) -> Iterator[Path]:
    """Yield the files of a folder whose names end in `suffix`, in no particular order.

    Skips hidden files, because a killed run may leave partial files under hidden names.

    Raises:
        ItaclipError: the folder is missing or cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    if recursive:
                        yield from iterate_files(Path(entry.path), suffix, recursive=True)
                elif entry.name.endswith(suffix):
                    yield Path(entry.path)
    except OSError as error:
        raise ItaclipError(f"{folder}: cannot be listed ({error.strerror or error}).") from error


def require_folder(folder: Path, what: str) -> Path:
    """Return the folder if it exists.

    Raises:
        ItaclipError: it is missing; `what` tells the user what to do.
    """
    if not folder.is_dir():
        raise ItaclipError(f"{folder}: no such folder; {what}")
    return folder
