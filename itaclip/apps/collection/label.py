"""`label`: label a collection with Ray Data and write the results as Parquet.

Ray reads, segments and writes in constant memory. If a process or machine dies, only the parts
that it held are lost, and Ray recomputes them. This module adds what outlives Ray: a fixed plan
of units, and parts whose names encode everything they depend on, so that the same command
resumes an earlier run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray

from itaclip.apps.collection.cluster import allocate, cluster, quiet_ray, unwrapped
from itaclip.apps.collection.locations import Location, checked_address
from itaclip.apps.collection.options import LabelOptions, LabelReport
from itaclip.apps.collection.results import check_coco_target, write_coco
from itaclip.apps.collection.segmenting import SegmentParts, WorkerSetup, provenance_json
from itaclip.apps.collection.sources import open_source
from itaclip.apps.collection.store import Plan, Store, run_digest
from itaclip.apps.collection.transfer import Job, RateLimiter, make_plan, read_units
from itaclip.apps.run_key import follow_run, refuse_other_run, run_key
from itaclip.common.environment import versions
from itaclip.errors import ItaclipError
from itaclip.formats.segments import kept_labels
from itaclip.segmenter import Segmenter
from itaclip.vocabulary import Vocabulary

_MAX_BLOCKS = 4096  # into which the units are divided
_MAX_REASONS = 20  # failure reasons kept in a report


def label(
    source: str | os.PathLike[str],
    classes: Sequence[str | Sequence[str]],
    out: str | os.PathLike[str],
    *,
    background: bool | str | Sequence[str] = True,
    definitions: Mapping[str, str] | None = None,
    options: LabelOptions | None = None,
    watch: Callable[[LabelReport], None] = lambda _: None,
    **segmenter: Any,
) -> LabelReport:
    """Label a collection of images on this machine or on a Ray cluster; read the results with `read_labels`.

    After any interruption, call it again to resume: it keeps finished parts and labels no image
    twice. An image that cannot be read gets a row with the reason.

    Examples:
        >>> itaclip.label("s3://bucket/photos", ["cat", "sofa, couch"], "s3://bucket/labels")

    Args:
        source: a folder or pattern of images, a ``.txt`` file of paths and addresses, ``.parquet``
            tables or ``.tar`` archives; local or at any fsspec address.
        classes: see `Segmenter.prepare`.
        out: folder for the results, local (shared, on a cluster) or at an fsspec address.
        background: see `Segmenter.prepare`.
        definitions: see `Segmenter.prepare`.
        options: see `LabelOptions`.
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
    """Label a collection as `label` does, with a custom segmenter.

    Args:
        source: see `label`.
        out: see `label`.
        load: creates the segmenter, in this process and in the workers; takes `device`.
        choose: returns the classes; called in this process only.
        device: "auto", "cpu" or "cuda".
        options: see `label`.
        watch: see `label`.

    Raises:
        ItaclipError: see `label`.
    """
    options = options or LabelOptions()
    if device not in ("auto", "cpu", "cuda"):
        raise ItaclipError(f"device = {device!r}: expected auto, cpu or cuda; Ray assigns each worker its GPU.")
    source, out = checked_address(source, "SOURCE"), checked_address(out, "DEST")
    open_source(source, options.storage, options.column, options.key)  # report wrong options before starting Ray
    store = Store(Location(out, options.storage))
    coco = _coco_target(options, store)
    job = Job(source, out, options.column, options.key, options.part_size, options.storage)
    with cluster(options.address), unwrapped():
        known, planning = store.read_run(), None
        if known is None:
            store.check_free()
            planning = _start_planning(job, overwrite=False)  # while the segmenter loads
        follow_run(known and known[0])
        segmenter = load(device="cpu")
        vocabulary = choose(segmenter)
        kept_labels(vocabulary.names, options.coco_skip)  # report unknown names before the work
        key = run_key(segmenter, vocabulary) | {
            "source": source, "column": options.column, "key": options.key, "part_size": options.part_size,
            "masks": options.masks,
        }  # fmt: skip
        plan = _opened(store, job, key, known, planning, options.overwrite)
        digest = run_digest(key, plan)
        done, started = _finished(store, plan, digest, options.retry_errors)
        allocation = allocate(options.workers, options.threads, device, segmenter.settings)
        setup = WorkerSetup(
            load, "cuda" if allocation.gpu else "cpu", segmenter.fingerprint, vocabulary,
            provenance_json(segmenter, vocabulary, key, versions()), options.batch, allocation.threads, options.masks,
            dict(segmenter.pipeline.choices),
        )  # fmt: skip
        del segmenter
        limiter = ray.remote(num_cpus=0)(RateLimiter).remote(options.limit_rate) if options.limit_rate else None
        job = replace(job, digest=digest, started=started, limiter=limiter)
        kept = int(done.sum())
        report = LabelReport(plan.images, plan.units, kept, kept, workers=allocation.workers, gpu=allocation.gpu,
                             skipped=plan.skipped)  # fmt: skip
        watch(report)
        if kept < plan.units:
            _run(job, setup, np.flatnonzero(~done), allocation.available, report, options.max_errors, watch)
        if coco is not None:
            write_coco(store, plan.units, digest, coco, options.coco_skip)
        store.location.clear_partial()
        return report


def _start_planning(job: Job, overwrite: bool) -> ray.ObjectRef[Plan]:
    """Write the plan in another process, so that the driver's memory does not grow."""
    return ray.remote(num_cpus=0)(make_plan).remote(job, overwrite=overwrite)


def _opened(
    store: Store, job: Job, key: dict[str, Any], known: tuple[dict[str, Any], Plan] | None,
    planning: ray.ObjectRef[Plan] | None, overwrite: bool,
) -> Plan:  # fmt: skip
    """Continue the run that the destination holds, or start one, and return its plan.

    Args:
        store: the destination.
        job: what to plan.
        key: what this run's results depend on.
        known: key and plan of the run in the destination.
        planning: the plan in preparation, if the destination holds no run.
        overwrite: whether to replace a run with another key.

    Raises:
        ItaclipError: the destination holds results of another run, or the source cannot be listed.
    """
    if known is not None and known[0] == key:
        return known[1]
    if known is not None and not overwrite:
        refuse_other_run(store.location, known[0], key)
    plan: Plan = ray.get(planning or _start_planning(job, overwrite=True))
    store.write_run(key, plan)
    return plan


def _finished(
    store: Store, plan: Plan, digest: str, retry_errors: bool
) -> tuple[NDArray[np.bool_], dict[int, frozenset[int]]]:
    """Return which units are finished, and the finished parts of others; failed images unfinish theirs on request."""
    done, started = store.finished(plan.units, digest)
    if retry_errors:
        for unit in store.remove_failed(plan.units, digest):
            done[unit] = False
            started.pop(unit, None)
    return done, started


def _coco_target(options: LabelOptions, store: Store) -> Location | None:
    """Check and return the COCO file to write; None for none."""
    if options.coco is None:
        return None
    target = Location(checked_address(options.coco, "coco"), options.storage)
    check_coco_target(target)
    if target.address == (store.location / "run.json").address:
        raise ItaclipError(f"{target}: holds what the results depend on; choose another file for COCO.")
    return target


def _run(
    job: Job,
    setup: WorkerSetup,
    units: NDArray[np.int64],
    available: int,
    report: LabelReport,
    max_errors: int | None,
    watch: Callable[[LabelReport], None],
) -> None:
    """Label units and update the report."""
    began = time.perf_counter()
    with quiet_ray():
        blocks = [pa.table({"unit": numbers}) for numbers in np.array_split(units, min(len(units), _MAX_BLOCKS))]
        cores = {"num_gpus": 1, "num_cpus": 1} if report.gpu else {"num_cpus": setup.threads}
        pool = ray.data.ActorPoolStrategy(
            min_size=1, max_size=report.workers, initial_size=min(available, report.workers),
            max_tasks_in_flight_per_actor=2, max_concurrent_calls_per_actor=2, enable_true_multi_threading=True,
        )  # fmt: skip
        parts = (
            ray.data.from_arrow(blocks)
            # Readers wait for disks and networks; they need no core.
            .map_batches(read_units, fn_kwargs={"job": job}, concurrency=2 * report.workers, batch_size=None,
                         batch_format="pyarrow", num_cpus=0)
            .map_batches(SegmentParts, fn_constructor_args=(setup, job), compute=pool, batch_size=1,
                         batch_format="pyarrow", **cores)
        )  # fmt: skip
        counts: dict[int, list[int]] = {}
        for table in parts.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for row in table.to_pylist():
                if row["fatal"] is not None:
                    raise ItaclipError(f"{row['fatal']} Finished parts are kept; run the same command to resume.")
                report.done += row["images"]
                report.failed += row["failed"]
                report.reasons += row["reasons"][: _MAX_REASONS - len(report.reasons)]
                report.busy += row["seconds"]
                report.finished += _completes(counts, job.started, row)
            report.seconds = time.perf_counter() - began
            watch(report)
            if max_errors is not None and report.failed > max_errors:
                raise ItaclipError(
                    f"stopped: {report.failed} images failed, and max_errors is {max_errors}. The first: "
                    f"{'; '.join(report.reasons[:3])} Finished parts are kept."
                )


def _completes(counts: dict[int, list[int]], started: Mapping[int, frozenset[int]], row: Mapping[str, Any]) -> bool:
    """Tell whether a part completes its unit; `counts` holds the numbers of parts seen and expected per unit."""
    unit = row["unit"]
    seen = counts.setdefault(unit, [len(started.get(unit, ())), 0])
    seen[0] += 1
    if row["end"]:
        seen[1] = row["part"] + 1
    if seen[0] == seen[1]:
        del counts[unit]
        return True
    return False
