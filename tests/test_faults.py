"""Every writer on a full disk."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.datasets import BaseSegDataset
from mmseg.structures import SegDataSample
from PIL import Image

from itaclip.common.demo.dataset import ensure_demo_dataset
from itaclip.core.text.cache import TextCache
from itaclip.errors import ItaclipError
from itaclip.files import write_json, write_text
from itaclip.formats.coco import CocoFile, CocoMask, encoded
from itaclip.research.comparison.cells import Cell, Result
from itaclip.research.comparison.report import write_report
from itaclip.research.evaluation.journal import Entry, Journal
from itaclip.research.evaluation.loop import OutputFolders
from itaclip.research.preparation.masks import write_label_map

LIMIT = 300  # bytes per file; everything written here is larger


@contextmanager
def full_disk() -> Iterator[None]:
    """Limit the size of files to `LIMIT`. Nothing may be printed meanwhile, because output goes to a file too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def noise(*shape: int) -> Any:
    return np.random.default_rng(0).integers(0, 20, shape, dtype=np.uint8)


def pictures(kind: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        image = folder.parent / "image.jpg"
        sample = SegDataSample(metainfo={"img_path": str(image)})
        sample.gt_sem_seg = PixelData(data=torch.zeros(1, 30, 40, dtype=torch.int64))
        metainfo = {"classes": [f"class {i}" for i in range(20)], "palette": [[i, i, i] for i in range(20)]}
        dataset = BaseSegDataset(metainfo=metainfo, data_prefix={"img_path": str(image.parent)}, lazy_init=True,
                                 pipeline=[{"type": "LoadImageFromFile"}])  # fmt: skip
        OutputFolders(**{kind: folder}).write(sample, noise(30, 40).astype(np.int64), dataset)

    return write


def many_images(folder: Path) -> None:
    with CocoFile(folder / "coco.json", ["a", "b"]) as coco:
        for n in range(1000):
            coco.add(f"{n}.jpg", (1, 2), [CocoMask(1, encoded(np.array([[False, True]])), 1)])


RESULT = Result(Cell("configs/cfg_demo.py", "clip", "common", "off"), "DemoDataset", False, error="x" * 400)

WRITERS: dict[str, Callable[[Path], Any]] = {
    "text": lambda folder: write_text(folder / "text.txt", "x" * 1000),
    "json": lambda folder: write_json(folder / "metrics.json", list(range(1000))),
    "label map": lambda folder: write_label_map(folder / "map.png", noise(30, 40)),
    "mask of an evaluation": pictures("masks"),
    "overlay of an evaluation": pictures("overlays"),
    "report of a comparison": lambda folder: write_report([RESULT], folder / "results"),
    "journal": lambda folder: Journal(folder, {}).write("b", Entry(["x.jpg"], [list(range(1000))], 0.0)),
    "COCO file": many_images,
    "demo": lambda folder: ensure_demo_dataset(folder / "demo", scenes=1),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_an_error_that_names_the_file(writer: str, tmp_path: Path) -> None:
    """And no partial file remains, under its final name or another one."""
    Image.fromarray(noise(30, 40, 3)).save(tmp_path / "image.jpg")
    folder = tmp_path / "out"
    with (
        full_disk(),
        pytest.raises(ItaclipError, match=rf"{folder}.*cannot be written \((File too large|no space left)\)"),
    ):
        WRITERS[writer](folder)
    left = [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []
    if writer == "journal":  # an incomplete line is expected; the next run skips it
        assert Journal(folder, {}).restore(["b"]) == ({}, set())
    else:
        assert left == []


def test_a_full_disk_costs_the_text_cache_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = TextCache(tmp_path)
    with full_disk():
        cache.put({"key": torch.ones(500)})
    assert "cannot be cached on disk" in caplog.text
    assert list(cache.get(["key"])) == ["key"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
