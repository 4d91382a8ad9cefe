"""What an evaluation has counted, kept on disk as it goes, so that a killed one can be continued.

Every process appends to a file of its own, `<key>-<rank>-<token>.jsonl`, one line per batch:
a checksum and JSON with the confusion matrix of every image. The key stands for all that
the counts depend on; a line names its batch by the files of its images. Nothing is ever
rewritten, so a kill can only tear the last line, which then does not count.
"""

from __future__ import annotations

import json
import logging
import secrets
import zlib
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmengine import dist

from itaclip.errors import ItaclipError
from itaclip.evaluation.counts import Sparse
from itaclip.evaluation.identity import digest

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A batch that was counted.

    Attributes:
        images: the names of its images.
        counts: the confusion matrix of each.
        seconds: that the batch took in the model.
    """

    images: list[str]
    counts: list[Sparse]
    seconds: float


class Journal:
    """The lines of this process, and those that earlier ones left under the same key.

    Several runs may share a folder, under one key or several. Machines may share it or
    have one each: then a machine brings what it counted itself.

    Args:
        folder: where the files lie; made when needed.
        parts: what the counts depend on, by name, as hashes; the same in all processes.
    """

    def __init__(self, folder: Path, parts: dict[str, str]) -> None:
        self._folder, self._parts, self._key = folder, parts, digest(parts)
        self._path = folder / f"{self._key}-{dist.get_rank()}-{secrets.token_hex(4)}.jsonl"
        self._opened = False

    def restore(self, batches: Collection[str]) -> tuple[dict[str, Entry], set[str]]:
        """What earlier processes counted.

        Args:
            batches: names of those that are wanted.

        Returns:
            Entries that this process is to add up, each in one process only; and the names
            of the batches that any process has.
        """
        listed = dist.all_gather_object([path.name for path in self._earlier()])
        names = sorted({name for found in listed for name in found})
        entries: dict[str, Entry] = {}
        for number, name in enumerate(names):  # each file is read once, by a process that sees it
            owners = [rank for rank, found in enumerate(listed) if name in found]
            if owners[number % len(owners)] == dist.get_rank():
                entries |= {batch: entry for batch, entry in self._read(self._folder / name) if batch in batches}
        known = dist.all_gather_object(set(entries))
        before = set().union(*known[: dist.get_rank()])
        return {batch: entry for batch, entry in entries.items() if batch not in before}, set().union(*known)

    def write(self, batch: str, entry: Entry) -> None:
        """Append a line; after a kill of the process, it is there whole or torn at the end.

        Raises:
            ItaclipError: it cannot be written (disk full, no right).
        """
        lines = b""
        if not self._opened:
            lines = _line({"parts": self._parts})
        lines += _line({"batch": batch, **asdict(entry)})
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
                if file.write(lines) != len(lines):
                    raise OSError("no space left")
        except OSError as error:
            raise ItaclipError(
                f"{self._path}: cannot be written ({error.strerror or error}). Mend that and run the same command "
                "again: it continues with what was counted."
            ) from error
        self._opened = True

    def remove(self) -> None:
        """Remove the files of this key, when the evaluation is done or is to start anew."""
        for path in self._earlier():
            with suppress(OSError):
                path.unlink()
        with suppress(OSError):  # files under other keys are left, and with them the folder
            self._folder.rmdir()

    def others(self) -> list[str]:
        """The parts in which an unfinished run under another key differs; empty without one."""
        for path in self._folder.glob("*.jsonl"):
            if not path.name.startswith(self._key):
                for content in _lines(path):
                    theirs = content.get("parts", {})
                    return [name for name, value in self._parts.items() if theirs.get(name) != value]
        return []

    def _earlier(self) -> list[Path]:
        return sorted(self._folder.glob(f"{self._key}-*.jsonl"))

    def _read(self, path: Path) -> Iterator[tuple[str, Entry]]:
        for content in _lines(path):
            if "batch" in content:
                yield content["batch"], Entry(content["images"], content["counts"], content["seconds"])


def _line(content: dict[str, Any]) -> bytes:
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file; torn and damaged ones are passed over, for they are counted again."""
    damaged = 0
    try:
        with path.open("rb") as file:
            for line in file:
                stated, _, text = line.rstrip(b"\n").partition(b" ")
                if stated == b"%08x" % zlib.crc32(text):
                    yield json.loads(text)
                else:
                    damaged += 1
    except OSError as error:
        _LOG.warning("%s: cannot be read (%s); its images are counted again.", path, error.strerror or error)
    if damaged:
        _LOG.warning("%s: torn or damaged lines: %d; their images are counted again.", path, damaged)
