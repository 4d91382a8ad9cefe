"""Files below a folder, found by a pattern in any storage."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from itaclip.apps.collection.locations import Location, MissingError, redacted
from itaclip.apps.result_folders import ResultFolders
from itaclip.errors import ItaclipError
from itaclip.files import is_hidden

_MAGIC = re.compile(r"[*?\[{]")


class FolderSource:
    """A source whose files lie below a folder; hidden files and results of earlier runs are none of them.

    Args:
        root: the folder.
        pattern: of the files, relative to the root; "" for all.
    """

    def __init__(self, root: Location, pattern: str) -> None:
        self._root, self._pattern = root, pattern
        self._results = ResultFolders(self._read_or_none)

    @property
    def skipped(self) -> list[str]:
        """Folders that `units` has left out, because an earlier run filled them."""
        return [redacted(folder) for folder in self._results.skipped]

    def _matching(self) -> Iterator[str]:
        """Yield names that the pattern matches, after expanding ``{000..123}``; a literal file name comes first.

        Hidden files match only where the pattern spells them.
        """
        in_results = self._lies_in_results()
        for plain in braces(self._pattern):
            if (self._root / plain).kind() == "file":
                found = [plain]
            elif not (found := self._root.matches(plain) if _MAGIC.search(plain) else []):
                raise MissingError(f"{self._root / plain}: no such file, and no file matches.")
            elif not is_hidden(plain):
                found = [name for name in found if not is_hidden(name)]
            yield from (name for name in found if not in_results and not self._results.hold(self._address_of(name)))

    def _some_matching(self) -> Iterator[str]:
        """Yield the same; raise an error if results of earlier runs are all there is."""
        name = None
        for name in self._matching():
            yield name
        if name is None:
            self._check_not_only_results()

    def _check_not_only_results(self) -> None:
        if reason := self._results.nothing_else():
            raise ItaclipError(f"{self._root}: {redacted(reason)}.")

    def _lies_in_results(self) -> bool:
        addresses = [self._root.address]
        if self._root.local:
            addresses.append(os.path.realpath(self._root.address))
        return any(self._results.hold(f"{address.rstrip('/')}/") for address in addresses)

    def _is_result(self, folder: str) -> bool:
        return self._address_of(folder) in self._results

    def _address_of(self, name: str) -> str:
        return f"{self._root.address.rstrip('/')}/{name}"

    def _read_or_none(self, address: str) -> bytes | None:
        try:
            return Location(address, self._root.storage).read()
        except ItaclipError:
            return None


def split_at_pattern(address: str, file_suffixes: tuple[str, ...]) -> tuple[str, str]:
    """Split an address into its fixed folder and the rest: a pattern, or the name of a file with a suffix of these."""
    head, separator, tail = address.rpartition("/")
    magic = _MAGIC.search(address)
    if Location(address).local and os.path.lexists(address):  # an existing file wins over a pattern
        return (address, "") if os.path.isdir(address) else (head or separator, tail)  # noqa: PTH112
    if magic is not None:
        cut = address.rfind("/", 0, magic.start())
        return address[:cut] or "/", address[cut + 1 :]
    if tail.lower().endswith(file_suffixes):
        return (head or separator), tail
    return address, ""


def braces(pattern: str) -> Iterator[str]:
    """Expand braces: ``a{08..11}`` to a08, a09, a10, a11; ``{x,y}`` to x and y."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        yield pattern
        return
    span = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    words: Iterable[str] = match[1].split(",")
    if span:
        words = (str(n).zfill(len(span[1])) for n in range(int(span[1]), int(span[2]) + 1))
    for word in words:
        yield from braces(pattern[: match.start()] + word + pattern[match.end() :])
