"""Atomic file writes, and the file extensions of images."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from itaclip.errors import ItaclipError

IMAGE_SUFFIXES = frozenset([".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".pgm", ".ppm", ".tif", ".tiff", ".webp"])
"""Extensions that mark a file in a folder as an image."""


_ADDRESS = re.compile(r"(data:|[a-z][a-z0-9+.-]+:/)", re.IGNORECASE)  # a Windows drive has a single letter


def local_path(place: str | os.PathLike[str], way_out: str = "Download the file first.") -> Path:
    """The path of a file or folder on this machine.

    `Path` shortens ``https://host`` to ``https:/host``, so addresses are refused before, and
    recognised after that too.

    Args:
        place: a path.
        way_out: for the message: what to do with an address.

    Raises:
        ItaclipError: a URL or a ``data:`` URI.
    """
    text = os.fspath(place)
    if _ADDRESS.match(text) and ("://" in text or not os.path.lexists(text.split("/")[0])):
        if text.lower().startswith("file:"):
            way_out = f"Write the path alone: /{text[5:].lstrip('/')}"
        shown = text if "://" in text else text.replace(":/", "://", 1)
        if text.lower().startswith("data:"):
            shown, way_out = f"{text[:40]}...", "Decode it first, or pass it to itaclip.pipeline()."
        raise ItaclipError(f"{shown}: an address, but a file or folder on this machine is needed. {way_out}")
    return Path(place)


@contextmanager
def atomic_path(path: str | Path, within: Path | None = None) -> Iterator[Path]:
    """Yield a temporary file; rename it to `path` only if the block succeeds.

    The temporary file lies in the folder of `path` (created if missing), or in `within` on the
    same disk, so the last step is a single rename. If two processes write the same path, the
    later one wins; their contents never mix.

    Raises:
        ItaclipError: the folder or the file cannot be written (disk full, no permission).
    """
    path = local_path(path, "Write to a folder first, then upload it.")
    try:
        folder = within or path.parent
        for needed in {path.parent, folder}:
            needed.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:80]}.", suffix=path.suffix, dir=folder)
        os.close(handle)
    except OSError as error:
        raise ItaclipError(f"{path}: cannot be written ({error.strerror or error}).") from error
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o644)
        os.replace(partial, path)
    except OSError as error:
        raise ItaclipError(f"{path}: cannot be written ({error.strerror or error}).") from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, marker: str) -> Iterator[Path]:
    """Yield a temporary folder; rename it to `path` only if the block succeeds.

    If another process finished first, so that `path` already contains the file `marker`,
    that folder stays and this one is deleted.

    Raises:
        OSError: the folder cannot be written, or something else has its name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield partial
        partial.chmod(0o755)
        with suppress(OSError):
            path.rmdir()  # Windows replaces no folder, not even an empty one
        os.replace(partial, path)
    except OSError:
        if not (path / marker).is_file():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file with ``\\n`` line endings, atomically."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, content: Any) -> None:
    """Write indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def cache_folder() -> Path:
    """``$ITACLIP_CACHE_DIR`` or ``~/.cache/itaclip``, where what can be made again is kept."""
    return Path(os.environ.get("ITACLIP_CACHE_DIR") or "~/.cache/itaclip").expanduser()
