"""Small hand-made data sets in the official layouts, and a way to run programs as a user does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image
from processes import run_python

ROOT = Path(__file__).parent.parent


def environment() -> dict[str, str]:
    """Environment as after `pip install -e .`, without a proxy between the tests and their servers."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "NO_PROXY": "*", "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}


def run_script(script: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program of the checkout and wait for it."""
    return run_python(ROOT / script, *map(str, arguments), env=environment(), timeout=80, **options)


def write_mask(path: Path, labels: ArrayLike, mode: str = "L") -> Path:
    """Write a label map as greyscale or paletted PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(labels, np.uint8), "L")
    if mode == "P":
        image = Image.fromarray(np.asarray(labels, np.uint8), "P")
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(path)
    return path


def write_image(path: Path, height: int = 4, width: int = 6) -> Path:
    """Write a small RGB image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (200, 100, 50)).save(path)
    return path


def read(path: Path) -> np.ndarray:
    """The stored values of a PNG."""
    with Image.open(path) as image:
        return np.array(image)


def visible(folder: Path) -> list[str]:
    """Sorted relative paths of all files below a folder, including hidden ones."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def fails_clearly(done: subprocess.CompletedProcess[str], *parts: str, status: int = 2) -> None:
    """Check for the exit status and a single message that contains `parts`, without a traceback."""
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1
    for part in parts:
        assert part in done.stderr


def lines(path: Path) -> Sequence[str]:
    """The lines of a text file."""
    return path.read_text(encoding="utf-8").splitlines()
