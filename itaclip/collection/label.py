"""`label`: a collection in, Parquet out, on Ray Data.

Ray reads, segments and writes, in flat memory; a process or machine that dies costs the
parts that it held, which Ray makes again. What is added here is what outlives Ray: a fixed
plan of units, and parts whose names tell what they depend on, so that the same command goes
on where a former one ended.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray

from itaclip.collection.places import Place, Storage, checked_address
from itaclip.collection.segmenting import Recipe, SegmentParts, describe
from itaclip.collection.sources import open_source
from itaclip.collection.store import Plan, Store, run_digest
from itaclip.collection.transfer import Job, Pace, make_plan, read_units
from itaclip.errors import ItaclipError
from itaclip.evaluation.report import versions
from itaclip.labelling.folder import run_key
from itaclip.segmenter import Segmenter
from itaclip.vocabulary import Vocabulary

_OBJECT_STORE = 2 * 2**30  # bytes at most, where Ray is started here; parts on their way lie in it
_BLOCKS = 4096  # at most, that the units are dealt out in
_THREADS = 4  # of a worker without a GPU, where the machine has them
_TOLD = 20  # reasons of failures that a report keeps


@dataclass(frozen=True)
class LabelOptions:
    """How a collection is labelled; none of the first five may change when a run is continued.

    Attributes:
        column: of a table, the images' bytes or addresses; of archives, the ending of images. None finds it.
        key: of a table, the column whose values name the images; None names them by file and row.
        part_size: images per file of results, which is also what a death can cost.
        masks: also write PNG masks, in tars.
        storage: options of fsspec by protocol, such as ``{"s3": {"endpoint_url": ...}}``.
        address: of a Ray cluster, or "auto" on one of its machines; None starts Ray here.
        workers: segmenters at work; None takes one per GPU, or without GPUs as many as `threads` allow.
        threads: of each worker, for computing without a GPU and for decoding; None takes up to 4.
        batch: images per step.
        limit_rate: images per second over all workers, at most.
        max_errors: stop when more images than that have failed in this run.
        retry_errors: label units again that have failed images.
        overwrite: drop results of other settings in the destination.

    Raises:
        ItaclipError: a value outside its range.
    """

    column: str | None = None
    key: str | None = None
    part_size: int = 128
    masks: bool = False
    storage: Storage = field(default_factory=dict, repr=False)
    address: str | None = None
    workers: int | None = None
    threads: int | None = None
    batch: int = 4
    limit_rate: float | None = None
    max_errors: int | None = None
    retry_errors: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("part_size", "batch", "workers", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ItaclipError(f"{name} = {value}: expected 1 or more.")
        if self.limit_rate is not None and not self.limit_rate > 0:
            raise ItaclipError(f"limit_rate = {self.limit_rate}: expected more than 0 images per second.")
        if self.max_errors is not None and self.max_errors < 0:
            raise ItaclipError(f"max_errors = {self.max_errors}: expected 0 or more.")
        if self.address is not None and self.address.startswith("ray://"):
            raise ItaclipError(
                f"address = {self.address!r}: a collection is labelled from within its cluster; submit the command "
                "with `ray job submit`, or run it on the head node with the address auto."
            )


@dataclass
class LabelReport:
    """What a run has done so far.

    Attributes:
        images: in the source; None while archives were not counted.
        units: in the source.
        kept: units finished by former runs.
        finished: units finished, the kept ones included.
        done: images labelled now, failed ones included.
        failed: images that could not be labelled now.
        reasons: why, of the first of them.
        busy: seconds that segmenters were at work, all of them together.
        workers: segmenters at work.
        gpu: whether they run on GPUs.
        seconds: since the first worker could begin.
    """

    images: int | None
    units: int
    kept: int
    finished: int
    done: int = 0
    failed: int = 0
    reasons: list[str] = field(default_factory=list)
    busy: float = 0.0
    workers: int = 1
    gpu: bool = False
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def share(self) -> float:
        """Share of their time that segmenters were at work, in [0, 1]."""
        return min(1.0, self.busy / (self.seconds * self.workers)) if self.seconds else 0.0

    @property
    def left(self) -> float | None:
        """Seconds left, by units; None before one was finished."""
        now = self.finished - self.kept
        return self.seconds / now * (self.units - self.finished) if now else None


def label(
    source: str | os.PathLike[str],
    classes: Sequence[str | Sequence[str]],
    out: str | os.PathLike[str],
    *,
    background: bool | Sequence[str] = True,
    definitions: Mapping[str, str] | None = None,
    options: LabelOptions | None = None,
    watch: Callable[[LabelReport], None] = lambda _: None,
    **segmenter: Any,
) -> LabelReport:
    """Label a collection of images, on this machine or on a Ray cluster; read it with `read_labels`.

    Run again after an interruption of any kind, it goes on: finished parts are kept, and no
    image comes twice. An image that cannot be read gets a row that tells the reason.

    Example:
        >>> itaclip.label("s3://bucket/photos", ["cat", "sofa, couch"], "s3://bucket/labels")

    Args:
        source: a folder or pattern of images, a ``.txt`` of paths and addresses, ``.parquet``
            tables or ``.tar`` archives; local or at any address of fsspec.
        classes: as for `Segmenter.prepare`.
        out: folder of the results, local (on a cluster: shared) or at an address of fsspec.
        background: as for `Segmenter.prepare`.
        definitions: as for `Segmenter.prepare`.
        options: how; see `LabelOptions`.
        watch: called with the report after every part.
        segmenter: arguments of `Segmenter`; every machine must be able to load the weights.

    Raises:
        ItaclipError: bad input, too many errors, or a destination that cannot be written.
    """
    device = segmenter.pop("device", "auto")
    return label_with(
        source, out, partial(Segmenter, **segmenter), lambda made: made.prepare(classes, background, definitions),
        device=device, options=options, watch=watch,
    )  # fmt: skip


def label_with(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    load: Callable[..., Segmenter],
    choose: Callable[[Segmenter], Vocabulary],
    *,
    device: str = "auto",
    options: LabelOptions | None = None,
    watch: Callable[[LabelReport], None] = lambda _: None,
) -> LabelReport:
    """Label a collection with a segmenter of one's own making; else as `label`.

    Args:
        source: as for `label`.
        out: as for `label`.
        load: makes the segmenter, here and in the workers; takes `device`.
        choose: gives the classes, here.
        device: "auto", "cpu" or "cuda".
        options: as for `label`.
        watch: as for `label`.

    Raises:
        ItaclipError: as `label`.
    """
    options = options or LabelOptions()
    if device not in ("auto", "cpu", "cuda"):
        raise ItaclipError(f"device = {device!r}: expected auto, cpu or cuda; Ray chooses the GPU of each worker.")
    source, out = checked_address(source, "SOURCE"), checked_address(out, "DEST")
    open_source(source, options.storage, options.column, options.key)  # wrong options are told before Ray is started
    store = Store(Place(out, options.storage))
    with _cluster(options.address), _unwrapped():
        known = store.read_run()
        job = Job(source, out, options.column, options.key, options.part_size, options.storage)
        list_source = ray.remote(num_cpus=0)(make_plan)  # outside the driver, whose memory stays as it is
        if known is None:
            store.check_free()
        planning = None if known else list_source.remote(job, overwrite=False)
        segmenter = load(device="cpu")
        vocabulary = choose(segmenter)
        key = run_key(segmenter, vocabulary) | {
            "source": source, "column": options.column, "key": options.key, "part_size": options.part_size,
            "masks": options.masks,
        }  # fmt: skip
        if known and known[0] != key:
            different = [name for name in key if known[0].get(name) != key[name]]
            if not options.overwrite:
                raise ItaclipError(
                    f"{store.place}: holds results of another run (other {', '.join(different)}); take another folder, "
                    "or overwrite to replace them."
                )
            planning = list_source.remote(job, overwrite=True)
        if planning is not None:
            plan: Plan = ray.get(planning)
            store.write_run(key, plan)
        else:
            assert known is not None
            plan = known[1]
        digest = run_digest(key, plan)
        done, begun = store.finished(plan.units, digest)
        if options.retry_errors:
            for unit in store.failed(plan.units, digest):
                store.remove(unit, digest)
                done[unit] = False
                begun.pop(unit, None)
        crew = _crew(options, device, segmenter.settings.dtype)
        recipe = Recipe(
            load, "cuda" if crew.gpu else "cpu", segmenter.fingerprint, vocabulary,
            describe(segmenter, vocabulary, key, versions()), options.batch, crew.threads, options.masks,
        )  # fmt: skip
        pace = ray.remote(num_cpus=0)(Pace).remote(options.limit_rate) if options.limit_rate else None
        job = replace(job, digest=digest, begun=begun, pace=pace)
        del segmenter
        kept = int(done.sum())
        report = LabelReport(plan.images, plan.units, kept, kept, workers=crew.workers, gpu=crew.gpu)
        watch(report)
        if kept < plan.units:
            _run(job, recipe, np.flatnonzero(~done), crew.fitting, report, options.max_errors, watch)
        store.place.clear_partial()
        return report


def _run(
    job: Job,
    recipe: Recipe,
    units: NDArray[np.int64],
    fitting: int,
    report: LabelReport,
    most: int | None,
    watch: Callable[[LabelReport], None],
) -> None:
    """Label units, and count what comes out."""
    began = time.perf_counter()
    with _quiet():
        blocks = [pa.table({"unit": part}) for part in np.array_split(units, min(len(units), _BLOCKS))]
        cores = {"num_gpus": 1, "num_cpus": 1} if report.gpu else {"num_cpus": recipe.threads}
        pool = ray.data.ActorPoolStrategy(
            min_size=1, max_size=report.workers, initial_size=min(fitting, report.workers),
            max_tasks_in_flight_per_actor=2, max_concurrent_calls_per_actor=2, enable_true_multi_threading=True,
        )  # fmt: skip
        parts = (
            ray.data.from_arrow(blocks)
            # Who waits for disks and networks needs no core.
            .map_batches(read_units, fn_kwargs={"job": job}, concurrency=2 * report.workers, batch_size=None,
                         batch_format="pyarrow", num_cpus=0)
            .map_batches(SegmentParts, fn_constructor_args=(recipe, job), compute=pool, batch_size=1,
                         batch_format="pyarrow", **cores)
        )  # fmt: skip
        counts: dict[int, list[int]] = {}
        for table in parts.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for row in table.to_pylist():
                if row["fatal"] is not None:
                    raise ItaclipError(f"{row['fatal']} Finished parts are kept; the same command goes on.")
                report.done += row["images"]
                report.failed += row["failed"]
                report.reasons += row["reasons"][: _TOLD - len(report.reasons)]
                report.busy += row["seconds"]
                report.finished += _completes(counts, job.begun, row)
            report.seconds = time.perf_counter() - began
            watch(report)
            if most is not None and report.failed > most:
                raise ItaclipError(
                    f"stopped: {report.failed} images failed, and max_errors is {most}. The first: "
                    f"{'; '.join(report.reasons[:3])} Finished parts are kept."
                )


def _completes(counts: dict[int, list[int]], begun: Mapping[int, frozenset[int]], row: Mapping[str, Any]) -> bool:
    """Whether a part was the last that its unit waited for; `counts` has parts seen and expected."""
    unit = row["unit"]
    seen = counts.setdefault(unit, [len(begun.get(unit, ())), 0])
    seen[0] += 1
    if row["end"]:
        seen[1] = row["part"] + 1
    if seen[0] == seen[1]:
        del counts[unit]
        return True
    return False


class _Crew(NamedTuple):
    """How many segmenters are wanted, how many find room now, whether on GPUs, and threads of each."""

    workers: int
    fitting: int
    gpu: bool
    threads: int


def _crew(options: LabelOptions, device: str, dtype: str) -> _Crew:
    """Who works.

    Raises:
        ItaclipError: a GPU, or as many cores as a worker takes, are on no machine.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(machine.get("GPU", 0) for machine in machines))
    if device == "cuda" and not gpus:
        raise ItaclipError("device = 'cuda': the cluster has no GPU; start its machines with theirs, or take cpu.")
    if gpus and device != "cpu" and dtype != "int8":
        return _Crew(options.workers or gpus, gpus, True, options.threads or _THREADS)
    cores = [int(machine.get("CPU", 0)) for machine in machines]
    threads = options.threads or max(1, min(_THREADS, *(count for count in cores if count), max(cores)))
    fitting = sum(count // threads for count in cores)
    if not fitting:
        raise ItaclipError(f"no machine has {threads} cores for a worker; the largest has {max(cores)}: lower threads.")
    return _Crew(options.workers or fitting, fitting, False, threads)


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Join a cluster, or start Ray here, and leave it in the end; a caller's own is left as it is."""
    if ray.is_initialized():
        yield
        return
    own: dict[str, Any] = {}
    if address is None:
        own = {"include_dashboard": False}
        if hasattr(os, "sysconf"):  # Windows has none, and leaves the share to Ray
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            own["object_store_memory"] = min(_OBJECT_STORE, memory // 4)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    try:
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ItaclipError(f"address = {address!r}: no Ray cluster answers ({reason}).") from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray Data without its own bars and reports; one part a block, however large."""
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 1
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with ray.data.DataContext.current(context), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The maximum number of concurrent tasks")  # small collections have fewer
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _unwrapped() -> Iterator[None]:
    """What a worker said of bad input, without Ray's wrapping."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        told = getattr(error, "cause", None)
        if not isinstance(told, ItaclipError):
            raise
        raise ItaclipError(str(told)) from None
