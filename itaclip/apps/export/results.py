"""Read the results of `itaclip segment` and `itaclip label` one image at a time, for exports."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from itaclip.errors import ItaclipError, install_extra


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """An image of a run.

    Attributes:
        name: name of the image within the run, with ``/`` between folders.
        labels: H x W int32 class ids, indices into the run's names; None if there are none.
        scores: mean score in [0, 1] by class id; empty for frames of videos.
        error: why there are no labels.
    """

    name: str
    labels: NDArray[np.int32] | None
    scores: Mapping[int, float] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class Run:
    """The results of a run.

    Attributes:
        names: K class names.
        background: id of the class that means "none of the others", or None.
        colors: K RGB colours in 0..255, those of the run's overlays.
        images: yields the images; each is read when it is reached.
    """

    names: tuple[str, ...]
    background: int | None
    colors: tuple[tuple[int, int, int], ...]
    images: Iterator[LabelledImage]


def open_run(folder: str | os.PathLike[str]) -> Run:
    """Open the results in a folder.

    Args:
        folder: ``--out`` of `itaclip segment` or `itaclip label`; of the latter also an address such as ``s3://...``.

    Raises:
        ItaclipError: the folder holds no results, or they cannot be read.
    """
    root = Path(os.fspath(folder))
    if "://" in os.fspath(folder) or (root / "plan").is_dir():
        return _labelled(folder)
    description = root / "run.json"
    if not description.is_file() or not (root / "results.jsonl").is_file():
        raise ItaclipError(
            f"{root}: no results (run.json and results.jsonl); pass the --out of `itaclip segment` or `itaclip label`."
        )
    return _run(description.read_bytes(), str(description), lambda names: _segmented(root, names))


def _run(content: bytes, path: str, images: Callable[[tuple[str, ...]], Iterator[LabelledImage]]) -> Run:
    from itaclip.vocabulary import usual_colors

    try:
        key = json.loads(content)
        names = tuple(str(synonyms[0]) for synonyms in key["classes"])
        background = 0 if key["background"] else names.index("background") if "background" in names else None
        own = key.get("colors") or {}
        usual = usual_colors(len(names), bool(key["background"]))
        colors = tuple(
            (r, g, b) for r, g, b in (own.get(name, color) for name, color in zip(names, usual, strict=True))
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise ItaclipError(f"{path}: not written by `itaclip segment`; pass the --out of a run.") from None
    return Run(names, background, colors, images(names))


# --- itaclip segment ---------------------------------------------------------


def _segmented(root: Path, names: Sequence[str]) -> Iterator[LabelledImage]:
    from itaclip.apps.folders.journal import read_lines

    for name, line in read_lines(root).items():
        if "error" in line:  # of a video that is cut off, there are frames all the same
            yield LabelledImage(name, None, error=str(line["error"]))
        if "frames" in line:
            frames = sorted((root / line["mask"]).glob("*.png"))
            if len(frames) != line["frames"]:
                yield LabelledImage(name, None, error=f"{len(frames)} masks for {line['frames']} frames")
            for path in frames:
                yield _read(f"{name}/{path.name}", path, line, names)
        elif "error" not in line:
            yield _read(name, root / line["mask"], line, names)


def _read(name: str, path: Path, line: Mapping[str, Any], names: Sequence[str]) -> LabelledImage:
    try:
        with Image.open(path, formats=["PNG"]) as opened:
            labels = np.asarray(opened).astype(np.int32)
    except Exception as error:  # decoders raise all kinds of exceptions for damaged content
        return LabelledImage(name, None, error=f"{path}: cannot be read ({type(error).__name__}: {error})")
    if labels.shape != (line["height"], line["width"]):
        size = f"{line['height']} x {line['width']}"
        return LabelledImage(name, None, error=f"{path}: has shape {labels.shape}, expected {size}")
    if labels.max() >= len(names):
        reason = f"{path}: has class {labels.max()}, but the run has {len(names)} classes"
        return LabelledImage(name, None, error=reason)
    scores = {label: line["scores"][one] for label, one in enumerate(names) if one in line.get("scores", {})}
    return LabelledImage(name, labels, scores)


# --- itaclip label -----------------------------------------------------------


def _labelled(folder: str | os.PathLike[str]) -> Run:
    try:
        from itaclip.apps.collection.locations import Location, checked_address
        from itaclip.apps.collection.results import read_labels
        from itaclip.apps.collection.store import Store
    except ImportError:
        raise ItaclipError(
            f"{folder}: reading labelled collections requires pyarrow; {install_extra('ray')}."
        ) from None
    images = read_labels(folder)  # also checks that this is a collection
    found = Store(Location(checked_address(folder, "FOLDER"))).read_run()
    assert found is not None

    def converted(names: tuple[str, ...]) -> Iterator[LabelledImage]:
        number = {name: i for i, name in enumerate(names)}
        for one in images:
            scores = {number[name]: score for name, score in one.scores.items()}
            yield LabelledImage(one.key, one.labels, scores, one.error)

    return _run(json.dumps(found[0]).encode(), f"{folder}/run.json", converted)
