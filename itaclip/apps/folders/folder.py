"""Segment many files on one machine: write their results one by one, resume interrupted runs.

OUT/run.json                 everything the results depend on, so that runs never mix
OUT/masks/NAME.png           class ids under the image's own name
OUT/overlays/NAME.jpg
OUT/results.jsonl            a line per image, written after its files; results.jsonl.lock excludes other processes
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from itaclip.apps.folders.batches import read_ahead, reason_of, segment_batch, write_behind
from itaclip.apps.folders.finding import Item
from itaclip.apps.folders.journal import RUN, Journal
from itaclip.apps.folders.video import segment_video
from itaclip.apps.run_key import run_key
from itaclip.common import figures
from itaclip.common.images import read_image
from itaclip.errors import ItaclipError
from itaclip.files import atomic_path, local_path, refuse_inputs
from itaclip.formats.coco import CocoFile, CocoMask, encoded
from itaclip.formats.segments import segments_of
from itaclip.result import Result
from itaclip.segmenter import Segmenter
from itaclip.vocabulary import Vocabulary

_OF_ONE_FILE = (None, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)  # errors that no other file will meet
_JPEG_SIDE = 65_500  # pixels, the most that JPEG libraries write


@dataclass
class Report:
    """Summary of a run.

    Attributes:
        done: images segmented in this run.
        kept: images kept from an earlier run.
        failed: error messages by image name.
    """

    done: int = 0
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def segment_folder(
    segmenter: Segmenter,
    vocabulary: Vocabulary,
    items: Sequence[Item],
    out: Path,
    *,
    batch: int = 4,
    overlays: bool = True,
    every: int = 1,
    overwrite: bool = False,
    coco: Path | None = None,
    coco_skip: Sequence[str] = (),
    advance: Callable[[int], None] = lambda _: None,
) -> Report:
    """Segment files into a folder, resuming an earlier run.

    While a batch is segmented, one thread reads the next and another writes the one before. A file
    counts as done once its line is written, after its mask and overlay, so an interrupted run repeats
    at most two batches. A file that cannot be read, segmented or written gets a line with
    the reason, whatever it raises; the next run tries it again, as it does a
    video that is cut off, whose frames are kept.

    Args:
        segmenter: the segmenter to run.
        vocabulary: the classes.
        items: the files.
        out: folder for the results.
        batch: images per batch, 1 or more, 4 by default; three batches are held in memory.
        overlays: whether to write overlays too.
        every: for videos, segment every n-th frame, 1 or more, 1 by default.
        overwrite: whether to replace the results of a different run in `out`.
        coco: file for the masks of all these images and frames in COCO's format, written at the end.
        coco_skip: names of classes to leave out there.
        advance: called with the number of files done since the last call.

    Raises:
        ItaclipError: `out` holds results of other settings or files of other origin, is in use by
            another process, or cannot be written; an output would replace an input.
    """
    out = local_path(out, "`itaclip label` writes to addresses.")
    items = list(items)
    inputs = [item.path for item in items]
    if coco is not None:
        refuse_inputs([coco], inputs, "choose another --coco")
        collected = CocoFile(coco, vocabulary.names, coco_skip)
    with Journal(out, run_key(segmenter, vocabulary) | {"every": every}, overwrite) as journal:
        if coco is not None:
            refuse_inputs([coco], [out / RUN], "choose another --coco")
        items = journal.placed(items)
        refuse_inputs(_outputs(items, out, overlays), inputs, "choose another --out")
        kinds = ("mask", "overlay") if overlays else ("mask",)
        waiting = [item for item in items if not journal.done(item.name, kinds)]
        report = Report(kept=len(items) - len(waiting))
        advance(report.kept)

        def record(item: Item, line: dict[str, Any]) -> None:
            journal.add(item.name, line)
            if "error" in line:
                report.failed[item.name] = line["error"]
            else:
                report.done += 1

        images = [item for item in waiting if not item.is_video]
        read = read_ahead(lambda item: read_image(item.path, segmenter.read_options), images, batch)
        segmented = ((chunk, segment_batch(segmenter, vocabulary, of_chunk)) for chunk, of_chunk in read)
        for chunk, lines in write_behind(lambda item, result: _line(item, result, out, overlays), segmented):
            for item, line in zip(chunk, lines, strict=True):
                record(item, line)
            journal.flush()
            advance(len(chunk))
        for item in waiting:
            if item.is_video:
                record(item, _segment_video(segmenter, vocabulary, item, out, batch, every, overlays, journal))
                journal.flush()
                advance(1)
        if coco is not None:
            with collected:
                for item, line in journal.lines(items):
                    _collect(collected, item, line, out, vocabulary.names)
    return report


def _line(item: Item, result: Result | str, out: Path, overlays: bool) -> dict[str, Any]:
    """Write mask and overlay of an image; return its line, or one with the reason why there are none.

    Raises:
        ItaclipError: the disk takes no file at all: it is full, or may not be written.
    """
    if isinstance(result, str):
        return {"error": result}
    try:
        return _write(item, result, out, overlays)
    except ItaclipError as error:
        if getattr(error.__cause__, "errno", None) in _OF_ONE_FILE:
            return {"error": str(error)}
        raise
    except Exception as error:  # whatever an image raises, the run goes on
        return {"error": reason_of(error)}


def _segment_video(
    segmenter: Segmenter,
    vocabulary: Vocabulary,
    item: Item,
    out: Path,
    batch: int,
    every: int,
    overlays: bool,
    journal: Journal,
) -> dict[str, Any]:
    """Segment a video and return its line; masks of a file that was cut off are kept as long as the file stays the
    same."""
    try:
        earlier, size = journal.bytes_of(item.name), item.path.stat().st_size
        changed = earlier is not None and earlier != size
        line = segment_video(
            segmenter, vocabulary, item.path, item.stem, out, batch, every, overlays, replace=changed
        )  # fmt: skip
    except Exception as error:  # whatever a video raises, the run goes on
        return {"error": reason_of(error)}
    return line | {"bytes": size} if "error" in line else line


def _outputs(items: Iterable[Item], out: Path, overlays: bool) -> Iterator[Path]:
    """Yield all masks and overlays that a run may replace."""
    for item in items:
        video = item.is_video
        if video:
            yield from (out / "masks" / item.stem).glob("*.png")
        else:
            yield out / "masks" / f"{item.stem}.png"
        if overlays:
            yield out / "overlays" / f"{item.stem}{'.mp4' if video else '.jpg'}"


def _collect(coco: CocoFile, item: Item, line: Mapping[str, Any], out: Path, names: Sequence[str]) -> None:
    """Add an image, or the frames of a video, to a COCO file."""
    size = line["height"], line["width"]
    if not item.is_video:
        coco.add(item.name, size, _coco_masks(out / line["mask"], names, line.get("scores", {})))
        return
    for frame in sorted((out / line["mask"]).glob("*.png")):
        coco.add(f"{item.name}/{frame.name}", size, _coco_masks(frame, names, {}))


def _coco_masks(mask: Path, names: Sequence[str], scores: Mapping[str, float]) -> Iterator[CocoMask]:
    try:
        with Image.open(mask) as opened:
            labels: NDArray[np.integer] = np.asarray(opened)
    except OSError as error:
        raise ItaclipError(f"{mask}: cannot be read ({error}); delete it and run again.") from error
    for label in np.unique(labels).tolist():
        found = labels == label
        yield CocoMask(label, encoded(found), int(found.sum()), scores.get(names[label]))


def _write(item: Item, result: Result, out: Path, overlays: bool) -> dict[str, Any]:
    """Write mask and overlay of an image; return its line."""
    mask = Path("masks") / f"{item.stem}.png"
    line = {key: value for key, value in result.summary().items() if key not in ("image", "classes")}
    found = segments_of(result.labels, result.names, result.scores.own)
    line["scores"] = {segment.name: round(segment.score, 6) for segment in found}
    with atomic_path(out / mask) as partial:
        figures.save_mask(result.labels, result.colors, partial)
    line["mask"] = mask.as_posix()
    if overlays:
        picture = Path("overlays") / f"{item.stem}.jpg"
        with atomic_path(out / picture) as partial:
            drawn = result.overlay()
            drawn.thumbnail((_JPEG_SIDE, _JPEG_SIDE))  # smaller pictures stay as they are
            drawn.save(partial, "JPEG", quality=90)
        line["overlay"] = picture.as_posix()
    return line
