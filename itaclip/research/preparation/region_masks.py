"""Create the region maps of many images in advance.

OUT/masks.json       the source of the maps, so that sources never mix
OUT/NAME.npz         the map of an image, under its path relative to the image folder
"""

from __future__ import annotations

import glob
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from itaclip.common.console import make_console, progress
from itaclip.common.images import read_image
from itaclip.core.regions.files import write_region_map
from itaclip.core.regions.source import GRAM, SAM2, RegionSource, region_source
from itaclip.devices import choose_device
from itaclip.errors import ItaclipError
from itaclip.files import IMAGE_SUFFIXES, is_hidden, local_path, write_json
from itaclip.research.preparation.inspection import find_pairs
from itaclip.research.preparation.jobs import default_workers, run_jobs

FAILED = 1
"""Exit status when a map could not be created."""

SETTINGS = "masks.json"


@dataclass(frozen=True)
class SourceImage:
    """An image, and the name of its map relative to the output folder, without extension."""

    path: Path
    name: str


@dataclass(frozen=True)
class MaskJob:
    """The parameters that every process needs."""

    spec: str
    device: str
    out: Path
    single_threaded: bool


def default_jobs(spec: str, device: str) -> int:
    """Choose one process per core, or a single one if they would share a GPU."""
    on_gpu = spec.partition(":")[0] in (*SAM2, *GRAM) and choose_device(device).type != "cpu"
    return 1 if on_gpu else default_workers()


def make_masks(images: Sequence[SourceImage], spec: str, out: Path, jobs: int = 1, device: str = "auto") -> int:
    """Create all missing maps, each atomically.

    Args:
        images: the images.
        spec: a source for `region_source`, but not a folder of masks.
        out: output folder.
        jobs: number of processes.
        device: device for SAM 2 and second encoders; "auto" uses a GPU if there is one.

    Returns:
        0, or 1 if images failed; each failure is reported on standard error.

    Raises:
        ItaclipError: an unknown source, or `out` contains maps of another source or cannot be written.
    """
    console = make_console()
    claim(out, _source(spec, device))
    waiting = [image for image in images if not target_of(out, image).is_file()]
    kept, failed = len(images) - len(waiting), 0
    job = MaskJob(spec, device, out, single_threaded=jobs > 1)
    with progress(console, len(images), "region maps") as advance:
        advance(kept)
        for reason in run_jobs(partial(_make_one, job), waiting, jobs):
            if reason:
                failed += 1
                sys.stderr.write(f"failed: {reason}\n")
            advance(1)
    console.print(f"region maps: {len(waiting) - failed} written, {kept} kept, {failed} failed.")
    return FAILED if failed else 0


def claim(out: Path, source: RegionSource) -> None:
    """Record in `out` the source of its maps.

    Raises:
        ItaclipError: `out` contains maps of another or an unknown source.
    """
    path, own = out / SETTINGS, {"source": source.name, "fingerprint": source.fingerprint}
    try:
        known = json.loads(path.read_bytes()) if path.is_file() else None
    except ValueError as error:
        raise ItaclipError(f"{path}: not valid JSON ({error}); choose another --out, or delete the folder.") from error
    if known is None and out.is_dir() and any(out.rglob("*.npz")):
        raise ItaclipError(f"{out}: contains maps of unknown source (no {SETTINGS}); choose another --out.")
    if known not in (None, own):
        other = known if isinstance(known, dict) else {}
        raise ItaclipError(
            f"{out}: contains maps of {other.get('source')} ({other.get('fingerprint')}), not of {source.name} "
            f"({source.fingerprint}); choose another --out, or delete the folder."
        )
    if known is None:
        write_json(path, own)


def target_of(out: Path, image: SourceImage) -> Path:
    """Return the path of the map file of an image."""
    return out / f"{image.name}.npz"


# --- finding -----------------------------------------------------------------


def find_images(inputs: Sequence[str]) -> list[SourceImage]:
    """Find the images of folders, files and patterns, sorted by name within each input.

    Raises:
        ItaclipError: an input that matches nothing, or two images with the same name.
    """
    found: dict[Path, None] = {}
    roots = []
    for entry in inputs:
        path = local_path(entry)
        if path.is_dir():
            roots.append(path)
            shown = (p for p in path.rglob("*") if not is_hidden(str(p.relative_to(path))))
            matches = [p for p in shown if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
        else:
            matches = [path] if path.is_file() else [Path(p) for p in glob.glob(entry, recursive=True)]  # noqa: PTH207
            matches = [p for p in matches if p.is_file()]
            roots += [p.parent for p in matches]
        if not matches:
            raise ItaclipError(f"--images {entry}: matches no image.")
        found.update(dict.fromkeys(sorted(matches)))
    base = Path(os.path.commonpath([root.absolute() for root in roots]))
    return _distinct(SourceImage(path, str(path.absolute().relative_to(base).with_suffix(""))) for path in found)


def images_of_config(config_path: str, data_root: str | None = None) -> list[SourceImage]:
    """List the images that a configuration evaluates.

    Raises:
        ItaclipError: a bad configuration, missing folders or lists.
    """
    # these load MMSegmentation, which folders of images and worker processes do not need
    from itaclip.research.openmmlab.configuration import load_config
    from itaclip.research.preparation.layout import describe, draw_demo, missing_parts

    config = load_config(config_path, data_root)
    draw_demo(config.test_dataloader.dataset)
    if missing := missing_parts(config):
        problems = "; ".join(f"{what}: {', '.join(kind.examples)}" for what, kind in missing.kinds.items())
        raise ItaclipError(f"{config_path}: {problems}. Run python tools/check_dataset.py for details.")
    tree = describe(config)
    images = (pair.image for pair in find_pairs(tree))
    found = [SourceImage(path, str(path.relative_to(tree.images))[: -len(tree.image_suffix)]) for path in images]
    return _distinct(found if tree.names else sorted(found, key=lambda image: image.name))


def _distinct(images: Iterable[SourceImage]) -> list[SourceImage]:
    taken: dict[str, SourceImage] = {}
    for image in images:
        if image.name in taken:
            raise ItaclipError(f"{image.path} and {taken[image.name].path}: both would become {image.name}.npz.")
        taken[image.name] = image
    return list(taken.values())


# --- creating ----------------------------------------------------------------


@cache
def _source(spec: str, device: str) -> RegionSource:
    """Get the source, loaded once per process."""
    if Path(spec).is_dir():
        raise ItaclipError(
            f"--source {spec}: is a folder; expected sam2, sam2-64, gram, gram-fast, felzenszwalb or slic."
        )
    return region_source(spec, device=device)


def _make_one(job: MaskJob, image: SourceImage) -> str | None:
    """Create the map of an image; returns None, or the error message."""
    if job.single_threaded:
        import torch

        torch.set_num_threads(1)
    source = _source(job.spec, job.device)
    try:
        regions = source(read_image(image.path), image.name)
    except ItaclipError as error:
        return str(error)
    except Exception as error:  # one bad image must not stop the run
        return f"{image.path}: {type(error).__name__}: {error}"
    write_region_map(target_of(job.out, image), regions)
    return None
