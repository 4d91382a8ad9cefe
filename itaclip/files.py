"""Atomic file writes, inputs that no output may replace, and which files of a folder are images to read."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from itaclip.errors import ItaclipError

IMAGE_SUFFIXES = frozenset([".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".pgm", ".ppm", ".tif", ".tiff", ".webp"])
"""Extensions that mark a file in a folder as an image."""

_SYSTEM_FOLDERS = frozenset(["__MACOSX", "@eaDir"])
_ATTEMPTS = 3  # another process may remove an empty folder before the first file is in it

# --- what to read ------------------------------------------------------------


def is_hidden(name: str) -> bool:
    """Tell whether a relative path leads through a hidden name: no search for images takes such files.

    Hidden are names that begin with a dot, as for shells (``._photo.jpg`` of macOS,
    ``.ipynb_checkpoints``), and the folders ``__MACOSX`` and ``@eaDir``, which hold no images of
    the user's.
    """
    parts = name.replace(os.sep, "/").split("/")
    return any((part.startswith(".") and part not in (".", "..")) or part in _SYSTEM_FOLDERS for part in parts)


# --- what to write -----------------------------------------------------------


def refuse_inputs(
    outputs: Iterable[str | os.PathLike[str]], inputs: Iterable[str | os.PathLike[str]], remedy: str
) -> None:
    """Refuse outputs that would replace an input, whatever the spelling of its path or the links to it.

    Args:
        outputs: files about to be written.
        inputs: files that the outputs are made from.
        remedy: what the user can do, for the message.

    Raises:
        ItaclipError: an output is an input.
    """
    known = {found: path for path in inputs if (found := _identity(path)) is not None}
    for path in outputs if known else ():
        found = _identity(path)
        if found is not None and found in known:
            raise ItaclipError(f"{path}: the output would replace the input {known[found]}; {remedy}.")


def refuse_arguments(option: str, arguments: Mapping[str, Any]) -> None:
    """Refuse the file of an option of a program that is also the file of another option.

    Args:
        option: name of the output among the arguments, such as "out"; without a value, nothing is refused.
        arguments: all arguments of the program by name: ``vars(args)``.

    Raises:
        ItaclipError: the output is an input.
    """
    if arguments[option] is None:
        return
    others = [value for name, value in arguments.items() if name != option]
    values = [value for other in others for value in (other if isinstance(other, (list, tuple)) else [other])]
    files = [value for value in values if isinstance(value, (str, os.PathLike))]
    refuse_inputs([arguments[option]], files, f"choose another --{option.replace('_', '-')}")


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | str | None:
    """Return what the file system knows a file by, the same for all its links and spellings; None if there is none."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


_ADDRESS = re.compile(r"(data:|[a-z][a-z0-9+.-]+:/)", re.IGNORECASE)  # a Windows drive has a single letter


def local_path(place: str | os.PathLike[str], remedy: str = "Download the file first.") -> Path:
    """Return the path of a file or folder on this machine.

    `Path` shortens ``https://host`` to ``https:/host``, so addresses are refused before, and
    recognised after that too.

    Args:
        place: a path.
        remedy: for the message: what to do with an address.

    Raises:
        ItaclipError: a URL or a ``data:`` URI.
    """
    text = os.fspath(place)
    if _ADDRESS.match(text) and ("://" in text or not os.path.lexists(text.split("/")[0])):
        if text.lower().startswith("file:"):
            remedy = f"Write the path alone: /{text[5:].lstrip('/')}"
        shown = text if "://" in text else text.replace(":/", "://", 1)
        if text.lower().startswith("data:"):
            shown, remedy = f"{text[:40]}...", "Decode it first, or pass it to itaclip.pipeline()."
        raise ItaclipError(f"{shown}: an address, but a file or folder on this machine is needed. {remedy}")
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
        partial = _new_file(path, within or path.parent)
    except OSError as error:
        raise ItaclipError(f"{path}: cannot be written ({error.strerror or error}).") from error
    try:
        yield partial
        partial.chmod(0o644)
        os.replace(partial, path)
    except OSError as error:
        raise ItaclipError(f"{path}: cannot be written ({error.strerror or error}).") from error
    finally:
        partial.unlink(missing_ok=True)


def _new_file(path: Path, folder: Path) -> Path:
    """Create an empty file in a folder, named like `path`."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            for needed in {path.parent, folder}:
                needed.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{path.name[:80]}.", suffix=path.suffix, dir=folder)
        except FileNotFoundError:
            if attempt == _ATTEMPTS:
                raise
        else:
            os.close(handle)
            return Path(name)
    raise AssertionError("unreachable")


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


def sha256_of(path: str | Path) -> str:
    """Hash a file's content with sha256, in hexadecimal; read in blocks.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Return ``$ITACLIP_CACHE_DIR`` or ``~/.cache/itaclip``, where what can be made again is kept."""
    return Path(os.environ.get("ITACLIP_CACHE_DIR") or "~/.cache/itaclip").expanduser()
