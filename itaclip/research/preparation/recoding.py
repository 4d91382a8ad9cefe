"""Convert masks whose colours or grey values stand for classes to masks of class ids."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from itaclip.common.console import make_progress
from itaclip.errors import ItaclipError
from itaclip.files import IMAGE_SUFFIXES, write_json
from itaclip.research.preparation.coding import Coding
from itaclip.research.preparation.conversion import Conversion, RunOptions
from itaclip.research.preparation.findings import Findings
from itaclip.research.preparation.jobs import run_jobs
from itaclip.research.preparation.listing import iterate_files, require_folder
from itaclip.research.preparation.masks import (
    DEEP_MODES,
    GREY_MODES,
    IGNORED,
    PALETTE,
    Color,
    opened_mask,
    write_label_map,
)

RECORD = "conversion.json"

_ARCHIVE = "SegmentationClass"
_SAMPLE = 20
_SHOWN = 12
_LOSSY = ("JPEG", "MPO")
_COLOR_MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "PA")
_MANY = 64  # unknown colours that a file of colours cannot merely lack

Labels = NDArray[np.uint8] | NDArray[np.uint16]


Job: TypeAlias = Conversion[Path]
"""A mask to convert."""


@dataclass(frozen=True)
class Report:
    """What became of a mask.

    Attributes:
        problem: what, remedy and where, as `Findings.add` takes them; None if it was written.
        unknown: pixels by colour, or by value, that the coding does not know.
    """

    problem: tuple[str, str, str] | None
    unknown: Counter[Any]


def codes_of(path: Path, by_value: bool) -> NDArray[np.int64]:
    """Read a mask as one number per pixel.

    Args:
        path: the mask; transparency is dropped, and the orientation in its metadata is not applied.
        by_value: grey values or palette indices; otherwise colours.

    Returns:
        H x W int64: the stored value, or 65536 R + 256 G + B.

    Raises:
        ItaclipError: missing, damaged, or an image of another kind.
    """
    with opened_mask(path) as image:
        if by_value:
            if image.mode not in (*GREY_MODES, *DEEP_MODES):
                raise ItaclipError(f"{path}: image of mode {image.mode}; --values needs one channel. Use --colors.")
            return np.array(image).astype(np.int64)
        if image.mode not in _COLOR_MODES:
            raise ItaclipError(f"{path}: image of mode {image.mode}; expected 8-bit colours. Use --values for grey.")
        rgb = np.array(image.convert("RGBA").convert("RGB")).astype(np.int64)
        return (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]


def recode(codes: NDArray[np.int64], coding: Coding) -> tuple[Labels, Counter[Any]]:
    """Turn codes into class ids, and count the pixels of unknown codes, which become ignored.

    Returns:
        H x W ids, uint8 or uint16; pixels by unknown colour or value.
    """
    known = sorted((_code(key), number) for key, number in coding.ids.items())
    keys = np.array([key for key, _ in known])
    numbers = np.array([number for _, number in known])
    place = np.searchsorted(keys, codes).clip(max=len(keys) - 1)
    found = keys[place] == codes
    labels = np.where(found, numbers[place], coding.ignored)
    values, counts = np.unique(codes[~found], return_counts=True)
    names = values.tolist() if coding.by_value else [_color(value) for value in values.tolist()]
    unknown = Counter(dict(zip(names, counts.tolist(), strict=True)))
    return labels.astype(np.uint16 if coding.deep else np.uint8), unknown


def _code(key: Color | int) -> int:
    return key if isinstance(key, int) else (key[0] << 16) | (key[1] << 8) | key[2]


def _color(code: int) -> Color:
    return code >> 16, code >> 8 & 255, code & 255


def nearest(color: Any, coding: Coding) -> tuple[str, float]:
    """Find the class of the nearest known colour or value, and its Euclidean distance in RGB or in values."""
    if color in coding.ambiguous:
        return coding.ambiguous[color], 0.0
    place = np.atleast_1d(color).astype(float)
    distance, key = min((float(np.linalg.norm(place - np.atleast_1d(known))), known) for known in coding.ids)
    return coding.labels[key], distance  # type: ignore[index]


def convert_one(coding: Coding, ignore_unknown: bool, job: Job) -> Report:
    """Convert one mask and write it.

    Raises:
        ItaclipError: the result cannot be written.
    """
    try:
        with opened_mask(job.source) as image:
            if image.format in _LOSSY:
                return _refused("mask compressed with loss", "JPEG changes colours; export the masks as PNG.", job)
        labels, unknown = recode(codes_of(job.source, coding.by_value), coding)
    except ItaclipError as error:
        return Report(("mask that cannot be read", "Repair it and run the same command again.", str(error)), Counter())
    except MemoryError:
        return _refused("mask that needs too much memory", "Use fewer --workers.", job)
    if unknown and not ignore_unknown:
        if len(unknown) > _MANY:
            report = _refused(f"mask with more than {_MANY} unknown colours", "It was compressed with loss, resized or "
                              "smoothed, or its colours tell instances apart. Export it as PNG with one colour per "
                              "class, in its own size and without anti-aliasing.", job)  # fmt: skip
            return Report(report.problem, unknown)
        what = "unknown values" if coding.by_value else "unknown colours"
        remedy = "Add them to the file of colours, or pass --ignore-unknown to make their pixels ignored."
        return Report((what, remedy, str(job.source)), unknown)
    write_label_map(job.target, labels)
    return Report(None, unknown)


def _refused(what: str, remedy: str, job: Job) -> Report:
    return Report((what, remedy, str(job.source)), Counter())


# --- a folder ----------------------------------------------------------------


def find_jobs(masks: Path, out: Path) -> Iterator[Job]:
    """Yield the masks below a folder, under their own names.

    Raises:
        ItaclipError: two masks would become one file.
    """
    seen: dict[Path, Path] = {}
    for source in sorted(iterate_files(masks, recursive=True)):
        if source.suffix.lower() in IMAGE_SUFFIXES:
            target = out / source.relative_to(masks).with_suffix(".png")
            if target in seen:
                raise ItaclipError(f"{source} and {seen[target]}: both would become {target}. Move one of them away.")
            seen[target] = source
            yield Job(source, target)


def check_places(masks: Path, colors: str | None, out: Path, coding: Coding, force: bool) -> None:
    """Check that nothing is overwritten that this conversion did not write.

    Raises:
        ItaclipError: folders inside each other, an archive, or an output folder with other content.
    """
    require_folder(masks, "pass the folder of the masks.")
    if (masks / _ARCHIVE).is_dir():
        raise ItaclipError(f"{masks}: is a whole archive; pass the folder of its masks, {masks / _ARCHIVE}.")
    inner, outer = masks.resolve(), out.resolve()
    if inner == outer or inner in outer.parents or outer in inner.parents:
        raise ItaclipError(f"--out {out}: overlaps with {masks}; choose a folder beside it.")
    if colors is not None and outer in Path(colors).resolve().parents:
        raise ItaclipError(f"--colors {colors}: lies in --out {out}; choose another folder.")
    if not out.exists():
        return
    if not out.is_dir():
        raise ItaclipError(f"--out {out}: is a file; choose a folder.")
    record = out / RECORD
    if not record.is_file():
        if any(out.iterdir()):
            raise ItaclipError(f"--out {out}: contains files of other programs; choose a new folder.")
        return
    try:
        earlier = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ItaclipError(f"{record}: cannot be read ({error}); choose a new folder.") from error
    current = _record(masks, coding)
    if not isinstance(earlier, dict) or earlier.get("masks") != current["masks"]:
        raise ItaclipError(f"--out {out}: contains masks of another folder; choose a new one.")
    if earlier != current and not force:
        raise ItaclipError(f"--out {out}: contains masks of another conversion; choose a new folder, or pass --force "
                           "to write them anew.")  # fmt: skip


def begin(masks: Path, out: Path, jobs: Sequence[Job], coding: Coding, force: bool) -> None:
    """Write the record of a conversion; if it is forced, remove earlier masks."""
    if force:  # first: an interrupted run must not leave masks that the record does not describe
        for job in jobs:
            job.target.unlink(missing_ok=True)
    write_json(out / RECORD, _record(masks, coding))


def _record(masks: Path, coding: Coding) -> dict[str, Any]:
    return {"masks": str(masks.resolve()), **coding.as_json()}


def check_not_ids(jobs: Sequence[Job], coding: Coding) -> None:
    """Refuse masks whose stored values are ids already, judged by a sample of them.

    Raises:
        ItaclipError: in all readable masks of the sample, the stored values are ids: either grey values that
            are no known colours, or palette indices that the conversion would not change.
    """
    step = max(1, len(jobs) // _SAMPLE)
    paletted = grey = 0
    for job in jobs[::step][:_SAMPLE]:
        try:
            with opened_mask(job.source) as image:
                mode = image.mode
            if mode not in GREY_MODES:
                return
            stored = codes_of(job.source, by_value=True)
            labels, unknown = recode(codes_of(job.source, by_value=False), coding)
        except ItaclipError:
            continue
        values = set(np.unique(stored).tolist()) - {IGNORED}
        if not values <= set(range(coding.first + max(len(coding.names), 2))):
            return
        if mode == PALETTE and not unknown and np.array_equal(stored, labels):
            paletted += 1
        elif mode != PALETTE and values and (unknown or np.array_equal(stored, labels)) and values != {0}:
            grey += 1
        elif values - {0}:
            return
    if paletted + grey:
        how = "the palette only shows them in colour" if paletted else "small grey values look black"
        raise ItaclipError(
            f"{jobs[0].source.parent}: the stored values are class ids already ({how}). Use these masks as they are; "
            "a conversion would change nothing or destroy them."
        )


def convert_masks(jobs: Sequence[Job], coding: Coding, options: RunOptions, ignore_unknown: bool = False) -> int:
    """Convert masks, keep finished ones, and report what could not be converted.

    Args:
        jobs: what to convert.
        coding: what stands for which class.
        options: console, number of processes, whether to redo.
        ignore_unknown: whether pixels of unknown colours become ignored; otherwise their mask fails.

    Returns:
        The number of masks that could not be converted.

    Raises:
        ItaclipError: a result that cannot be written.
    """
    waiting = [job for job in jobs if options.force or not job.target.exists()]
    findings = Findings()
    pixels: Counter[Any] = Counter()
    masks: Counter[Any] = Counter()
    failed = 0
    with make_progress(options.console) as bar:
        task = bar.add_task("masks", total=len(waiting))
        for report in run_jobs(partial(convert_one, coding, ignore_unknown), waiting, options.workers):
            bar.advance(task)
            pixels.update(report.unknown)
            masks.update(report.unknown.keys())
            if report.problem:
                failed += 1
                findings.add(*report.problem)
    console = options.console
    if findings:
        findings.show(console, "masks that were not converted")
    if pixels:
        console.print(_unknown_table(pixels, masks, coding))
    console.print(f"{len(waiting) - failed} written, {len(jobs) - len(waiting)} kept, {failed} failed.")
    return failed


def _unknown_table(pixels: Counter[Any], masks: Counter[Any], coding: Coding) -> Table:
    what = "value" if coding.by_value else "colour"
    rest = f"; the {_SHOWN} most frequent of {len(pixels):,}" if len(pixels) > _SHOWN else ""
    table = Table(title=f"unknown {what}s{rest}", title_justify="left")
    for header in (what, "pixels", "masks", f"nearest known {what}", "distance"):
        table.add_column(header, justify="right" if header in ("pixels", "masks", "distance") else "left")
    for color, count in pixels.most_common(_SHOWN):
        name, distance = nearest(color, coding)
        shown = ",".join(map(str, np.atleast_1d(color).tolist()))
        table.add_row(shown, f"{count:,}", str(masks[color]), name, f"{distance:.0f}")
    return table
