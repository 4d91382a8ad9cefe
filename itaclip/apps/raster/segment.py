"""`segment_raster`: a raster of any size in, its labels with coordinates out.

All windows are encoded once, and their patch logits kept on disk. Then blocks of pixels are
stitched, refined and decided from them. Both halves consist of tasks whose results are files, so
that memory does not grow with the raster, tasks can run anywhere, and an interrupted run continues.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from itaclip.apps.raster.plan import Plan
from itaclip.apps.raster.polygons import check_polygons, write_polygons
from itaclip.apps.raster.source import describe
from itaclip.apps.raster.store import CORRECTED, LABELS, SETTLED, Store
from itaclip.apps.raster.workers import Setup, Stage, Workers, here, on_ray
from itaclip.apps.raster.writing import Target, digest_of, write_labels, write_scores
from itaclip.apps.run_key import follow_folder, run_key
from itaclip.core.decision import large_classes
from itaclip.core.methods import METHODS, WholeImageMethod
from itaclip.core.patch_logits import windows_per_batch
from itaclip.core.pipeline import Pipeline
from itaclip.core.settings import Settings
from itaclip.core.windows import WindowPlan
from itaclip.errors import ItaclipError
from itaclip.files import local_path, refuse_inputs
from itaclip.formats.segments import kept_labels
from itaclip.segmenter import Segmenter
from itaclip.vocabulary import Vocabulary

_LOCAL_REGIONS = ("felzenszwalb", "slic", "sam2", "sam2-64")
_ROOM = 1.1  # bytes of disk asked for, in those of the logits


@dataclass(frozen=True)
class RasterOptions:
    """How to read a raster, what to write, and where to work.

    Attributes:
        bands: numbers of the bands shown as red, green and blue, from 1, or of one shown as grey; None
            decides by what the raster says about its colours, and else takes 1, 2 and 3.
        resolution: side of a pixel at which CLIP looks and for which labels are written, in units of the
            coordinate reference system (metres, degrees), or in pixels of a raster without
            coordinates, more than 0; None keeps the raster's own.
        stretch: percentiles in [0, 100], the lower first, that become black and white, taken from the
            raster's valid pixels over all bands together.
        value_range: values that become black and white. Without either, 8 bits stay as they are, 16 bits
            that use their range keep their 8 higher bits, and all else is refused.
        scores: file for the score of every pixel's best class; None writes none.
        cog: whether to write Cloud-Optimised GeoTIFF.
        polygons: file for the outlines, ``.gpkg``, ``.geojson`` or ``.parquet``; None writes none.
        simplify: how far the outlines may lie from the pixels' edges, in units of the coordinate
            reference system, 0 or more, 0 by default.
        polygons_skip: names of classes without outlines.
        workers: segmenters, 1 or more; None uses this process alone, or with `address` all machines.
        threads: CPU threads per worker, 1 or more; None uses up to 4.
        address: address of a Ray cluster, or "auto" on one of its machines; None stays on this one.
        overwrite: whether to replace results of other settings.

    Raises:
        ItaclipError: a value outside its range.
    """

    bands: Sequence[int] | None = None
    resolution: float | None = None
    stretch: tuple[float, float] | None = None
    value_range: tuple[float, float] | None = None
    scores: str | os.PathLike[str] | None = None
    cog: bool = False
    polygons: str | os.PathLike[str] | None = None
    simplify: float = 0.0
    polygons_skip: Sequence[str] = ()
    workers: int | None = None
    threads: int | None = None
    address: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("workers", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ItaclipError(f"{name} = {value}: expected 1 or more.")
        if self.polygons is None and (self.simplify or self.polygons_skip):
            raise ItaclipError("simplify and polygons_skip belong to polygons, which is missing.")


@dataclass
class RasterReport:
    """Progress of a run, and its result.

    Attributes:
        stage: what is being done.
        done: tasks of the stage that are done, those of earlier runs included.
        total: tasks of the stage.
        left: estimated seconds until the end of the stage; None before the first task of this run.
        kept: tasks of all stages that earlier runs had done.
        seconds: since the first task could start.
        areas: share of the pixels with data, in (0, 1], of every class that occurs; empty before the end.
        polygons: number of polygons written.
        notes: what the user should know about how the raster is read.
    """

    stage: str = "starting"
    done: int = 0
    total: int = 0
    left: float | None = None
    kept: int = 0
    seconds: float = 0.0
    areas: dict[str, float] = field(default_factory=dict)
    polygons: int = 0
    notes: list[str] = field(default_factory=list)


def segment_raster(
    source: str | os.PathLike[str],
    classes: Sequence[str | Sequence[str]],
    out: str | os.PathLike[str],
    *,
    background: bool | Sequence[str] = True,
    definitions: Mapping[str, str] | None = None,
    options: RasterOptions | None = None,
    watch: Callable[[RasterReport], None] = lambda _: None,
    **segmenter: Any,
) -> RasterReport:
    """Label a georeferenced raster of any size, in memory that does not grow with it.

    The labels equal those of the same settings on the whole raster in memory (docs/rasters.md has
    the details). After any interruption, call it again to continue.

    Examples:
        >>> itaclip.segment_raster("town.tif", ["road, street", "house", "tree"], "labels.tif")

    Args:
        source: a raster that GDAL opens: a path, ``s3://``, ``https://``, a VRT, ...
        classes: see `Segmenter.prepare`.
        out: GeoTIFF to write: class ids, uint8 or above 255 classes uint16. Pixels without data hold
            the nodata value. Beside it lies a folder with the work so far, until it is done.
        background: see `Segmenter.prepare`.
        definitions: see `Segmenter.prepare`.
        options: see `RasterOptions`.
        watch: called with the report after every task.
        segmenter: arguments of `Segmenter`; every machine must be able to load the weights.

    Raises:
        ItaclipError: bad input, settings that need the whole image at once, or no room on the disk.
    """
    device = segmenter.pop("device", "auto")
    return segment_raster_with(
        source, out, partial(Segmenter, **segmenter), lambda made: made.prepare(classes, background, definitions),
        device=device, options=options, watch=watch,
    )  # fmt: skip


def segment_raster_with(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    load: Callable[..., Segmenter],
    choose: Callable[[Segmenter], Vocabulary],
    *,
    device: str = "auto",
    options: RasterOptions | None = None,
    watch: Callable[[RasterReport], None] = lambda _: None,
) -> RasterReport:
    """Label a raster as `segment_raster` does, with a custom segmenter.

    Args:
        source: see `segment_raster`.
        out: see `segment_raster`.
        load: creates the segmenter, in this process and in workers; takes `device`.
        choose: returns the classes; called in this process only.
        device: as for `Segmenter`; on Ray "auto", "cpu" or "cuda".
        options: see `segment_raster`.
        watch: see `segment_raster`.

    Raises:
        ItaclipError: see `segment_raster`.
    """
    options = options or RasterOptions()
    out = local_path(out, "Write to a file first, then upload it.")
    outputs = [out, *(local_path(path) for path in (options.scores, options.polygons) if path is not None)]
    _check_outputs(outputs, source)
    report = RasterReport()
    description, report.notes = describe(
        source, options.bands, options.resolution, options.stretch, options.value_range
    )
    if options.polygons is not None:
        check_polygons(Path(options.polygons), description.crs is not None, options.simplify)
    on_workers = options.workers not in (None, 1) or options.address is not None
    work = out.with_name(f"{out.name}.work")
    follow_folder(work)
    segmenter = load(device="cpu" if on_workers else device)
    vocabulary = choose(segmenter)
    kept_labels(vocabulary.names, options.polygons_skip)  # report unknown names before the work
    settings = segmenter.for_vocabulary(vocabulary)
    _check_settings(settings, description.height * description.width)
    watch(report)
    windows = _windows(segmenter.pipeline, (description.height, description.width))
    per_batch = windows_per_batch(segmenter.pipeline.settings, segmenter.device)
    queries = len(vocabulary.bank.features)
    plan = Plan.of((description.height, description.width), queries, settings, per_batch)
    key = run_key(segmenter, vocabulary) | {
        "source": description.key(), "plan": plan.key(), "scores": options.scores is not None, "cog": options.cog,
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    if any(digest_of(path) != digest for path in outputs[: 1 + (options.scores is not None)]):
        if not options.overwrite and (taken := [path for path in outputs if os.path.lexists(path)]):
            raise ItaclipError(f"{taken[0]}: exists, with other settings or from elsewhere; choose another name, or "
                               "overwrite it (--overwrite).")  # fmt: skip
        store = Store(work, plan, windows)
        setup = Setup(load, segmenter.fingerprint, vocabulary, description, store.folder, plan, windows,
                      options.scores is not None, dict(segmenter.pipeline.choices))  # fmt: skip
        with store.in_use(key, options.overwrite):
            _check_room(store)
            workers: AbstractContextManager[Workers] = (
                on_ray(setup, options.address, options.workers, options.threads, device, segmenter)
                if on_workers else here(setup, segmenter)
            )  # fmt: skip
            with workers as team:
                _Run(team, store, plan, settings, report, watch).all(windows)
            target = Target(description, plan, vocabulary, digest, options.cog)
            _say(report, "writing", watch)
            if options.scores is not None:
                write_scores(Path(options.scores), target, store)
            counts = write_labels(out, target, store)
        store.remove()
        report.areas = _areas(counts, vocabulary.names)
        if not report.areas:
            report.notes.append("no pixel has data: all labels are nodata")
    if options.polygons is not None:
        _say(report, "polygons", watch)
        report.polygons = write_polygons(
            Path(options.polygons), out, vocabulary.names, options.simplify, options.polygons_skip
        )
    _say(report, "done", watch)
    return report


class _Run:
    """The stages of a run, one after the other."""

    def __init__(
        self, team: Workers, store: Store, plan: Plan, settings: Settings, report: RasterReport,
        watch: Callable[[RasterReport], None],
    ) -> None:  # fmt: skip
        self._team, self._store, self._plan, self._settings = team, store, plan, settings
        self._report, self._watch = report, watch
        self._began = time.perf_counter()

    def all(self, windows: WindowPlan) -> None:
        """Encode all units, decide all blocks, and apply what needs all of them."""
        store, blocks = self._store, range(self._plan.blocks)
        self._stage("encoding", range(self._plan.units(windows)), store.has_logits)
        self._stage("deciding", blocks, lambda block: store.has_block(LABELS, block))
        if self._settings.area_thd is not None:
            found = [store.read_block(block, LABELS) for block in blocks]
            counts = torch.from_numpy(np.sum([block.counts for block in found], axis=0))
            dropped = (~large_classes(counts, self._settings.area_thd)).nonzero().flatten().tolist()
            again = [number for number in blocks if found[number].present[dropped].any()]
            del found
            self._stage("area rule", again, lambda block: store.has_block(SETTLED, block), dropped)
        if self._settings.map_correction:
            self._stage("map correction", blocks, lambda block: store.has_block(CORRECTED, block))

    def _stage(
        self, stage: Stage, numbers: Sequence[int], done: Callable[[int], bool], dropped: Sequence[int] = ()
    ) -> None:
        report = self._report
        waiting = [number for number in numbers if not done(number)]
        report.stage, report.total, report.left = stage, len(numbers), None
        report.done = len(numbers) - len(waiting)
        report.kept += report.done
        self._watch(report)
        began = time.perf_counter()
        for count, _ in enumerate(self._team.run(stage, waiting, dropped), start=1):
            now = time.perf_counter()
            report.done += 1
            report.left = (now - began) / count * (report.total - report.done)
            report.seconds = now - self._began
            self._watch(report)


def _say(report: RasterReport, stage: str, watch: Callable[[RasterReport], None]) -> None:
    report.stage, report.done, report.total, report.left = stage, 0, 0, None
    watch(report)


def _areas(counts: Any, names: Sequence[str]) -> dict[str, float]:
    total = int(counts.sum())
    order = np.argsort(-counts, kind="stable")
    return {names[int(i)]: float(counts[i] / total) for i in order if counts[i]}


def _windows(pipeline: Pipeline, size: tuple[int, int]) -> WindowPlan:
    """Plan the windows of a raster, with the patches of the encoder on whose grid the logits are."""
    settings = pipeline.settings
    windows = pipeline.plan(torch.empty(3, *size, device="meta"))
    if not METHODS[settings.method].reads_features:
        return windows
    rows, columns = windows.grid_of(pipeline.second_encoder(settings.second_encoder).patch_size)
    return WindowPlan(replace(windows.rows, patches=rows), replace(windows.columns, patches=columns))


def _check_settings(settings: Settings, pixels: int) -> None:
    """Refuse settings that need the whole raster at once."""
    method = METHODS.get(settings.method)
    by_windows = method is not None and not (
        isinstance(method, WholeImageMethod) or method.reads_regions or method.reads_image
    )
    checks = [
        (by_windows, "method", "a method that reads windows one by one, such as itaclip or proxyclip"),
        (settings.alias_temperature is None, "alias_temperature", "None for rasters"),
        (settings.shortlist is None, "shortlist", "None for rasters: it would be chosen from the whole raster"),
        (not settings.peak_thd, "peak_thd", "0 for rasters: it compares with the best pixel of the whole raster"),
        (not settings.tolerance, "tolerance", "0 for rasters (quality exact, balanced or fast): when to stop depends "
         "on the whole raster"),
        (settings.slide_crop > 0, "slide_crop", "more than 0: the whole raster in one window has no limit"),
        (not settings.map_correction or settings.regions in _LOCAL_REGIONS, "regions",
         f"{', '.join(_LOCAL_REGIONS)}; a folder holds maps of whole images"),
    ]  # fmt: skip
    for holds, name, expected in checks:
        if not holds:
            raise ItaclipError(f"{name} = {getattr(settings, name)!r}: expected {expected}.")


def _check_outputs(outputs: Sequence[Path], source: str | os.PathLike[str]) -> None:
    """Refuse outputs that replace the source or each other, or that have no folder."""
    refuse_inputs(outputs, [source], "choose another name")
    if len({path.absolute() for path in outputs}) < len(outputs):
        raise ItaclipError("--out, --scores and --polygons: expected different files.")
    for path in outputs[:1]:
        if path.suffix.lower() not in (".tif", ".tiff"):
            raise ItaclipError(f"--out {path}: labels are written as GeoTIFF; expected a name that ends in .tif.")
    for path in outputs:
        if not path.parent.is_dir():
            raise ItaclipError(f"{path}: there is no folder {path.parent}; make it, or choose another name.")


def _check_room(store: Store) -> None:
    """Refuse to start what the disk cannot hold."""
    there = sum(path.stat().st_size for path in (store.folder / "logits").glob("*"))
    needed = int(store.bytes_of_logits() * _ROOM) - there
    free = shutil.disk_usage(store.folder).free
    if needed > free:
        raise ItaclipError(
            f"{store.folder}: the work needs {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free. Choose "
            "--out on a larger disk, a coarser --resolution, or fewer windows (--quality fast)."
        )
