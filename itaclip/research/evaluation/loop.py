"""The evaluation loop: segments batches, counts pixels, writes masks and overlays; a bad image does not stop it."""

from __future__ import annotations

import itaclip.research.openmmlab  # noqa: F401 - first: it makes mmseg importable, or says what to install

# isort: split

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine import dist
from numpy.typing import NDArray

from itaclip.common.figures import result_figure, save_mask
from itaclip.common.figures.palette import palette
from itaclip.errors import ItaclipError
from itaclip.files import atomic_path, refuse_inputs
from itaclip.research.evaluation.counts import IoUCounts, Sparse, to_sparse
from itaclip.research.evaluation.identity import digest
from itaclip.research.evaluation.journal import Entry, Journal
from itaclip.research.evaluation.loading import load_batches, plan_batches
from itaclip.research.openmmlab import ITACLIPSegmentor
from itaclip.research.openmmlab.loading import image_as_loaded, loading_of


@dataclass
class Outcome:
    """Outcome of a run, over all processes.

    Attributes:
        counts: confusion matrices, summed.
        images: number of evaluated images.
        skipped: path and reason of every image that could not be evaluated.
        seconds: time spent in the model, including the earlier runs that this one resumed.
        resumed: number of images that earlier runs had evaluated.
        ignored: number of pixels of the evaluated masks that are ignored.
    """

    counts: IoUCounts
    images: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    resumed: int = 0
    ignored: int = 0


@dataclass(frozen=True)
class OutputFolders:
    """Where to write the masks and overlays of a data set.

    Attributes:
        masks: folder for label maps, PNG under each image's own name; None for none.
        overlays: folder for figures with image, ground truth, prediction and legend; None for none.
    """

    masks: Path | None = None
    overlays: Path | None = None

    def complete(self, name: Path) -> bool:
        """Tell whether all outputs of an image exist."""
        targets = [folder / name.with_suffix(".png") for folder in (self.masks, self.overlays) if folder]
        return all(target.is_file() and target.stat().st_size for target in targets)

    def check(self, dataset: Any) -> None:
        """Check that no output would replace an image or a ground truth of the data set.

        Raises:
            ItaclipError: one would.
        """
        folders = [folder for folder in (self.masks, self.overlays) if folder]
        if not folders:
            return
        found = [dataset.get_data_info(i) for i in range(len(dataset))]
        inputs = [info[key] for info in found for key in ("img_path", "seg_map_path") if info.get(key)]
        names = [own_name(info["img_path"], dataset).with_suffix(".png") for info in found]
        refuse_inputs((folder / name for folder in folders for name in names), inputs, "choose another folder")

    def write(self, sample: Any, predicted: NDArray[np.int64], dataset: Any, distractors: Sequence[str] = ()) -> None:
        """Write the outputs of an image; distractors follow the classes of the data set."""
        name = own_name(sample.img_path, dataset).with_suffix(".png")
        classes, colors = (*dataset.metainfo["classes"], *distractors), list(dataset.metainfo["palette"])
        colors += palette(len(classes))[len(colors) :]
        if self.masks:
            with atomic_path(self.masks / name) as partial:
                save_mask(predicted, colors, partial)
        if self.overlays:
            truth = sample.gt_sem_seg.data[0].cpu().numpy()
            image = image_as_loaded(sample.img_path, loading_of(dataset))
            with atomic_path(self.overlays / name) as partial:
                result_figure(image, predicted, classes, truth, colors).save(partial)


def evaluate(
    model: ITACLIPSegmentor,
    dataset: Any,
    *,
    batch_size: int = 1,
    num_workers: int = 0,
    limit: int | None = None,
    outputs: OutputFolders | None = None,
    journal: Journal | None = None,
    meet: Callable[[], None] = lambda: None,
    advance: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Segment a data set and count pixels; in a distributed run, share the work with the other processes.

    Args:
        model: segmentor on its device.
        dataset: MMSegmentation data set in test mode.
        batch_size: images per batch; they may differ in size.
        num_workers: loading processes; 0 loads in this process.
        limit: evaluate only the first images.
        outputs: folders for masks and overlays.
        journal: results of earlier runs, extended by this run. Batches with unreadable images
            are not recorded, because the images may be repaired before the next run.
        meet: barrier, called when this process has finished its share.
        advance: called with the number of images done since the last call.

    Raises:
        ItaclipError: a file that cannot be written or would replace an input, or a loading process
            that was killed.
    """
    outputs = outputs or OutputFolders()
    outputs.check(dataset)
    plan = plan_batches(len(dataset), batch_size, limit)
    outcome = Outcome(IoUCounts(len(dataset.metainfo["classes"])))
    extra = model.classes.names[len(dataset.metainfo["classes"]) :]
    names, done = [""] * len(plan), set[str]()
    if journal:
        names, done = _restore(journal, dataset, plan, outputs, outcome)
        advance(outcome.resumed)
    waiting = [(name, batch) for name, batch in zip(names, plan, strict=True) if name not in done]
    mine = waiting[dist.get_rank() :: dist.get_world_size()]
    loaded = load_batches(dataset, [batch for _, batch in mine], num_workers)
    for (name, indices), (batch, skipped) in zip(mine, loaded, strict=True):
        began = time.perf_counter()
        samples, refused = _segment(model, batch)
        seconds = time.perf_counter() - began
        counts: list[Sparse] = []
        ignored = 0
        for sample in samples:
            predicted = sample.pred_sem_seg.data[0]
            matrix = outcome.counts.add(predicted, sample.gt_sem_seg.data[0])
            outputs.write(sample, predicted.cpu().numpy(), dataset, extra)
            counts.append(to_sparse(matrix))
            ignored += predicted.numel() - int(matrix.sum())
        outcome.skipped += skipped + refused
        outcome.images += len(counts)
        outcome.seconds += seconds
        outcome.ignored += ignored
        if journal and len(counts) == len(indices):  # last: it states that all outputs exist
            images = [str(own_name(sample.img_path, dataset)) for sample in samples]
            journal.write(name, Entry(images, counts, seconds, ignored))
        advance(len(indices) * dist.get_world_size())
    meet()
    outcome.counts.add_from_other_processes()
    parts = dist.all_gather_object((outcome.images, outcome.seconds, outcome.ignored, outcome.skipped))
    outcome.images = sum(images for images, *_ in parts)
    outcome.seconds = sum(seconds for _, seconds, *_ in parts)
    outcome.ignored = sum(ignored for _, _, ignored, _ in parts)
    outcome.skipped = sorted(pair for *_, pairs in parts for pair in pairs)
    return outcome


def own_name(path: str, dataset: Any) -> Path:
    """Return the image's path relative to the image folder, never outside it; links keep their names."""
    try:
        return Path(os.path.abspath(path)).relative_to(os.path.abspath(dataset.data_prefix["img_path"]))  # noqa: PTH100
    except (ValueError, KeyError):
        return Path(Path(path).name)


def _segment(model: ITACLIPSegmentor, batch: dict[str, list[Any]]) -> tuple[list[Any], list[tuple[str, str]]]:
    """Segment a batch; if that is impossible, return no results, and path and reason for each image."""
    if not batch["inputs"]:
        return [], []
    try:
        samples = model.predict(**model.data_preprocessor(batch, False), all_scores=False)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return samples, []
    except (ItaclipError, torch.OutOfMemoryError) as error:
        reason = str(error).splitlines()[0]
        return [], [(sample.img_path, reason) for sample in batch["data_samples"]]


# --- resuming ------------------------------------------------------------------


def _restore(
    journal: Journal, dataset: Any, plan: Sequence[range], outputs: OutputFolders, outcome: Outcome
) -> tuple[list[str], set[str]]:
    """Add the results of earlier runs; return the names of all batches and of the finished ones."""
    share = range(dist.get_rank(), len(plan), dist.get_world_size())  # each process checks some of the files
    gathered = dist.all_gather_object({i: _identify(dataset, plan[i], outputs) for i in share})
    found = {i: named for part in gathered for i, named in part.items()}
    entries, done = journal.restore({name for name, complete in found.values() if complete})
    for entry in entries.values():
        for cells in entry.counts:
            outcome.counts.add_sparse(cells)
        outcome.images += len(entry.counts)
        outcome.seconds += entry.seconds
        outcome.ignored += entry.ignored
    names = [found[i][0] for i in range(len(plan))]
    outcome.resumed = sum(len(batch) for name, batch in zip(names, plan, strict=True) if name in done)
    return names, done


def _identify(dataset: Any, indices: range, outputs: OutputFolders) -> tuple[str, bool]:
    """Name a batch so that the name changes with its files, and tell whether all its outputs exist."""
    files: list[Any] = [indices.start]
    complete = True
    for info in (dataset.get_data_info(i) for i in indices):
        name = own_name(info["img_path"], dataset)
        files.append([str(name), *(_stamp(info.get(key)) for key in ("img_path", "seg_map_path"))])
        complete = complete and outputs.complete(name)
    return digest(files), complete


def _stamp(path: str | None) -> list[int]:
    """Return the size in bytes and modification time in ns of a file; empty if it does not exist."""
    try:
        status = Path(path or "").stat()
        return [status.st_size, status.st_mtime_ns]
    except OSError:
        return []
