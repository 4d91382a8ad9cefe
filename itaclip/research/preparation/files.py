"""What to say when a data set's files are not where, or not called what, the configuration says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from itaclip.errors import ItaclipError
from itaclip.files import IMAGE_SUFFIXES
from itaclip.research.preparation.inspection import Pair, Tree
from itaclip.research.preparation.listing import iterate_files

_KEY = "test_dataloader.dataset"
_EXAMINED = 10_000
_NAMED = 3


def no_image(tree: Tree, root: Path) -> str:
    """Explain why a data set has no image: what lies in its folder, and which setting to change.

    Args:
        tree: the data set.
        root: its `data_root`.
    """
    if tree.names is not None:
        return f"{tree.names}: lists no image (ann_file). Write one image name without {tree.image_suffix} per line."
    found = endings(tree.images)
    opening = f"{tree.images}: no file ends in {tree.image_suffix!r} (img_suffix); {described(found)}."
    usable = [suffix for suffix in found if suffix.lower() in IMAGE_SUFFIXES]
    place = holding(root, tree.image_suffix, tree.images)
    if usable and not place:
        return f"{opening} Set {_KEY}.img_suffix={usable[0]!r}."
    if place:
        return f"{opening} {place[1]} lie in {place[0]}: set {_KEY}.data_prefix.img_path={_below(place[0], root)!r}" + (
            f", or img_suffix={usable[0]!r}." if usable else "."
        )
    return f"{opening} Put the images there, or correct {_KEY}.data_prefix.img_path."


def other_images(tree: Tree) -> str | None:
    """Note images that are left out because they end otherwise; None if there are none."""
    if tree.names is not None:
        return None
    found = {
        suffix: count
        for suffix, count in endings(tree.images).items()
        if suffix.lower() in IMAGE_SUFFIXES and not suffix.endswith(tree.image_suffix)
        and not tree.image_suffix.endswith(suffix)
    }  # fmt: skip
    if not found or tree.images.resolve() == tree.masks.resolve():
        return None
    return f"{tree.images}: {described(found)}; only files that end in {tree.image_suffix!r} (img_suffix) are read."


def missing_masks(missing: Sequence[Pair], total: int, tree: Tree, root: Path) -> str:
    """Explain how many masks are missing, what lies in their folder, and what helps.

    Args:
        missing: the pairs without a mask.
        total: number of pairs.
        tree: the data set.
        root: its `data_root`.
    """
    names = ", ".join(pair.mask.name for pair in missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
    count = f"all {total}" if len(missing) == total else f"{len(missing)} of {total}"
    opening = f"{tree.masks}: {count} masks are missing: {names} (seg_map_suffix={tree.mask_suffix!r})."
    if tree.benchmark:
        return f"{opening} {tree.mask_remedy}"
    if len(missing) < total:
        return f"{opening} Add them, or list the images that have masks in a file and set ann_file."
    if not tree.image_suffix.startswith("."):
        return f"{opening} img_suffix={tree.image_suffix!r} has no dot; do you mean {'.' + tree.image_suffix!r}?"
    same = Counter(ending for pair in missing[:20] for ending in endings_of(pair, tree))
    if same:
        return f"{opening} Files there end in {same.most_common(1)[0][0]!r}: set {_KEY}.seg_map_suffix to that."
    opening += f" In the folder, {described(endings(tree.masks))}."
    first = missing[0].mask.name
    place = next((path.parent for path in _walk(root) if path.name == first), None)
    if place is not None:
        return f"{opening} {first} lies in {place}: correct {_KEY}.data_prefix.seg_map_path."
    return f"{opening} Masks are named like their images, apart from the suffix."


def endings_of(pair: Pair, tree: Tree) -> list[str]:
    """List what follows the image's name in the names of files in the folder of its mask."""
    name = pair.mask.name.removesuffix(tree.mask_suffix)
    try:
        found = [path.name[len(name) :] for path in iterate_files(pair.mask.parent) if path.name.startswith(name)]
    except ItaclipError:
        return []
    known = tuple(IMAGE_SUFFIXES)
    return [ending for ending in found if not ending[:1].isalnum() and ending.lower().endswith(known)]


def endings(folder: Path) -> dict[str, int]:
    """Count files by suffix below a folder, the most frequent first; read up to 10,000 names."""
    return dict(Counter(path.suffix for path in _walk(folder)).most_common())


def described(found: dict[str, int]) -> str:
    """Describe counts, such as "12 files end in .JPG, 1 in .txt"."""
    if not found:
        return "there is no file"
    parts = [f"{count} in {suffix}" if suffix else f"{count} in no suffix" for suffix, count in found.items()]
    number, _, rest = parts[0].partition(" ")
    return ", ".join([f"{number} file{'s end' if number != '1' else ' ends'} {rest}", *parts[1:5]])


def holding(root: Path, suffix: str, apart: Path) -> tuple[Path, int] | None:
    """Find the folder below `root`, apart from one, that holds the most files with a suffix, and their number."""
    found = Counter(path.parent for path in _walk(root) if path.name.endswith(suffix) and apart not in path.parents)
    return found.most_common(1)[0] if found else None


def _below(path: Path, root: Path) -> str:
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        return str(path)


def _walk(folder: Path) -> Iterator[Path]:
    try:
        yield from islice(iterate_files(folder, recursive=True), _EXAMINED)
    except ItaclipError:
        return
