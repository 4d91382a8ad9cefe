"""Folders that earlier runs of `itaclip segment` and `itaclip label` filled: never a source of images."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

SEGMENT_FOLDERS = frozenset(["masks", "overlays"])
LABEL_FOLDERS = frozenset(["labels", "masks", "plan"])


def filled_by(run: bytes) -> frozenset[str]:
    """Return the subfolders that a command of this project fills, next to its run.json.

    Args:
        run: content of the run.json.

    Returns:
        `SEGMENT_FOLDERS` or `LABEL_FOLDERS`; none if another program wrote the run.json.
    """
    try:
        content = json.loads(run)
    except ValueError:
        return frozenset()
    if isinstance(content, dict) and {"weights", "classes", "every"} <= content.keys():
        return SEGMENT_FOLDERS
    if isinstance(content, dict) and {"key", "plan"} <= content.keys():
        return LABEL_FOLDERS
    return frozenset()


class ResultFolders:
    """Recognises such folders by the run.json beside them, on disk or in any storage.

    Args:
        read: returns the content of the file at a path or address; None if it cannot be read.
        found: called once with every such folder.

    Attributes:
        skipped: the folders found so far, in order.
    """

    def __init__(self, read: Callable[[str], bytes | None], found: Callable[[str], None] = lambda _: None) -> None:
        self._read, self._found = read, found
        self._known: dict[str, frozenset[str]] = {}
        self.skipped: list[str] = []

    def __contains__(self, folder: str) -> bool:
        """Tell whether an earlier run filled a folder, given by its path with ``/`` or its address."""
        parent, _, name = folder.rpartition("/")
        if name not in SEGMENT_FOLDERS | LABEL_FOLDERS:
            return False
        if parent not in self._known:
            self._known[parent] = filled_by(self._read(f"{parent}/run.json") or b"")
        if name not in self._known[parent]:
            return False
        if folder not in self.skipped:
            self.skipped.append(folder)
            self._found(folder)
        return True

    def hold(self, path: str) -> bool:
        """Tell whether a path or address leads through such a folder."""
        return any(path[: match.start()] in self for match in re.finditer("/", path))

    def nothing_else(self, first: int = 0) -> str:
        """Explain why a source is empty; an empty text if nothing was skipped since the first `first` folders."""
        skipped = ", ".join(self.skipped[first:])
        return f"holds nothing but results of an earlier run ({skipped})" if skipped else ""
