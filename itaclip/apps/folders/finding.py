"""Find the images and videos to segment, and name their outputs."""

from __future__ import annotations

import glob
import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from itaclip.apps.folders.video import VIDEO_SUFFIXES
from itaclip.apps.result_folders import ResultFolders
from itaclip.errors import ItaclipError
from itaclip.files import IMAGE_SUFFIXES, is_hidden, local_path

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

    @property
    def is_video(self) -> bool:
        """Whether the file is a video."""
        return is_video(self.name)


def is_video(name: str) -> bool:
    """Tell whether a file name has the extension of a video."""
    return Path(name).suffix.lower() in VIDEO_SUFFIXES


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
    results = ResultFolders(_content, lambda folder: tell(f"skipped: {Path(folder)} (results of an earlier run)"))
    resolved = cache(Path.resolve)  # of folders
    for entry in map(str, inputs):
        path = _absolute(local_path(entry, "Download it first; `itaclip label` reads addresses."))
        before = len(results.skipped)
        if path.is_dir():
            found = sorted(_walk(path, results, tell))
            roots.append(path)
        else:
            matched = [path] if os.path.lexists(path) else map(_absolute, _matches(entry))
            found = [p for p in matched if p.is_file() or (p.is_symlink() and not p.is_dir())]
            found = [p for p in found if not _hold(results, p)]
            roots += [p.parent for p in found]
        if not found:
            kinds = ", ".join(sorted(suffix[1:] for suffix in _SUFFIXES))
            reason = f"contains no image or video ({kinds})" if path.is_dir() else "no file or folder matches"
            raise ItaclipError(f"{entry}: {results.nothing_else(before) or reason}.")
        for p in found:
            paths.setdefault((resolved(p.parent), p.name), p)
    base = Path(os.path.commonpath(roots))
    items, taken = [], set[str]()
    for path in paths.values():
        name = path.relative_to(base).as_posix()
        stem = name if is_video(name) else path.relative_to(base).with_suffix("").as_posix()
        items.append(Item(path, name, free_stem(stem, path, taken)))  # a.jpg next to a.png
    return items


def free_stem(stem: str, path: Path, taken: set[str]) -> str:
    """Find a name that is not taken, also not where file systems ignore case; mark it as taken."""
    while (folded := folded_stem(stem)) in taken:
        stem += path.suffix or "_"
    taken.add(folded)
    return stem


def folded_stem(stem: str) -> str:
    """Fold a name as file systems that ignore case and composition compare it."""
    return unicodedata.normalize("NFC", stem).casefold()


def _walk(root: Path, results: ResultFolders, tell: Callable[[str], None]) -> Iterator[Path]:
    """Yield images and videos below a folder, in no particular order."""

    def unlisted(error: OSError) -> None:
        tell(f"skipped: {error.filename} (cannot be listed: {error.strerror})")

    if _hold(results, root / "any"):
        return
    for folder, inner, names in os.walk(root, onerror=unlisted):
        here = Path(folder)
        inner[:] = [name for name in inner if not is_hidden(name) and (here / name).as_posix() not in results]
        for name in names:
            path = here / name
            wanted = path.suffix.lower() in _SUFFIXES and not is_hidden(name)
            if wanted and (path.is_file() or path.is_symlink()):  # a broken link is a file that cannot be read
                yield path


def _hold(results: ResultFolders, path: Path) -> bool:
    """Tell whether a file lies in a folder of results, also by another path to it."""
    return results.hold(path.as_posix()) or results.hold((path.parent.resolve() / path.name).as_posix())


def _content(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes()
    except OSError:
        return None


def _matches(pattern: str) -> list[Path]:
    """List files and folders that match a pattern, sorted; hidden ones only where the pattern spells them."""
    steps = Path(pattern).parts
    fixed = next((n for n, step in enumerate(steps) if glob.has_magic(step)), len(steps))
    hidden = is_hidden("/".join(steps[fixed:]))
    found = sorted(map(Path, glob.glob(pattern, recursive=True)))  # noqa: PTH207
    return [path for path in found if hidden or not is_hidden("/".join(path.parts[fixed:]))]


def _absolute(path: Path) -> Path:
    """Make a path absolute and keep its links; ".." is resolved as the file system does, through links."""
    if path.name == "..":
        return path.resolve()
    return path.parent.resolve() / path.name if ".." in path.parts else path.absolute()
