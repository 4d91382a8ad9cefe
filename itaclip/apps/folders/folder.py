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
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from PIL import Image

from itaclip.apps.folders.batches import read_ahead, reason_of, segment_batch
from itaclip.apps.folders.video import VIDEO_SUFFIXES, segment_video
from itaclip.common import figures
from itaclip.common.images import read_image
from itaclip.errors import ItaclipError
from itaclip.files import (
    IMAGE_SUFFIXES,
    RESULT_FOLDERS,
    SEGMENT_FOLDERS,
    atomic_path,
    is_hidden,
    local_path,
    refuse_inputs,
    result_folders,
    write_json,
)
from itaclip.formats.coco import CocoFile, CocoMask, encoded
from itaclip.formats.segments import segments_of
from itaclip.result import Result
from itaclip.segmenter import Segmenter
from itaclip.vocabulary import Vocabulary

_OF_ONE_FILE = (None, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)  # errors that no other file will meet
_JPEG_SIDE = 65_500  # pixels, the most that JPEG libraries write

_SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES
_RUN, _LINES = "run.json", "results.jsonl"


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


def find_items(inputs: Sequence[str | Path], tell: Callable[[str], None] = lambda _: None) -> list[Item]:
    """Find the images and videos of the inputs, sorted by name within each input.

    Names stay as they are given: two links to one file are two items, but one path given twice is
    one. Folders are searched without hidden files (`itaclip.files.is_hidden`). What earlier runs
    of `segment` and `label` wrote is never an input.

    Args:
        inputs: files, folders (searched recursively), or patterns such as ``shots/*.jpg``.
        tell: called with a line about every folder that is skipped.

    Raises:
        ItaclipError: an input that matches nothing, or nothing but such results.
    """
    paths: dict[tuple[Path, str], Path] = {}
    roots = []
    results = _Results(tell)
    resolved = cache(Path.resolve)  # of folders
    for entry in map(str, inputs):
        path = _absolute(local_path(entry, "Download it first; `itaclip label` reads addresses."))
        before = len(results.skipped)
        if path.is_dir():
            found = sorted(results.walk(path))
            roots.append(path)
        else:
            matched = [path] if os.path.lexists(path) else map(_absolute, _matches(entry))
            found = [p for p in matched if p.is_file() or (p.is_symlink() and not p.is_dir())]
            found = [p for p in found if not results.hold(p)]
            roots += [p.parent for p in found]
        if not found:
            kinds = ", ".join(sorted(suffix[1:] for suffix in _SUFFIXES))
            reason = f"contains no image or video ({kinds})" if path.is_dir() else "no file or folder matches"
            if skipped := list(results.skipped)[before:]:
                reason = f"holds nothing but results of an earlier run ({', '.join(skipped)})"
            raise ItaclipError(f"{entry}: {reason}.")
        for p in found:
            paths.setdefault((resolved(p.parent), p.name), p)
    base = Path(os.path.commonpath(roots))
    items, taken = [], set[str]()
    for path in paths.values():
        name = path.relative_to(base)
        stem = (name if path.suffix.lower() in VIDEO_SUFFIXES else name.with_suffix("")).as_posix()
        items.append(Item(path, name.as_posix(), _free(stem, path, taken)))  # a.jpg next to a.png
    return items


class _Results:
    """Recognises the folders that earlier runs filled, and tells about each once."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._known: dict[Path, frozenset[str]] = {}
        self.skipped: dict[str, None] = {}

    def walk(self, root: Path) -> Iterator[Path]:
        """Images and videos below a folder, in no particular order."""
        if self.hold(root / "any"):
            return
        for folder, inner, names in os.walk(root, onerror=self._unlisted):
            here = Path(folder)
            inner[:] = [name for name in inner if not is_hidden(name) and not self._is_result(here / name)]
            for name in names:
                path = here / name
                wanted = path.suffix.lower() in _SUFFIXES and not is_hidden(name)
                if wanted and (path.is_file() or path.is_symlink()):  # a broken link is a file that cannot be read
                    yield path

    def hold(self, path: Path) -> bool:
        """Whether a file lies in a folder that an earlier run filled, also by another path to it."""
        folders = dict.fromkeys([*path.parents, *path.parent.resolve().parents, path.parent.resolve()])
        return any(self._is_result(folder) for folder in folders)

    def _is_result(self, folder: Path) -> bool:
        if folder.name not in RESULT_FOLDERS:
            return False
        if folder.parent not in self._known:
            try:
                self._known[folder.parent] = result_folders((folder.parent / "run.json").read_bytes())
            except OSError:
                self._known[folder.parent] = frozenset()
        found = folder.name in self._known[folder.parent]
        if found and str(folder) not in self.skipped:
            self.skipped[str(folder)] = None
            self._tell(f"skipped: {folder} (results of an earlier run)")
        return found

    def _unlisted(self, error: OSError) -> None:
        self._tell(f"skipped: {error.filename} (cannot be listed: {error.strerror})")


def _matches(pattern: str) -> list[Path]:
    """Files and folders that match a pattern, sorted; hidden ones only where the pattern spells them."""
    parts = Path(pattern).parts
    fixed = next((n for n, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    hidden = is_hidden("/".join(parts[fixed:]))
    found = sorted(map(Path, glob.glob(pattern, recursive=True)))  # noqa: PTH207
    return [path for path in found if hidden or not is_hidden("/".join(path.parts[fixed:]))]


def _absolute(path: Path) -> Path:
    """The absolute path, with its links; ".." is resolved as the file system does, through links."""
    if path.name == "..":
        return path.resolve()
    return path.parent.resolve() / path.name if ".." in path.parts else path.absolute()


def _free(stem: str, path: Path, taken: set[str]) -> str:
    """A name that is not taken, also not where file systems ignore case; marks it as taken."""
    while (folded := unicodedata.normalize("NFC", stem).casefold()) in taken:
        stem += path.suffix or "_"
    taken.add(folded)
    return stem


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
    coco: Path | None = None,
    coco_skip: Sequence[str] = (),
    advance: Callable[[int], None] = lambda _: None,
) -> Report:
    """Segment files into a folder, resuming an earlier run.

    A file counts as done once its line is written, after its mask and overlay, so an interrupted
    run repeats at most one batch. A file that cannot be read, segmented or written gets a line with
    the reason, whatever it raises; the next run tries it again, as it does a
    video that is cut off, whose frames are kept.

    Args:
        segmenter: the segmenter to run.
        vocabulary: the classes.
        items: the files.
        out: folder for the results.
        batch: images per batch.
        overlays: whether to write overlays too.
        every: for videos, segment every n-th frame.
        overwrite: whether to replace the results of a different run in `out`.
        coco: file for the masks of all these images and frames in COCO's format, written at the end.
        coco_skip: names of classes to leave out there.
        advance: called with the number of files done since the last call.

    Raises:
        ItaclipError: `out` holds results of other settings or files of other origin, is in use by
            another process, or cannot be written; an output would replace an input.
    """
    out = local_path(out, "`itaclip label` writes to addresses.")
    items = list(items)
    inputs = [item.path for item in items]
    if coco is not None:
        refuse_inputs([coco], inputs, "choose another --coco")
        collected = CocoFile(coco, vocabulary.names, coco_skip)
    with _Journal(out, run_key(segmenter, vocabulary) | {"every": every}, overwrite) as journal:
        if coco is not None:
            refuse_inputs([coco], [out / _RUN], "choose another --coco")
        items = journal.placed(items)
        refuse_inputs(_outputs(items, out, overlays), inputs, "choose another --out")
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
                line = _segment_video(segmenter, vocabulary, item, out, batch, every, overlays, journal)
                if "error" in line:
                    report.failed[item.name] = line["error"]
                else:
                    report.done += 1
                journal.add(item.name, line)
                journal.flush()
                advance(1)
        if coco is not None:
            with collected:
                for item, line in journal.lines(items):
                    _collect(collected, item, line, out, vocabulary.names)
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


def _segment_video(
    segmenter: Segmenter,
    vocabulary: Vocabulary,
    item: Item,
    out: Path,
    batch: int,
    every: int,
    overlays: bool,
    journal: _Journal,
) -> dict[str, Any]:
    """The line of a video; masks of a file that was cut off are kept as long as the file stays the same."""
    try:
        earlier, size = journal.bytes_of(item.name), item.path.stat().st_size
        changed = earlier is not None and earlier != size
        line = segment_video(
            segmenter, vocabulary, item.path, item.stem, out, batch, every, overlays, replace=changed
        )  # fmt: skip
    except Exception as error:  # whatever a video raises, the run goes on
        return {"error": reason_of(error)}
    return line | {"bytes": size} if "error" in line else line


def _outputs(items: Iterable[Item], out: Path, overlays: bool) -> Iterator[Path]:
    """All masks and overlays that a run may replace."""
    for item in items:
        video = item.path.suffix.lower() in VIDEO_SUFFIXES
        if video:
            yield from (out / "masks" / item.stem).glob("*.png")
        else:
            yield out / "masks" / f"{item.stem}.png"
        if overlays:
            yield out / "overlays" / f"{item.stem}{'.mp4' if video else '.jpg'}"


def _collect(coco: CocoFile, item: Item, line: Mapping[str, Any], out: Path, names: Sequence[str]) -> None:
    """Add an image, or the frames of a video, to a COCO file."""
    size = line["height"], line["width"]
    if item.path.suffix.lower() not in VIDEO_SUFFIXES:
        coco.add(item.name, size, _coco_masks(out / line["mask"], names, line.get("scores", {})))
        return
    for frame in sorted((out / line["mask"]).glob("*.png")):
        coco.add(f"{item.name}/{frame.name}", size, _coco_masks(frame, names, {}))


def _coco_masks(mask: Path, names: Sequence[str], scores: Mapping[str, float]) -> Iterator[CocoMask]:
    try:
        with Image.open(mask) as opened:
            labels: NDArray[np.integer] = np.asarray(opened)
    except OSError as error:
        raise ItaclipError(f"{mask}: cannot be read ({error}); delete it and run again.") from error
    for label in np.unique(labels).tolist():
        found = labels == label
        yield CocoMask(label, encoded(found), int(found.sum()), scores.get(names[label]))


def _write(item: Item, result: Result, out: Path, overlays: bool) -> dict[str, Any]:
    """Write mask and overlay of an image; return its line."""
    mask = Path("masks") / f"{item.stem}.png"
    line = {key: value for key, value in result.summary().items() if key not in ("image", "classes")}
    found = segments_of(result.labels, result.names, result.scores)
    line["scores"] = {segment.name: round(segment.score, 6) for segment in found}
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
    return {name: json.loads(line) for name, line in _read_lines(out).items()}


def _read_lines(out: Path) -> dict[str, bytes]:
    """`read_lines`, each line as JSON without its name: bytes take a fifth of the memory."""
    path = out / _LINES
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
    """The output name of an earlier line; None if it has none, or one that leads out of the folder."""
    path = PurePosixPath(str(line.get("mask", "")))
    if path.parts[:1] != ("masks",) or ".." in path.parts:
        return None
    stem = path.relative_to("masks")
    return str(stem if PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES else stem.with_suffix(""))


class _Journal:
    """The results.jsonl of a run: locks it, reads it and appends to it."""

    def __init__(self, out: Path, key: dict[str, Any], overwrite: bool) -> None:
        self._out, self._path, self._key, self._overwrite = out, out / _LINES, key, overwrite
        self._lines: dict[str, bytes] = {}

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
            self._lines = _read_lines(self._out)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._lock.release()

    def _check_key(self) -> None:
        path = self._out / _RUN
        known = path.read_bytes() if path.is_file() else None
        if known is None:
            self._check_free()
        elif result_folders(known) != SEGMENT_FOLDERS:
            other = "`itaclip label`" if result_folders(known) else "another program"
            raise ItaclipError(f"{path}: written by {other}, not by `itaclip segment`; choose another --out.")
        found = json.loads(known) if known is not None else None
        if found not in (None, self._key):
            different = [name for name in found | self._key if found.get(name) != self._key.get(name)]
            if not self._overwrite:
                raise ItaclipError(
                    f"{self._out}: holds results of another run (different {', '.join(different)}); choose another "
                    "folder, or pass --overwrite to replace them."
                )
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
        """The items under the output names of their earlier lines; the others get names that no line has."""
        known = {name: stem for name in self._lines if (stem := _stem_of(name, self._line(name)))}
        taken = {unicodedata.normalize("NFC", stem).casefold() for stem in known.values()}
        return [replace(item, stem=known.get(item.name) or _free(item.stem, item.path, taken)) for item in items]

    def done(self, name: str, kinds: Sequence[str]) -> bool:
        """Whether an image has a line without an error, and its files of these kinds exist."""
        line = self._line(name)
        return "error" not in line and all(kind in line and (self._out / line[kind]).exists() for kind in kinds)

    def bytes_of(self, name: str) -> int | None:
        """Size of a video that was cut off in an earlier run; None for others."""
        found: int | None = self._line(name).get("bytes")
        return found

    def lines(self, items: Iterable[Item]) -> Iterator[tuple[Item, dict[str, Any]]]:
        """The items that have masks, with their lines."""
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
