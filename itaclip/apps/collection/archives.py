"""Tar archives as sources."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator

from itaclip.apps.collection.folder_source import FolderSource
from itaclip.apps.collection.locations import Location, redacted
from itaclip.apps.collection.units import Entry, Unit, already_seen
from itaclip.errors import ItaclipError
from itaclip.files import IMAGE_SUFFIXES, is_hidden


class Archives(FolderSource):
    """WebDataset shards: tar archives with images among other files; the key is ``TAR/MEMBER``.

    If several members share a name, the first one counts. Hidden members do not count, such as those
    that macOS adds.
    """

    def __init__(self, root: Location, pattern: str, ending: str | None) -> None:
        super().__init__(root, pattern)
        self._endings = ("." + ending.lower().lstrip("."),) if ending else tuple(IMAGE_SUFFIXES)

    def units(self, size: int) -> Iterator[Unit]:
        """See `Source`."""
        for path in self._some_matching():
            yield Unit(path)

    def entries(self, unit: Unit) -> Iterator[Entry]:
        """See `Source`."""
        seen: set[bytes] = set()
        count = 0
        try:
            with (self._root / unit.path).opened() as file, tarfile.open(fileobj=file, mode="r|*") as archive:
                for member in archive:
                    name = member.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                    wanted = member.isfile() and name.lower().endswith(self._endings) and not is_hidden(name)
                    if not wanted or already_seen(seen, name):
                        continue
                    opened = archive.extractfile(member)
                    assert opened is not None  # a file
                    content = opened.read()
                    count += 1
                    yield Entry(f"{unit.path}/{name}", content)
        except (ItaclipError, tarfile.TarError, EOFError, zlib.error, OSError) as error:
            reason = redacted(str(error) or type(error).__name__)
            yield Entry(unit.path, None, f"{unit.path}: cannot be read beyond {count} images ({reason}).")
