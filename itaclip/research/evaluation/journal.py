"""Results of an evaluation, written to disk as they come in, so that a killed run can be resumed.

Every process appends to its own file, `<key>-<rank>-<token>.jsonl`, one line per batch: a
checksum and JSON with the confusion matrix of every image. The key is a hash of everything the
counts depend on; a line identifies its batch by the files of its images. Lines are never
rewritten, so a kill can only damage the last line, which is then ignored.
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
from itaclip.research.evaluation.counts import Sparse
from itaclip.research.evaluation.identity import digest

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """An evaluated batch.

    Attributes:
        images: names of its images.
        counts: confusion matrix of each image.
        seconds: time spent in the model.
        ignored: number of ignored pixels of its masks.
    """

    images: list[str]
    counts: list[Sparse]
    seconds: float
    ignored: int = 0


class Journal:
    """The lines of this process, and those of earlier runs with the same key.

    Several runs may share a folder, with the same key or different ones. Machines may share
    the folder or have one each; then each machine contributes its own results.

    Args:
        folder: folder of the files; created when needed.
        parts: hashes of everything the counts depend on, by name; the same in all processes.
    """

    def __init__(self, folder: Path, parts: dict[str, str]) -> None:
        self._folder, self._parts, self._key = folder, parts, digest(parts)
        self._path = folder / f"{self._key}-{dist.get_rank()}-{secrets.token_hex(4)}.jsonl"
        self._opened = False

    def restore(self, batches: Collection[str]) -> tuple[dict[str, Entry], set[str]]:
        """Read the results of earlier runs.

        Args:
            batches: names of the batches to restore.

        Returns:
            The entries that this process must add, each assigned to exactly one process; and
            the names of all batches that any process has restored.
        """
        listed = dist.all_gather_object([path.name for path in self._earlier()])
        names = sorted({name for found in listed for name in found})
        entries: dict[str, Entry] = {}
        for number, name in enumerate(names):  # each file is read once, by a process that can see it
            owners = [rank for rank, found in enumerate(listed) if name in found]
            if owners[number % len(owners)] == dist.get_rank():
                entries |= {batch: entry for batch, entry in self._read(self._folder / name) if batch in batches}
        known = dist.all_gather_object(set(entries))
        before = set().union(*known[: dist.get_rank()])
        return {batch: entry for batch, entry in entries.items() if batch not in before}, set().union(*known)

    def write(self, batch: str, entry: Entry) -> None:
        """Append a line; if the process is killed meanwhile, the line may be incomplete.

        Raises:
            ItaclipError: it cannot be written (disk full, no permission).
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
                f"{self._path}: cannot be written ({error.strerror or error}). Fix this and run the same command "
                "again to resume."
            ) from error
        self._opened = True

    def remove(self) -> None:
        """Remove the files of this key, because the evaluation is complete or must start over."""
        for path in self._earlier():
            with suppress(OSError):
                path.unlink()
        with suppress(OSError):  # fails if files with other keys remain
            self._folder.rmdir()

    def others(self) -> list[str]:
        """List the parts in which an unfinished run with another key differs; empty if there is none."""
        for path in self._files():
            if not path.name.startswith(self._key):
                for content in _lines(path):
                    theirs = content.get("parts", {})
                    return [name for name, value in self._parts.items() if theirs.get(name) != value]
        return []

    def _earlier(self) -> list[Path]:
        return [path for path in self._files() if path.name.startswith(f"{self._key}-")]

    def _files(self) -> list[Path]:
        """List the files of all keys; none if there is no folder, or no longer: another process may remove it."""
        try:
            return sorted(path for path in self._folder.iterdir() if path.suffix == ".jsonl")
        except FileNotFoundError:
            return []

    def _read(self, path: Path) -> Iterator[tuple[str, Entry]]:
        for content in _lines(path):
            if "batch" in content:
                yield (
                    content["batch"],
                    Entry(content["images"], content["counts"], content["seconds"], content.get("ignored", 0)),
                )


def _line(content: dict[str, Any]) -> bytes:
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the intact lines of a file; skip damaged ones, whose images are evaluated again."""
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
        _LOG.warning("%s: cannot be read (%s); its images are evaluated again.", path, error.strerror or error)
    if damaged:
        _LOG.warning("%s: damaged lines: %d; their images are evaluated again.", path, damaged)
