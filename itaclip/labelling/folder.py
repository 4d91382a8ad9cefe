"""Segment many files on one machine: find them, write their results one by one, resume interrupted runs.

OUT/run.json                 everything the results depend on, so that runs never mix
OUT/masks/NAME.png           class ids under the image's own name
OUT/overlays/NAME.jpg
OUT/results.jsonl            a line per image, written after its files; results.jsonl.lock excludes other processes
"""

from __future__ import annotations

import errno
import glob
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from itaclip import figures
from itaclip.errors import ItaclipError
from itaclip.files import IMAGE_SUFFIXES, atomic_path, local_path, write_json
from itaclip.images import read_image
from itaclip.labelling.batches import read_ahead, reason_of, segment_batch
from itaclip.labelling.video import VIDEO_SUFFIXES, segment_video
from itaclip.result import Result
from itaclip.segmenter import Segmenter
from itaclip.vocabulary import Vocabulary

_OF_ONE_FILE = (None, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)  # errors that no other file will meet
_JPEG_SIDE = 65_500  # pixels, the most that JPEG libraries write

_SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES


@dataclass(frozen=True)
class Item:
    """A file to segment.

    Attributes:
        path: the file.
        name: its path relative to the common parent folder of all files.
        stem: unique output name without extension.
    """

    path: Path
    name: str
    stem: str


@dataclass
class Report:
    """Summary of a run.

    Attributes:
        done: images segmented in this run.
        kept: images kept from an earlier run.
        failed: error messages by image name.
    """

    done: int = 0
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)


# --- finding -----------------------------------------------------------------


def find_items(inputs: Sequence[str | Path]) -> list[Item]:
    """Find the images and videos of the inputs, sorted by name within each input.

    Args:
        inputs: files, folders (searched recursively), or patterns such as ``shots/*.jpg``.

    Raises:
        ItaclipError: an input that matches nothing.
    """
    paths: dict[Path, None] = {}
    roots = []
    for entry in map(str, inputs):
        path = local_path(entry, "Download it first; `itaclip label` reads addresses.")
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
            roots.append(path.resolve())
        else:
            found = [path] if path.is_file() else sorted(Path(p) for p in glob.glob(entry, recursive=True))  # noqa: PTH207
            found = [p for p in found if p.is_file()]
            roots += [p.resolve().parent for p in found]
        if not found:
            kinds = ", ".join(sorted(suffix[1:] for suffix in _SUFFIXES))
            reason = f"contains no image or video ({kinds})" if path.is_dir() else "no file or folder matches"
            raise ItaclipError(f"{entry}: {reason}.")
        paths.update(dict.fromkeys(p.resolve() for p in found))
    base = Path(os.path.commonpath(roots))
    items, taken = [], set()
    for path in paths:
        name = path.relative_to(base) if path.is_relative_to(base) else Path(path.name)  # a link to another folder
        stem = (name if path.suffix.lower() in VIDEO_SUFFIXES else name.with_suffix("")).as_posix()
        while stem in taken:  # a.jpg next to a.png
            stem += path.suffix or "_"
        taken.add(stem)
        items.append(Item(path, name.as_posix(), stem))
    return items


# --- running -----------------------------------------------------------------


def segment_folder(
    segmenter: Segmenter,
    vocabulary: Vocabulary,
    items: Sequence[Item],
    out: Path,
    *,
    batch: int = 4,
    overlays: bool = True,
    every: int = 1,
    overwrite: bool = False,
    advance: Callable[[int], None] = lambda _: None,
) -> Report:
    """Segment files into a folder, resuming an earlier run.

    A file counts as done once its line is written, after its mask and overlay, so an interrupted
    run repeats at most one batch. A file that cannot be read, segmented or written gets a line with
    the reason, whatever it raises; the next run tries it again.

    Args:
        segmenter: the segmenter to run.
        vocabulary: the classes.
        items: the files.
        out: folder for the results.
        batch: images per batch.
        overlays: whether to write overlays too.
        every: for videos, segment every n-th frame.
        overwrite: whether to replace the results of a different run in `out`.
        advance: called with the number of files done since the last call.

    Raises:
        ItaclipError: `out` holds results of other settings, is in use by another process,
            or cannot be written.
    """
    out = local_path(out, "`itaclip label` writes to addresses.")
    with _Journal(out, run_key(segmenter, vocabulary) | {"every": every}, overwrite) as journal:
        kinds = ("mask", "overlay") if overlays else ("mask",)
        waiting = [item for item in items if not journal.done(item.name, kinds)]
        report = Report(kept=len(items) - len(waiting))
        advance(report.kept)
        images = [item for item in waiting if item.path.suffix.lower() not in VIDEO_SUFFIXES]
        for part, read in read_ahead(lambda item: read_image(item.path, segmenter.reading), images, batch):
            for item, result in zip(part, segment_batch(segmenter, vocabulary, read), strict=True):
                line = _written(item, result, out, overlays) if isinstance(result, Result) else {"error": result}
                journal.add(item.name, line)
                if "error" in line:
                    report.failed[item.name] = line["error"]
                else:
                    report.done += 1
            journal.flush()
            advance(len(part))
        for item in waiting:
            if item.path.suffix.lower() in VIDEO_SUFFIXES:
                try:
                    line = segment_video(segmenter, vocabulary, item.path, item.stem, out, batch, every, overlays)
                    report.done += 1
                except Exception as error:  # whatever a video raises, the run goes on
                    line = {"error": reason_of(error)}
                    report.failed[item.name] = line["error"]
                journal.add(item.name, line)
                journal.flush()
                advance(1)
    return report


def _written(item: Item, result: Result, out: Path, overlays: bool) -> dict[str, Any]:
    """Write mask and overlay of an image; return its line, or one with the reason why it cannot be written.

    Raises:
        ItaclipError: the disk takes no file at all: it is full, or may not be written.
    """
    try:
        return _write(item, result, out, overlays)
    except ItaclipError as error:
        if getattr(error.__cause__, "errno", None) in _OF_ONE_FILE:
            return {"error": str(error)}
        raise
    except Exception as error:  # whatever an image raises, the run goes on
        return {"error": reason_of(error)}


def _write(item: Item, result: Result, out: Path, overlays: bool) -> dict[str, Any]:
    """Write mask and overlay of an image; return its line."""
    mask = Path("masks") / f"{item.stem}.png"
    line = {key: value for key, value in result.summary().items() if key not in ("image", "classes")}
    with atomic_path(out / mask) as partial:
        figures.save_mask(result.labels, result.colors, partial)
    line["mask"] = mask.as_posix()
    if overlays:
        picture = Path("overlays") / f"{item.stem}.jpg"
        with atomic_path(out / picture) as partial:
            drawn = result.overlay()
            drawn.thumbnail((_JPEG_SIDE, _JPEG_SIDE))  # smaller pictures stay as they are
            drawn.save(partial, "JPEG", quality=90)
        line["overlay"] = picture.as_posix()
    return line


# --- journal -----------------------------------------------------------------


def run_key(segmenter: Segmenter, vocabulary: Vocabulary) -> dict[str, Any]:
    """Everything the results depend on besides the images, as JSON values."""
    settings = asdict(segmenter.for_vocabulary(vocabulary))
    del settings["device"], settings["batch_crops"]  # these do not affect results
    key = {
        "weights": segmenter.fingerprint,
        "short_side": segmenter.short_side,
        "classes": vocabulary.bank.class_names.synonyms,
        "background": vocabulary.background,
        "definitions": vocabulary.definitions,
        "colors": vocabulary.own_colors,
        "settings": settings,
    }
    if segmenter.reading.value_range is not None:
        key["value_range"] = segmenter.reading.value_range
    as_read_back: dict[str, Any] = json.loads(json.dumps(key))
    return as_read_back


def read_lines(out: Path) -> dict[str, dict[str, Any]]:
    """The last valid line of every image, by name; skips incomplete lines."""
    path = out / "results.jsonl"
    lines: dict[str, dict[str, Any]] = {}
    for text in path.read_bytes().splitlines() if path.exists() else ():  # bytes: str has more line ends
        try:
            line = json.loads(text)
        except ValueError:
            continue
        name = line.pop("image")
        if "error" not in line or name not in lines:
            lines[name] = line
    return lines


class _Journal:
    """The results.jsonl of a run: locks it, reads it and appends to it."""

    def __init__(self, out: Path, key: dict[str, Any], overwrite: bool) -> None:
        self._out, self._path, self._key, self._overwrite = out, out / "results.jsonl", key, overwrite
        self._lines: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> _Journal:
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

    def _opened(self) -> _Journal:
        with self._reported():
            self._check_key()
            self._file = self._path.open("ab")
            whole = self._path.read_bytes().rfind(b"\n") + 1  # a killed process may leave an incomplete last line
            self._file.truncate(whole)
            self._lines = read_lines(self._out)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._lock.release()

    def _check_key(self) -> None:
        path = self._out / "run.json"
        known = json.loads(path.read_bytes()) if path.is_file() else None
        if known is not None and known != self._key:
            different = [name for name in known | self._key if known.get(name) != self._key.get(name)]
            if not self._overwrite:
                raise ItaclipError(
                    f"{self._out}: holds results of another run (different {', '.join(different)}); choose another "
                    "folder, or pass --overwrite to replace them."
                )
            os.truncate(self._path, 0)
        if known != self._key:
            write_json(path, self._key)

    def done(self, name: str, kinds: Sequence[str]) -> bool:
        """Whether an image has a line without an error, and its files of these kinds exist."""
        line = self._lines.get(name, {})
        return all(kind in line and (self._out / line[kind]).exists() for kind in kinds)

    def add(self, name: str, line: dict[str, Any]) -> None:
        """Append the line of an image unless it is already there."""
        if self._lines.get(name) != line:
            with self._reported():
                self._file.write(json.dumps({"image": name, **line}).encode() + b"\n")

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
