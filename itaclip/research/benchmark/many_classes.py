"""Seconds and memory over the number of classes, each case in a process of its own.

A checkout of another version can run beside this one: a program of a few lines does the same with both.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from itaclip.errors import ItaclipError

_PROGRAM = """
import json, resource, sys, time
import cv2, numpy as np, torch, torch.nn.functional as F
from itaclip import Segmenter
case = json.loads(sys.argv[1])
model = Segmenter(case["model"], text_cache=False, **case["settings"])
model.set_classes(["sky"])
bank = model.vocabulary.bank
names = bank.class_names.__class__(tuple((f"class {i}",) for i in range(case["classes"])))
width, generator = bank.features.shape[1], torch.Generator().manual_seed(0)
features = F.normalize(torch.randn(case["classes"], width, generator=generator), dim=-1)
bank = bank.__class__(features, names)
height, wide = case["size"]
random = np.random.default_rng(0)
mixed = sum(
    weight * cv2.resize(random.random((height // part + 1, wide // part + 1, 3)), (wide, height), interpolation=2)
    for weight, part in ((0.6, 100), (0.3, 25), (0.1, 6))
).clip(0, 1)
side = case["short_side"] or model.short_side
resized = cv2.resize(mixed, (round(side * wide / height), side), interpolation=3).clip(0, 1)
pixels = torch.from_numpy(resized).permute(2, 0, 1).float()
pixels = (pixels - 0.45) / 0.27
seconds = []
for _ in range(case["repeats"]):
    began = time.perf_counter()
    ((_, _, found),) = model._pipeline.variants([pixels], [(height, wide)], [(model.settings, bank)])
    seconds.append(time.perf_counter() - began)
np.save(case["labels"], found.labels.numpy())
print(json.dumps({"seconds": min(seconds), "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


@dataclass(frozen=True)
class Case:
    """One image with random text features.

    Attributes:
        classes: number of classes, one query each.
        size: height and width of the image in pixels.
        model: as for `Segmenter`.
        settings: arguments of `Segmenter`: the quality and settings.
        short_side: pixels of the short side as it is encoded; None for the model's own.
        repeats: runs, of which the fastest counts.
    """

    classes: int
    size: tuple[int, int] = (480, 640)
    model: str = "demo"
    settings: tuple[tuple[str, Any], ...] = (("quality", "fast"),)
    short_side: int | None = None
    repeats: int = 3

    def changed(self, **settings: Any) -> Case:
        """Add further settings to the case."""
        pairs = tuple((dict(self.settings) | settings).items())
        return Case(self.classes, self.size, self.model, pairs, self.short_side, self.repeats)


def run_case(case: Case, checkout: Path | None = None) -> tuple[dict[str, float], NDArray[np.int64]]:
    """Seconds and peak memory in MiB of a case, and its labels.

    Args:
        case: what to run.
        checkout: root of another version's checkout; None runs this one.

    Raises:
        ItaclipError: the program failed.
        MemoryError: the system killed it; nothing else sends that signal here.
    """
    with tempfile.TemporaryDirectory() as folder:
        labels = Path(folder) / "labels.npy"
        content = {"classes": case.classes, "size": case.size, "model": case.model, "settings": dict(case.settings),
                   "short_side": case.short_side, "repeats": case.repeats, "labels": str(labels)}  # fmt: skip
        root = checkout or Path(__file__).parents[3]
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, json.dumps(content)], capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": str(root)}, cwd=folder,
        )  # fmt: skip
        if done.returncode == -signal.SIGKILL:
            raise MemoryError(f"{case.classes} classes with {root} need more memory than there is")
        if done.returncode:
            raise ItaclipError(f"{case.classes} classes with {root}: {done.stderr.strip()[-500:]}")
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found, np.load(labels)


def compared(cases: Sequence[Case], other: Path | None, most: int) -> list[dict[str, Any]]:
    """Run cases, and beside each the same with another version if it has at most `most` classes.

    A case for which the other version finds no memory has no further values.
    """
    rows = []
    for case in cases:
        found, labels = run_case(case)
        row: dict[str, Any] = {
            "size": f"{case.size[0]} x {case.size[1]}", "model": Path(case.model).stem, "classes": case.classes,
            "seconds": found["seconds"], "MiB": found["MiB"],
        }  # fmt: skip
        if other is not None and case.classes <= most:
            try:
                theirs, expected = run_case(case, other)
            except MemoryError:
                rows.append(row | {"other": "out of memory"})
                continue
            again, _ = run_case(case)
            row["seconds"] = min(row["seconds"], again["seconds"])
            row |= {"other seconds": theirs["seconds"], "other MiB": theirs["MiB"],
                    "times as fast": theirs["seconds"] / row["seconds"],
                    "equal labels": float((labels == expected).mean())}  # fmt: skip
        rows.append(row)
    return rows


def shortlists(case: Case, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Measure the effect of shortlists of several lengths: seconds, and the share of equal labels."""
    whole, expected = run_case(case)
    rows = []
    for number in numbers:
        found, labels = run_case(case.changed(shortlist=number))
        rows.append({"classes": case.classes, "shortlist": number, "seconds": found["seconds"],
                     "times as fast": whole["seconds"] / found["seconds"],
                     "equal labels": float((labels == expected).mean())})  # fmt: skip
    return rows
