"""The journal of a run on one machine: a line per image that is done."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

from itaclip.apps.folders.finding import Item, folded_stem, free_stem, is_video
from itaclip.apps.result_folders import SEGMENT_FOLDERS, filled_by
from itaclip.apps.run_key import refuse_other_run
from itaclip.errors import ItaclipError
from itaclip.files import write_json

RUN, LINES = "run.json", "results.jsonl"
"""Names of the files in the folder of a run."""


def read_lines(out: Path) -> dict[str, dict[str, Any]]:
    """Read the last valid line of every image, by name; skip incomplete lines."""
    return {name: json.loads(line) for name, line in _read_lines(out).items()}


def _read_lines(out: Path) -> dict[str, bytes]:
    """Do as `read_lines`, with each line as JSON without its name: bytes take a fifth of the memory."""
    path = out / LINES
    lines: dict[str, bytes] = {}
    for text in path.read_bytes().splitlines() if path.exists() else ():  # bytes: str has more line ends
        try:
            line = json.loads(text)
        except ValueError:
            continue
        _keep_line(lines, line.pop("image"), line)
    return lines


def _keep_line(lines: dict[str, bytes], name: str, line: dict[str, Any]) -> None:
    """Keep the line of an image, unless it is an error and there is a line without one."""
    if "error" not in line or name not in lines or "error" in json.loads(lines[name]):
        lines[name] = json.dumps(line).encode()


def _stem_of(name: str, line: Mapping[str, Any]) -> str | None:
    """Return the output name of an earlier line; None if it has none, or one that leads out of the folder."""
    path = PurePosixPath(str(line.get("mask", "")))
    if path.parts[:1] != ("masks",) or ".." in path.parts:
        return None
    stem = path.relative_to("masks")
    return str(stem if is_video(name) else stem.with_suffix(""))


class Journal:
    """The results.jsonl of a run: locks it, reads it and appends to it."""

    def __init__(self, out: Path, key: dict[str, Any], overwrite: bool) -> None:
        self._out, self._path, self._key, self._overwrite = out, out / LINES, key, overwrite
        self._lines: dict[str, bytes] = {}

    def __enter__(self) -> Journal:
        with self._reported():
            self._out.mkdir(parents=True, exist_ok=True)
            # a separate file, because Windows blocks reads of a locked one
            self._lock = FileLock(f"{self._path}.lock")
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise ItaclipError(f"{self._path}: in use by another process; wait, or choose another --out.") from None
            try:
                return self._opened()
            except BaseException:
                self._lock.release()
                raise

    def _opened(self) -> Journal:
        with self._reported():
            self._check_key()
            self._file = self._path.open("ab")
            whole = self._path.read_bytes().rfind(b"\n") + 1  # a killed process may leave an incomplete last line
            self._file.truncate(whole)
            self._lines = _read_lines(self._out)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._lock.release()

    def _check_key(self) -> None:
        path = self._out / RUN
        known = path.read_bytes() if path.is_file() else None
        if known is None:
            self._check_free()
        elif filled_by(known) != SEGMENT_FOLDERS:
            other = "`itaclip label`" if filled_by(known) else "another program"
            raise ItaclipError(f"{path}: written by {other}, not by `itaclip segment`; choose another --out.")
        found = json.loads(known) if known is not None else None
        if found not in (None, self._key):
            if not self._overwrite:
                refuse_other_run(self._out, found, self._key)
            os.truncate(self._path, 0)
        if found != self._key:
            write_json(path, self._key)

    def _check_free(self) -> None:
        """Check that nothing is where a new run writes, so that it replaces no files of other origin."""
        folders = (self._out / name for name in sorted(SEGMENT_FOLDERS))
        taken = [folder for folder in folders if folder.is_dir() and any(folder.iterdir())]
        taken += [self._path] if os.path.lexists(self._path) else []
        if taken:
            raise ItaclipError(f"{taken[0]}: exists, but not from `itaclip segment`; choose another --out.")

    def placed(self, items: Iterable[Item]) -> list[Item]:
        """Put the items under the output names of their earlier lines; the others get names that no line has."""
        known = {name: stem for name in self._lines if (stem := _stem_of(name, self._line(name)))}
        taken = {folded_stem(stem) for stem in known.values()}
        return [replace(item, stem=known.get(item.name) or free_stem(item.stem, item.path, taken)) for item in items]

    def done(self, name: str, kinds: Sequence[str]) -> bool:
        """Tell whether an image has a line without an error, and its files of these kinds exist."""
        line = self._line(name)
        return "error" not in line and all(kind in line and (self._out / line[kind]).exists() for kind in kinds)

    def bytes_of(self, name: str) -> int | None:
        """Return the size of a video that was cut off in an earlier run; None for others."""
        found: int | None = self._line(name).get("bytes")
        return found

    def lines(self, items: Iterable[Item]) -> Iterator[tuple[Item, dict[str, Any]]]:
        """Yield the items that have masks, with their lines."""
        for item in items:
            line = self._line(item.name)
            if "mask" in line and (self._out / line["mask"]).exists():
                yield item, line

    def _line(self, name: str) -> dict[str, Any]:
        line: dict[str, Any] = json.loads(self._lines.get(name, b"{}"))
        return line

    def add(self, name: str, line: dict[str, Any]) -> None:
        """Append the line of an image unless it is already there."""
        if self._line(name) != line:
            with self._reported():
                self._file.write(json.dumps({"image": name, **line}).encode() + b"\n")
            _keep_line(self._lines, name, line)

    def flush(self) -> None:
        """Flush the lines to disk."""
        with self._reported():
            self._file.flush()
            os.fsync(self._file.fileno())

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ItaclipError(f"{self._path}: cannot be written ({error.strerror or error}).") from error
