"""Files anywhere, by fsspec: read, listed, written whole or not at all; and addresses without their secrets."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

import fsspec

from itaclip.errors import ItaclipError
from itaclip.files import atomic_path

Storage = Mapping[str, Mapping[str, Any]]
"""Options of fsspec by protocol, such as ``{"s3": {"endpoint_url": "http://minio:9000"}}``."""

ATTEMPTS = 3
"""At reading a file from a network before its image counts as failed."""

T = TypeVar("T")

_ADDRESS = re.compile(r"(\b[a-z][a-z0-9+.-]*://)(?:[^\s/'\"]*@)?([^\s?#'\"<>]*)(?:[?#][^\s'\"<>]*)?", re.IGNORECASE)
_PARTIAL = ".partial"


class MissingError(ItaclipError):
    """There is no such file or folder."""


def scrubbed(text: str) -> str:
    """A text whose addresses have lost user, password, query and fragment."""
    return _ADDRESS.sub(r"\1\2", text)


def checked_address(text: str | os.PathLike[str], what: str) -> str:
    """A source or destination as it may be written down: local paths become absolute.

    Raises:
        ItaclipError: it holds a user, a password or a query. Command lines and results are no
            place for secrets.
    """
    address = os.fspath(text)
    if not address:
        raise ItaclipError(f"{what} is empty: name a folder, a file or a pattern.")
    if "://" not in address:
        return os.path.abspath(address)  # noqa: PTH100 - patterns and links stay as they are
    if scrubbed(address) != address:
        raise ItaclipError(
            f"{what} {scrubbed(address)}: has a user, a password or a query in its address. Give credentials by the "
            "environment (AWS_ACCESS_KEY_ID, ...), fsspec's configuration, or `storage` in Python."
        )
    return address.removeprefix("file://").rstrip("/")


class Place:
    """A file or folder, local or at any address that fsspec knows.

    Args:
        address: a path, or an address such as ``s3://bucket/photos``.
        storage: options of fsspec by protocol.
    """

    def __init__(self, address: str, storage: Storage | None = None) -> None:
        self.address, self.storage = address, storage or {}
        self.local = "://" not in address

    def __truediv__(self, name: str) -> Place:
        return Place(f"{self.address.rstrip('/')}/{name}", self.storage)

    def __str__(self) -> str:
        return scrubbed(self.address)

    def read(self) -> bytes:
        """All of a file; a network gets `ATTEMPTS`.

        Raises:
            ItaclipError: it cannot be read; without secrets.
        """
        content: bytes = self._attempt(lambda system, path: system.cat_file(path))
        return content

    def slice(self, start: int, stop: int) -> bytes:
        """Bytes of a file from `start` to `stop`.

        Raises:
            ItaclipError: as `read`.
        """
        content: bytes = self._attempt(lambda system, path: system.cat_file(path, start=start, end=stop))
        return content

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """A file to read from the front.

        Raises:
            ItaclipError: as `read`.
        """
        file = self._attempt(lambda system, path: system.open(path, "rb"))
        with file:
            yield file

    def kind(self) -> str | None:
        """What lies here: "file", "directory", or None.

        Raises:
            ItaclipError: the storage does not answer, or refuses.
        """

        try:
            return self._attempt(lambda system, path: str(system.info(path)["type"]))
        except MissingError:
            return None

    def names(self) -> list[str]:
        """Names of the files right here; none where there is no such folder.

        Raises:
            ItaclipError: the storage does not answer, or refuses.
        """

        def ask(system: Any, path: str) -> list[str]:
            found = system.ls(path, detail=True)
            return sorted(entry["name"].rsplit("/", 1)[-1] for entry in found if entry["type"] == "file")

        try:
            return self._attempt(ask)
        except MissingError:
            return []

    def walk(self) -> Iterator[tuple[str, list[str]]]:
        """Folders below, "" first, each with the names of its files; both in the order of names.

        One folder's names are held at a time.

        Raises:
            ItaclipError: the storage does not answer, or refuses.
        """
        if self.local:
            for folder, inner, files in os.walk(self.address, followlinks=False):
                inner.sort()
                below = os.path.relpath(folder, self.address)
                yield ("" if below == "." else below), sorted(files)
            return
        system, root = self._attempt(lambda system, path: (system, path.rstrip("/")))
        try:
            for folder, inner, files in system.walk(root):
                inner.sort()
                yield folder[len(root) :].strip("/"), sorted(files)
                system.invalidate_cache()  # or all listings stay in memory
        except OSError as error:
            raise self._told(error) from None

    def matches(self, pattern: str) -> list[str]:
        """Names below this folder that fit a pattern (``*``, ``?``, ``[abc]``, ``**``), sorted.

        Raises:
            ItaclipError: the storage does not answer, or refuses.
        """

        def ask(system: Any, path: str) -> list[str]:
            found = system.glob(f"{path.rstrip('/')}/{pattern}", detail=True)
            root = len(path.rstrip("/")) + 1
            return sorted(name[root:] for name, entry in found.items() if entry["type"] == "file")

        return self._attempt(ask)

    def write(self, content: bytes, root: Place) -> None:
        """Write a file whole or not at all; `root` is the folder that holds what is half done.

        Raises:
            ItaclipError: it cannot be written (disk full, no right); without secrets.
        """
        if self.local:
            with atomic_path(self.address, within=Path(root.address) / _PARTIAL) as partial, partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            return
        # An object appears when all of it has arrived.
        self._attempt(lambda system, path: system.pipe_file(path, content), "written")

    def clear(self, name: str) -> None:
        """Remove what lies below this folder under a name, if anything does.

        Raises:
            ItaclipError: it cannot be removed.
        """
        target = self / name
        if target.kind() is not None:
            target._attempt(lambda system, path: system.rm(path, recursive=True), "removed")

    def clear_partial(self) -> None:
        """Remove what killed writers left half done."""
        if self.local:
            shutil.rmtree(Path(self.address) / _PARTIAL, ignore_errors=True)

    def _attempt(self, action: Callable[[Any, str], T], verb: str = "read") -> T:
        protocol = "file" if self.local else urlsplit(self.address).scheme
        for attempt in range(1, ATTEMPTS + 1):
            try:
                # Not fsspec's url_to_fs, which takes "::" in a name for a chain of addresses.
                kind = fsspec.get_filesystem_class(protocol)
                options = kind._get_kwargs_from_urls(self.address) | dict(self.storage.get(protocol, {}))
                system, path = fsspec.filesystem(protocol, **options), kind._strip_protocol(self.address)
                system.invalidate_cache()  # what another process wrote is there
                return action(system, path)
            except Exception as error:  # storages raise whatever they like
                lasting = isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError))
                if self.local or lasting or attempt == ATTEMPTS or not isinstance(error, (OSError, TimeoutError)):
                    raise self._told(error, verb) from None  # the cause may hold secrets
                time.sleep(0.2 * 4**attempt)
        raise AssertionError("unreachable")

    def _told(self, error: Exception, verb: str = "read") -> ItaclipError:
        if isinstance(error, ItaclipError):
            return error
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return MissingError(f"{self}: no such file or folder.")
        if isinstance(error, ImportError):
            return ItaclipError(f"{self}: {scrubbed(str(error))}.")
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        return ItaclipError(f"{self}: cannot be {verb} ({scrubbed(str(reason))}).")
