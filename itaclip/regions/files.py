"""Region maps in files: the published layout, `NAME.npz` with `instance_mask`, and plain PNG."""

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
    """Read a region map from a file of either kind.

    Args:
        path: ``.npz`` with H x W integers `instance_mask`, of which the smallest value means
            unsegmented, unless a scalar `unsegmented` beside it names another one (as
            `write_region_map` does); or a PNG of one channel (palette indices, 8 or 16 bits),
            where 0 means unsegmented.

    Returns:
        H x W int32, 0 = unsegmented, regions from 1 in the order of their values.

    Raises:
        ItaclipError: missing, damaged, without `instance_mask`, or not H x W integers.
    """
    stored, unsegmented = _read_npz(path) if path.suffix == ".npz" else (_read_png(path), 0)
    if stored.dtype.kind not in "iub" or stored.ndim != 2 or not stored.size:
        raise ItaclipError(
            f"{path}: {KEY} of shape {stored.shape} and dtype {stored.dtype}; expected height x width, integers."
        )
    return renumbered(stored, unsegmented)


def renumbered(stored: NDArray[Any], unsegmented: int | None = None) -> NDArray[np.int32]:
    """H x W integers to a region map: one value becomes 0, the others 1, 2, ... in their order.

    Args:
        stored: with at least one pixel.
        unsegmented: the value that becomes 0; None takes the smallest.
    """
    values, places = np.unique(stored, return_inverse=True)
    outside = values == (values[0] if unsegmented is None else unsegmented)
    numbers = np.where(outside, 0, np.cumsum(~outside)).astype(np.int32)
    regions: NDArray[np.int32] = numbers[places].reshape(stored.shape)
    return regions


def write_region_map(path: Path, regions: NDArray[np.int32]) -> None:
    """Write an H x W region map as ``.npz``, whole or not at all.

    The published layout takes the smallest value for unsegmented, which a map without
    unsegmented pixels does not have; a scalar `unsegmented` = 0 beside it says so.

    Raises:
        ItaclipError: it cannot be written.
    """
    small = regions.astype(np.uint16) if regions.max(initial=0) < 2**16 else regions
    with atomic_path(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, instance_mask=small, unsegmented=np.array(0))


class MaskFolder:
    """Region maps from a folder: ``NAME.npz`` or ``NAME.png`` for the image ``NAME.jpg``.

    Args:
        folder: masks, in subfolders as the images are, or all in one folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ItaclipError(f"{folder}: no such folder of masks. Make them with tools/make_masks.py.")
        self.folder = folder

    @property
    def name(self) -> str:
        """For messages."""
        return str(self.folder)

    @property
    def fingerprint(self) -> str:
        """Where there is `masks.json`, its content; else names, sizes and dates of the files."""
        settings = self.folder / "masks.json"
        if settings.is_file():
            return f"masks {hashlib.sha256(settings.read_bytes()).hexdigest()[:16]}"
        found = hashlib.sha256()
        for path in sorted(p for p in self.folder.rglob("*") if p.suffix in (".npz", ".png")):
            seen = path.stat()
            found.update(f"{path.relative_to(self.folder)} {seen.st_size} {seen.st_mtime_ns}\n".encode())
        return f"masks {found.hexdigest()[:16]}"

    def __call__(self, image: NDArray[np.uint8], name: str | None = None) -> NDArray[np.int32]:
        """The map of an image, by its name; see `RegionSource`.

        Raises:
            ItaclipError: no name, no file, a damaged file, or one of another size.
        """
        if not name:
            raise ItaclipError(f"{self.folder}: masks are found by the image's name, and this image has none.")
        path = self.find(name)
        regions = read_region_map(path)
        if regions.shape != image.shape[:2]:
            (height, width), (own_height, own_width) = regions.shape, image.shape[:2]
            raise ItaclipError(
                f"{path}: {width} x {height} pixels, but the image has {own_width} x {own_height}. "
                "Masks have to be made from the same files at their full size."
            )
        return regions

    def find(self, name: str) -> Path:
        """The file of an image.

        Raises:
            ItaclipError: there is none; names what was looked for.
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
        raise ItaclipError(f"{name}: no mask for this image; looked for {', '.join(map(str, candidates))}.")


def _read_npz(path: Path) -> tuple[NDArray[Any], int | None]:
    """The array of a published file, and its value for unsegmented where it names one."""
    try:
        with np.load(path, allow_pickle=False) as content:
            if KEY not in content:
                raise ItaclipError(f"{path}: has no {KEY}, but {', '.join(content.files) or 'nothing'}.")
            return content[KEY], int(content["unsegmented"]) if "unsegmented" in content else None
    except ItaclipError:
        raise
    except FileNotFoundError:
        raise ItaclipError(f"{path}: no such file.") from None
    except Exception as error:  # over damaged content, zip, zlib and NumPy raise nearly anything
        raise ItaclipError(
            f"{path}: damaged, or no .npz of plain arrays ({type(error).__name__}: {error}); make it again."
        ) from error


def _read_png(path: Path) -> NDArray[Any]:
    try:
        with Image.open(path) as image:
            if image.format != "PNG" or image.mode not in _GREY:
                raise ItaclipError(
                    f"{path}: is a {image.format} of mode {image.mode}; a region map is a PNG of one channel "
                    "that holds ids, not colours."
                )
            return np.array(image)
    except ItaclipError:
        raise
    except FileNotFoundError:
        raise ItaclipError(f"{path}: no such file.") from None
    except UnidentifiedImageError:
        raise ItaclipError(f"{path}: not a picture; make it again.") from None
    # Pillow reports a damaged PNG in any of these ways, depending on where it trips
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ItaclipError(f"{path}: cannot be decoded ({error}); make it again.") from error
