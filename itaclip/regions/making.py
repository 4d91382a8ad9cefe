"""Region maps of many images, made once: `tools/make_masks.py`.

OUT/masks.json       the source that made the maps; another one never mixes in
OUT/NAME.npz         the map of an image, under its path below the folder of images
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from itaclip.console import make_console, progress
from itaclip.core.images import read_image
from itaclip.devices import choose_device
from itaclip.errors import ItaclipError
from itaclip.files import IMAGE_SUFFIXES, write_json
from itaclip.preparation.jobs import default_workers, run_jobs
from itaclip.regions.files import write_region_map
from itaclip.regions.source import RegionSource, region_source

FAILED = 1
"""Exit status when an image has no map in the end."""

SETTINGS = "masks.json"


@dataclass(frozen=True)
class Picture:
    """An image, and the name of its map below the folder for maps, without ending."""

    path: Path
    name: str


@dataclass(frozen=True)
class Making:
    """What every process needs to know."""

    spec: str
    device: str
    out: Path
    single_threaded: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    parser = argparse.ArgumentParser(description="Make the region maps of images, once.")
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument("--images", nargs="+", help="folder (searched to any depth), files or patterns")
    images.add_argument("--config", help="configuration of a data set")
    parser.add_argument("--data-root", help="the data set's folder, with --config")
    parser.add_argument(
        "--source", default="sam2", help="sam2, sam2:NAME, sam2:FOLDER, felzenszwalb, slic (default: %(default)s)"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder for the maps")
    parser.add_argument("--jobs", type=int, help="processes (default: one per core, or one with SAM 2 on a GPU)")
    parser.add_argument("--device", default="auto", help="where SAM 2 runs (default: %(default)s)")
    options = parser.parse_args(arguments)
    pictures = (
        pictures_of_config(options.config, options.data_root) if options.config else find_pictures(options.images)
    )
    jobs = default_jobs(options.source, options.device) if options.jobs is None else options.jobs
    return make_masks(pictures, options.source, options.out, jobs, options.device)


def default_jobs(spec: str, device: str) -> int:
    """One process per core, or one alone where they would share a GPU."""
    on_gpu = spec.startswith("sam2") and choose_device(device).type != "cpu"
    return 1 if on_gpu else default_workers()


def make_masks(pictures: Sequence[Picture], spec: str, out: Path, jobs: int = 1, device: str = "auto") -> int:
    """Make the maps that are missing; a map appears under its name only when it is whole.

    Args:
        pictures: the images.
        spec: as `region_source` takes it, but no folder of masks.
        out: where to.
        jobs: processes.
        device: where SAM 2 runs; "auto" takes a GPU when there is one.

    Returns:
        0, or 1 if images failed, each of which is told on standard error.

    Raises:
        ItaclipError: an unknown source, or `out` holds maps of another one, or cannot be written.
    """
    console = make_console()
    claim(out, _source(spec, device))
    waiting = [picture for picture in pictures if not target_of(out, picture).is_file()]
    kept, failed = len(pictures) - len(waiting), 0
    making = Making(spec, device, out, single_threaded=jobs > 1)
    with progress(console, len(pictures), "region maps") as advance:
        advance(kept)
        for reason in run_jobs(partial(_make_one, making), waiting, jobs):
            if reason:
                failed += 1
                sys.stderr.write(f"failed: {reason}\n")
            advance(1)
    console.print(f"region maps: {len(waiting) - failed} written, {kept} already there, {failed} failed.")
    return FAILED if failed else 0


def claim(out: Path, source: RegionSource) -> None:
    """Say in `out` what makes its maps.

    Raises:
        ItaclipError: another source did, or `out` has maps of an unknown one.
    """
    path, own = out / SETTINGS, {"source": source.name, "fingerprint": source.fingerprint}
    try:
        known = json.loads(path.read_bytes()) if path.is_file() else None
    except ValueError as error:
        raise ItaclipError(f"{path}: not JSON ({error}); take another --out, or delete the folder.") from error
    if known is None and out.is_dir() and any(out.rglob("*.npz")):
        raise ItaclipError(f"{out}: holds maps and no {SETTINGS} that tells their source; take another --out.")
    if known not in (None, own):
        told = known if isinstance(known, dict) else {}
        raise ItaclipError(
            f"{out}: holds maps of {told.get('source')} ({told.get('fingerprint')}), not of {source.name} "
            f"({source.fingerprint}); take another --out, or delete the folder."
        )
    if known is None:
        write_json(path, own)


def target_of(out: Path, picture: Picture) -> Path:
    """The file of an image's map."""
    return out / f"{picture.name}.npz"


# --- finding -----------------------------------------------------------------


def find_pictures(inputs: Sequence[str]) -> list[Picture]:
    """Images of folders, files and patterns, in the order of their names.

    Raises:
        ItaclipError: an input that matches nothing, or two images of one name.
    """
    found: dict[Path, None] = {}
    roots = []
    for entry in inputs:
        path = Path(entry)
        if path.is_dir():
            roots.append(path)
            matches = [p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
        else:
            matches = [path] if path.is_file() else [Path(p) for p in glob.glob(entry, recursive=True)]  # noqa: PTH207
            matches = [p for p in matches if p.is_file()]
            roots += [p.parent for p in matches]
        if not matches:
            raise ItaclipError(f"--images {entry}: no image, file or pattern that matches.")
        found.update(dict.fromkeys(sorted(matches)))
    base = Path(os.path.commonpath([root.absolute() for root in roots]))
    return _distinct(Picture(path, str(path.absolute().relative_to(base).with_suffix(""))) for path in found)


def pictures_of_config(config_path: str, data_root: str | None = None) -> list[Picture]:
    """The images that a configuration evaluates.

    Raises:
        ItaclipError: a bad configuration, missing folders or lists.
    """
    from itaclip.evaluation.setup import load_config
    from itaclip.preparation.check import describe, missing_parts

    config = load_config(config_path)
    if data_root:
        config.test_dataloader.dataset.data_root = data_root
    dataset = config.test_dataloader.dataset
    if dataset.type == "DemoDataset":  # drawn where it is missing
        from itaclip.demo.dataset import ensure_demo_dataset

        ensure_demo_dataset(dataset.data_root)
    if missing := missing_parts(config):
        told = "; ".join(f"{what}: {', '.join(kind.examples)}" for what, kind in missing.kinds.items())
        raise ItaclipError(f"{config_path}: {told}. python tools/check_dataset.py tells more.")
    tree = describe(config)
    if tree.names:
        names = [line.strip() for line in tree.names.read_text(encoding="utf-8").splitlines() if line.strip()]
    else:
        names = sorted(
            str(path.relative_to(tree.images))[: -len(tree.image_suffix)]
            for path in tree.images.rglob(f"*{tree.image_suffix}")
        )
    return _distinct(Picture(tree.images / f"{name}{tree.image_suffix}", name) for name in names)


def _distinct(pictures: Iterator[Picture]) -> list[Picture]:
    taken: dict[str, Picture] = {}
    for picture in pictures:
        if picture.name in taken:
            raise ItaclipError(f"{picture.path} and {taken[picture.name].path}: both would become {picture.name}.npz.")
        taken[picture.name] = picture
    return list(taken.values())


# --- making ------------------------------------------------------------------


@cache
def _source(spec: str, device: str) -> RegionSource:
    """A process loads its source once."""
    if Path(spec).is_dir():
        raise ItaclipError(f"--source {spec}: is a folder; maps are made by sam2, felzenszwalb or slic.")
    return region_source(spec, device=device)


def _make_one(making: Making, picture: Picture) -> str | None:
    """Make the map of an image; None, or the reason why there is none."""
    if making.single_threaded:
        import torch

        torch.set_num_threads(1)
    source = _source(making.spec, making.device)
    try:
        regions = source(read_image(picture.path), picture.name)
    except ItaclipError as error:
        return str(error)
    except Exception as error:  # one bad image does not end a run, whatever a library makes of it
        return f"{picture.path}: {type(error).__name__}: {error}"
    write_region_map(target_of(making.out, picture), regions)
    return None
