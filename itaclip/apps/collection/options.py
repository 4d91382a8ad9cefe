"""What a caller says about a run, and what a run reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from itaclip.apps.collection.locations import Storage
from itaclip.errors import ItaclipError


@dataclass(frozen=True)
class LabelOptions:
    """How to label a collection. `column`, `key`, `part_size` and `masks` must stay the same to resume a run.

    Attributes:
        column: for tables, the column with the images' bytes or addresses; for archives, the
            extension of the images. None detects it.
        key: for tables, the column whose values name the images; None names them by file and row.
        part_size: images per result file, 1 or more, 128 by default; also the most that a crash can cost.
        masks: whether to write PNG masks too, in tar archives.
        storage: fsspec options by protocol, such as ``{"s3": {"endpoint_url": ...}}``.
        address: address of a Ray cluster, or "auto" on one of its machines; None starts Ray here.
        workers: number of segmenters, 1 or more; None uses one per GPU, or without GPUs as many as the cores allow.
        threads: CPU threads per worker, 1 or more, for decoding and, without a GPU, for segmenting; None uses up to 4.
        batch: images per batch, 1 or more, 4 by default; a worker holds as many in memory.
        limit_rate: images per second over all workers, more than 0; None sets no limit.
        max_errors: images that may fail in this run, 0 or more, before it stops; None never stops it.
        retry_errors: whether to relabel units with failed images.
        overwrite: whether to delete results of other settings from the destination.
        coco: file, local or at an fsspec address, for the masks of all images in COCO's format,
            written at the end; None writes none.
        coco_skip: names of classes to leave out there.

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
    coco: str | None = None
    coco_skip: Sequence[str] = ()

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
                f"address = {self.address!r}: Ray Client is not supported; submit the command with `ray job submit`, "
                "or run it on the head node with the address auto."
            )


@dataclass
class LabelReport:
    """Progress of a run.

    Attributes:
        images: images in the source; None for archives, which are not counted in advance.
        units: units in the source.
        kept: units finished by earlier runs.
        finished: units finished, including the kept ones.
        done: images processed in this run, including failed ones.
        failed: images that could not be labelled in this run.
        reasons: why the first of them failed.
        busy: seconds spent segmenting, summed over all workers.
        workers: number of segmenters.
        gpu: whether they run on GPUs.
        seconds: since Ray could start the first worker.
        skipped: folders of the source that were left out, because an earlier run filled them.
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
    skipped: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def share(self) -> float:
        """Share of time that the workers spent segmenting, in [0, 1]."""
        return min(1.0, self.busy / (self.seconds * self.workers)) if self.seconds else 0.0

    @property
    def left(self) -> float | None:
        """Estimated seconds left; None until this run has finished a unit."""
        now = self.finished - self.kept
        return self.seconds / now * (self.units - self.finished) if now else None
