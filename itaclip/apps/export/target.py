"""Where an export goes: a ZIP archive or a folder, written beside its final place and renamed at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from itaclip.errors import ItaclipError
from itaclip.files import atomic_path

_TIME = (1980, 1, 1, 0, 0, 0)  # the same content gives the same archive


class Target:
    """Receives the files of an export.

    Args:
        folder: folder to write into; unused with an archive.
        archive: open archive, or None to write into the folder.
    """

    def __init__(self, folder: Path, archive: zipfile.ZipFile | None = None) -> None:
        self._folder, self._archive = folder, archive

    def write(self, name: str, content: bytes) -> None:
        """Write a file, `name` with ``/`` between folders."""
        if self._archive is not None:
            self._archive.writestr(zipfile.ZipInfo(name, _TIME), content, zipfile.ZIP_DEFLATED)
            return
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def copy(self, name: str, source: Path) -> None:
        """Write a file with the content of another one, which may be larger than the memory."""
        if self._archive is not None:
            info = zipfile.ZipInfo(name, _TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            with source.open("rb") as file, self._archive.open(info, "w", force_zip64=True) as entry:
                shutil.copyfileobj(file, entry)
            return
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)


@contextmanager
def new_target(out: Path) -> Iterator[Target]:
    """Open a target at `out`: an archive if it ends with ``.zip``, else a folder. It appears if the block succeeds.

    Raises:
        ItaclipError: `out` exists, or cannot be written.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ItaclipError(f"{out}: exists already; remove it, or choose another --out.")
    if out.suffix.lower() == ".zip":
        with atomic_path(out) as partial, zipfile.ZipFile(partial, "w") as archive:
            yield Target(out, archive)
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name[:80]}.", dir=out.parent))
    except OSError as error:
        raise ItaclipError(f"{out}: cannot be written ({error.strerror or error}).") from error
    try:
        yield Target(folder)
        folder.chmod(0o755)
        if out.exists():
            out.rmdir()  # Windows replaces no folder, not even an empty one
        os.replace(folder, out)
    except OSError as error:
        raise ItaclipError(f"{out}: cannot be written ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def checked_name(name: str) -> str:
    """Check the name of an image for use in a path, and return it.

    Raises:
        ItaclipError: a name that leaves its folder, or that has line breaks.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0] or not name.isprintable():
        raise ItaclipError(f"{name!r} cannot name a file in an archive.")
    return path.as_posix()


class Stems:
    """Names without extension, which formats use to match labels with images."""

    def __init__(self) -> None:
        self._taken: dict[str, str] = {}

    def add(self, name: str) -> str:
        """Add an image; return its name without extension.

        Raises:
            ItaclipError: another image has it too.
        """
        stem = PurePosixPath(name).with_suffix("").as_posix()
        other = self._taken.setdefault(stem, name)
        if other != name:
            raise ItaclipError(
                f"{other} and {name} differ only in their extension, and this format knows images without it. Rename "
                "one, or export to cvat-images or coco."
            )
        return stem
