"""Files in any fsspec storage: read, list, write atomically; and addresses without their secrets."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

import fsspec

from itaclip.errors import ItaclipError
from itaclip.files import atomic_path

Storage = Mapping[str, Mapping[str, Any]]
"""fsspec options by protocol, such as ``{"s3": {"endpoint_url": "http://minio:9000"}}``."""

ATTEMPTS = 3
"""Attempts to read a file from a network before its image counts as failed."""

T = TypeVar("T")

_ADDRESS = re.compile(r"(\b[a-z][a-z0-9+.-]*://)(?:[^\s/'\"]*@)?([^\s?#'\"<>]*)(?:[?#][^\s'\"<>]*)?", re.IGNORECASE)
_PARTIAL = ".partial"
_ABANDONED = 3600.0  # seconds after which a partial file has no writer any more


class MissingError(ItaclipError):
    """There is no such file or folder."""


def redacted(text: str) -> str:
    """Remove user, password, query and fragment from the addresses in a text."""
    return _ADDRESS.sub(r"\1\2", text)


def checked_address(text: str | os.PathLike[str], what: str) -> str:
    """Validate a source or destination and make local paths absolute.

    Raises:
        ItaclipError: the address contains a user, a password or a query; command lines and
            results must not contain secrets.
    """
    address = os.fspath(text)
    if not address:
        raise ItaclipError(f"{what} is empty: name a folder, a file or a pattern.")
    if "://" not in address:
        return os.path.abspath(address)  # noqa: PTH100 - patterns and links stay as they are
    if redacted(address) != address:
        raise ItaclipError(
            f"{what} {redacted(address)}: the address contains a user, a password or a query. Pass credentials in the "
            "environment (AWS_ACCESS_KEY_ID, ...), in fsspec's configuration, or as `storage` in Python."
        )
    return address.removeprefix("file://").rstrip("/")


class Location:
    """A file or folder, local or in any storage that fsspec supports.

    Args:
        address: a path, or an address such as ``s3://bucket/photos``.
        storage: fsspec options by protocol.
    """

    def __init__(self, address: str, storage: Storage | None = None) -> None:
        self.address, self.storage = address, storage or {}
        self.local = "://" not in address

    def __truediv__(self, name: str) -> Location:
        return Location(f"{self.address.rstrip('/')}/{name}", self.storage)

    def __str__(self) -> str:
        return redacted(self.address)

    def read(self) -> bytes:
        """Read the content of a file; retry network reads up to `ATTEMPTS` times.

        Raises:
            ItaclipError: the file cannot be read; the message contains no secrets.
        """
        content: bytes = self._attempt(lambda system, path: system.cat_file(path))
        return content

    def slice(self, start: int, stop: int) -> bytes:
        """Read the bytes of a file from `start` to `stop`.

        Raises:
            ItaclipError: see `read`.
        """
        content: bytes = self._attempt(lambda system, path: system.cat_file(path, start=start, end=stop))
        return content

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Open a file for sequential reading.

        Raises:
            ItaclipError: see `read`.
        """
        file = self._attempt(lambda system, path: system.open(path, "rb"))
        with file:
            yield file

    def kind(self) -> str | None:
        """Return the kind of the entry at this address: "file", "directory", or None if it does not exist.

        Raises:
            ItaclipError: the storage does not respond or denies access.
        """
        try:
            return self._attempt(lambda system, path: str(system.info(path)["type"]))
        except MissingError:
            return None

    def names(self) -> list[str]:
        """List the names of the files directly in this folder, sorted; none if the folder does not exist.

        Raises:
            ItaclipError: the storage does not respond or denies access.
        """

        def ask(system: Any, path: str) -> list[str]:
            found = system.ls(path, detail=True)
            return sorted(entry["name"].rsplit("/", 1)[-1] for entry in found if entry["type"] == "file")

        try:
            return self._attempt(ask)
        except MissingError:
            return []

    def walk(self, enter: Callable[[str], bool] = lambda _: True) -> Iterator[tuple[str, list[str]]]:
        """Yield the subfolders, "" first, each with the names of its files; both sorted.

        Keeps the names of one folder in memory at a time.

        Args:
            enter: whether to look into a subfolder, given relative to this one.

        Raises:
            ItaclipError: the storage does not respond or denies access.
        """
        if self.local:
            for folder, inner, files in os.walk(self.address, followlinks=False):
                relative = os.path.relpath(folder, self.address)
                below = "" if relative == "." else relative
                inner[:] = [name for name in sorted(inner) if enter(f"{below}/{name}" if below else name)]
                yield below, sorted(files)
            return
        system, root = self._attempt(lambda system, path: (system, path.rstrip("/")))
        try:
            left_out = None
            for folder, inner, files in system.walk(root):
                inner.sort()
                below = folder[len(root) :].strip("/")
                if left_out is not None and f"{below}/".startswith(left_out):
                    continue
                if below and not enter(below):
                    left_out = f"{below}/"  # its subfolders come next
                    continue
                yield below, sorted(files)
                system.invalidate_cache()  # otherwise all listings stay in memory
        except OSError as error:
            raise self._as_error(error) from None

    def matches(self, pattern: str) -> list[str]:
        """List the names below this folder that match a pattern (``*``, ``?``, ``[abc]``, ``**``), sorted.

        Raises:
            ItaclipError: the storage does not respond or denies access.
        """

        def ask(system: Any, path: str) -> list[str]:
            found = system.glob(f"{path.rstrip('/')}/{pattern}", detail=True)
            root = len(path.rstrip("/")) + 1
            return sorted(name[root:] for name, entry in found.items() if entry["type"] == "file")

        return self._attempt(ask)

    def write(self, content: bytes, root: Location) -> None:
        """Write a file atomically; `root` is the folder for partial files.

        Raises:
            ItaclipError: the file cannot be written (disk full, no permission); the message contains no secrets.
        """
        if self.local:
            with atomic_path(self.address, within=Path(root.address) / _PARTIAL) as partial, partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            return
        # Object stores show an object only when its upload is complete.
        self._attempt(lambda system, path: system.pipe_file(path, content), "written")

    def clear(self, name: str) -> None:
        """Remove the file or folder `name` in this folder, if it exists.

        Raises:
            ItaclipError: it cannot be removed.
        """
        target = self / name
        if target.kind() is not None:
            target._attempt(lambda system, path: system.rm(path, recursive=True), "removed")

    def upload(self, path: Path) -> None:
        """Copy a local file to this address; it appears when it is complete.

        Raises:
            ItaclipError: the file cannot be written; the message contains no secrets.
        """
        self._attempt(lambda system, target: system.put_file(str(path), target), "written")

    def clear_partial(self) -> None:
        """Remove the partial files of killed writers: those that nobody has touched for an hour."""
        folder = Path(self.address) / _PARTIAL
        if not self.local or not folder.is_dir():
            return
        for path in folder.iterdir():
            with suppress(OSError):  # another process was faster
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink()
        with suppress(OSError):  # not empty: another run is writing
            folder.rmdir()

    def _attempt(self, action: Callable[[Any, str], T], verb: str = "read") -> T:
        protocol = "file" if self.local else urlsplit(self.address).scheme
        for attempt in range(1, ATTEMPTS + 1):
            try:
                # Not fsspec's url_to_fs, which reads "::" in a name as a chain of addresses.
                kind = fsspec.get_filesystem_class(protocol)
                options = kind._get_kwargs_from_urls(self.address) | dict(self.storage.get(protocol, {}))
                system, path = fsspec.filesystem(protocol, **options), kind._strip_protocol(self.address)
                system.invalidate_cache()  # see what other processes wrote
                return action(system, path)
            except Exception as error:  # storages raise all kinds of exceptions
                lasting = isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError))
                if self.local or lasting or attempt == ATTEMPTS or not isinstance(error, (OSError, TimeoutError)):
                    raise self._as_error(error, verb) from None  # the cause may contain secrets
                time.sleep(0.2 * 4**attempt)
        raise AssertionError("unreachable")

    def _as_error(self, error: Exception, verb: str = "read") -> ItaclipError:
        if isinstance(error, ItaclipError):
            return error
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return MissingError(f"{self}: no such file or folder.")
        if isinstance(error, ImportError):
            return ItaclipError(f"{self}: {redacted(str(error))}.")
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        return ItaclipError(f"{self}: cannot be {verb} ({redacted(str(reason))}).")
