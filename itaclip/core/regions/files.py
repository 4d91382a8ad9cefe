"""Region map files: the published format, `NAME.npz` with `instance_mask`, and plain PNG."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from itaclip.errors import ItaclipError
from itaclip.files import IMAGE_SUFFIXES, atomic_path

KEY = "instance_mask"
"""Name of the array in a published file."""

_GREY = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B")


def read_region_map(path: Path) -> NDArray[np.int32]:
    """Read a region map from a file of either format.

    Args:
        path: ``.npz`` with H x W integers `instance_mask`, whose smallest value means unsegmented
            unless the file also has a scalar `unsegmented` with another value (as written by
            `write_region_map`); or a PNG with one channel (palette indices, 8 or 16 bits), where
            0 means unsegmented.

    Returns:
        H x W int32: 0 is unsegmented, regions are numbered from 1 in the order of their values.

    Raises:
        ItaclipError: the file is missing or damaged, or has no H x W integer `instance_mask`.
    """
    stored, unsegmented = _read_npz(path) if path.suffix == ".npz" else (_read_png(path), 0)
    if stored.dtype.kind not in "iub" or stored.ndim != 2 or not stored.size:
        raise ItaclipError(
            f"{path}: {KEY} has shape {stored.shape} and dtype {stored.dtype}; expected height x width integers."
        )
    return renumbered(stored, unsegmented)


def renumbered(stored: NDArray[Any], unsegmented: int | None = None) -> NDArray[np.int32]:
    """Convert integers to a region map: one value becomes 0, the others 1, 2, ... in their order.

    Args:
        stored: H x W integers, not empty.
        unsegmented: the value that becomes 0; None selects the smallest.

    Returns:
        H x W int32.
    """
    values, indices = np.unique(stored, return_inverse=True)
    outside = values == (values[0] if unsegmented is None else unsegmented)
    numbers = np.where(outside, 0, np.cumsum(~outside)).astype(np.int32)
    regions: NDArray[np.int32] = numbers[indices].reshape(stored.shape)
    return regions


def write_region_map(path: Path, regions: NDArray[np.int32]) -> None:
    """Write an H x W region map as ``.npz``, atomically.

    In the published format the smallest value means unsegmented, which is wrong for a map
    without unsegmented pixels; the additional scalar `unsegmented` = 0 resolves this.

    Raises:
        ItaclipError: the file cannot be written.
    """
    small = regions.astype(np.uint16) if regions.max(initial=0) < 2**16 else regions
    with atomic_path(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, instance_mask=small, unsegmented=np.array(0))


class MaskFolder:
    """Region maps from a folder: ``NAME.npz`` or ``NAME.png`` for the image ``NAME.jpg``.

    Args:
        folder: folder of masks, in the same subfolders as the images or all in one folder.

    Raises:
        ItaclipError: no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ItaclipError(f"{folder}: no such folder of masks. Create them with tools/make_masks.py.")
        self.folder = folder

    @property
    def name(self) -> str:
        """The folder, for messages."""
        return str(self.folder)

    @property
    def fingerprint(self) -> str:
        """Hash of `masks.json` if it exists, otherwise of the names, sizes and dates of the files."""
        settings = self.folder / "masks.json"
        if settings.is_file():
            return f"masks {hashlib.sha256(settings.read_bytes()).hexdigest()[:16]}"
        found = hashlib.sha256()
        for path in sorted(p for p in self.folder.rglob("*") if p.suffix in (".npz", ".png")):
            status = path.stat()
            found.update(f"{path.relative_to(self.folder)} {status.st_size} {status.st_mtime_ns}\n".encode())
        return f"masks {found.hexdigest()[:16]}"

    def __call__(self, image: NDArray[np.uint8], name: str | None = None) -> NDArray[np.int32]:
        """Read the map of an image, found by its name; see `RegionSource`.

        Raises:
            ItaclipError: no name, no file, a damaged file, or one of another size.
        """
        if not name:
            raise ItaclipError(f"{self.folder}: masks are looked up by image name, but this image has no name.")
        path = self.find(name)
        regions = read_region_map(path)
        if regions.shape != image.shape[:2]:
            (height, width), (own_height, own_width) = regions.shape, image.shape[:2]
            raise ItaclipError(
                f"{path}: {width} x {height} pixels, but the image has {own_width} x {own_height}. "
                "Create the masks from the same image files at full size."
            )
        return regions

    def find(self, name: str) -> Path:
        """Find the mask file of an image.

        Raises:
            ItaclipError: there is none; the message lists the paths that were tried.
        """
        given = Path(name)
        given = given.with_suffix("") if given.suffix.lower() in IMAGE_SUFFIXES else given
        whole = [] if given.is_absolute() or ".." in given.parts else [given]
        candidates = [
            self.folder / f"{stem}{ending}" for stem in dict.fromkeys([*whole, Path(given.name)])
            for ending in (".npz", ".png")
        ]  # fmt: skip
        for path in candidates:
            if path.is_file():
                return path
        raise ItaclipError(f"{name}: no mask for this image; tried {', '.join(map(str, candidates))}.")


def _read_npz(path: Path) -> tuple[NDArray[Any], int | None]:
    """Read the array of a published file, and its value for unsegmented if it has one."""
    try:
        with np.load(path, allow_pickle=False) as content:
            if KEY not in content:
                raise ItaclipError(f"{path}: has no array {KEY}; arrays: {', '.join(content.files) or 'none'}.")
            return content[KEY], int(content["unsegmented"]) if "unsegmented" in content else None
    except ItaclipError:
        raise
    except FileNotFoundError:
        raise ItaclipError(f"{path}: no such file.") from None
    except Exception as error:  # zip, zlib and NumPy raise many types for damaged content
        raise ItaclipError(
            f"{path}: damaged, or not an .npz of plain arrays ({type(error).__name__}: {error}); create it again."
        ) from error


def _read_png(path: Path) -> NDArray[Any]:
    try:
        with Image.open(path) as image:
            if image.format != "PNG" or image.mode not in _GREY:
                raise ItaclipError(
                    f"{path}: {image.format} image of mode {image.mode}; a region map is a PNG with one channel of "
                    "ids, not colours."
                )
            return np.array(image)
    except ItaclipError:
        raise
    except FileNotFoundError:
        raise ItaclipError(f"{path}: no such file.") from None
    except UnidentifiedImageError:
        raise ItaclipError(f"{path}: not an image; create it again.") from None
    # Pillow raises any of these for a damaged PNG
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ItaclipError(f"{path}: cannot be decoded ({error}); create it again.") from error
