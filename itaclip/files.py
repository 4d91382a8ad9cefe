"""Writing files whole or not at all, and the endings of images."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from itaclip.errors import ItaclipError

IMAGE_SUFFIXES = frozenset([".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".pgm", ".ppm", ".tif", ".tiff", ".webp"])
"""Endings by which images in a folder are told from other files."""


@contextmanager
def atomic_path(path: str | Path, within: Path | None = None) -> Iterator[Path]:
    """A temporary file that takes its final name only when the block ends well.

    It lies in the folder of `path` (made when missing), or in `within` on the same disk, so
    that the last step is one rename; two writers of the same path never mix, the later one wins.

    Raises:
        ItaclipError: the folder or the file cannot be written (disk full, no right).
    """
    path = Path(path)
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
    """A temporary folder that takes its final name only when the block ends well.

    When another process was first, which `marker`, a file in the folder, tells, its
    folder stays and this one goes.

    Raises:
        OSError: it cannot be written, or something else has the name.
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
    """Write a UTF-8 text file with line ends ``\\n``, whole or not at all."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, content: Any) -> None:
    """Write indented JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
