"""Any image: labels of its own size, or one failed image with a reason; whatever it raises, the run goes on."""

from __future__ import annotations

import asyncio
import base64
import errno
import os
import pkgutil
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import httpx
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from image_helpers import DARK, DEEP, opencv, pillow, tiff
from PIL import Image

import itaclip
from itaclip import ItaclipError, Segmenter
from itaclip.apps.collection.segmenting import SegmentParts
from itaclip.apps.collection.transfer import Job
from itaclip.apps.command.main import main as program
from itaclip.apps.folders import folder as labelling
from itaclip.apps.folders.finding import find_items
from itaclip.apps.folders.folder import segment_folder
from itaclip.apps.folders.journal import read_lines
from itaclip.apps.pipelines import ImageSegmentationPipeline
from itaclip.apps.web.api import make_api
from itaclip.apps.web.job_queue import JobQueue
from itaclip.apps.web.limits import Limits
from itaclip.apps.web.view import view
from itaclip.vocabulary import Vocabulary

CLASSES = ["car, taxi", "cloud"]
SHAPES = [(1, 1), (1, 2), (5000, 1), (1, 5000), (2, 100_000), (7, 3)]
"""Height and width."""


@pytest.fixture(scope="module")
def quick() -> Segmenter:
    """The bundled CLIP on small images, because long narrow ones have many windows."""
    return Segmenter("demo", "fast", pamr_steps=0, short_side=32)


@pytest.fixture(scope="module")
def words(quick: Segmenter) -> Vocabulary:
    return quick.prepare(CLASSES)


def noise(height: int, width: int) -> Any:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file per shape, two that need a value range, and one that is no image."""
    root = tmp_path_factory.mktemp("odd")
    for height, width in SHAPES:
        Image.fromarray(noise(height, width)).save(root / f"{height}x{width}.png")
    (root / "dark.png").write_bytes(opencv(".png", DARK[..., :3]))
    (root / "float.tif").write_bytes(tiff((DEEP[..., 0] / 65535).astype("f4")))
    (root / "words.jpg").write_text("no image")
    return root


BAD = {"dark.png": "nearly black", "float.tif": "need a range", "words.jpg": "not an image"}


# --- shapes ------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("changes", [{}, {"pamr_steps": 2, "map_correction": True}], ids=["plain", "refined"])
def test_any_shape_gets_labels_of_its_own_size(
    quick: Segmenter, words: Vocabulary, shape: tuple[int, int], changes: dict[str, Any]
) -> None:
    result = quick(noise(*shape), words, scores="full", **changes)
    assert result.labels.shape == shape
    assert np.isfinite(result.scores.values).all()
    assert sum(result.areas.values()) == pytest.approx(1)
    assert sum(int(np.asarray(entry["mask"]).astype(bool).sum()) for entry in result.to_hf()) == shape[0] * shape[1]
    assert result.overlay(legend=False).size == shape[::-1]
    assert view(result, b"", False)["labels"]["height"] == shape[0]


def test_a_folder_of_any_shapes(quick: Segmenter, words: Vocabulary, odd: Path, tmp_path: Path) -> None:
    report = segment_folder(quick, words, find_items([odd]), tmp_path, batch=2)
    assert {name: reason for name, reason in report.failed.items() if name not in BAD} == {}
    for name, message in BAD.items():
        assert message in report.failed[name]
    for height, width in SHAPES:
        line = read_lines(tmp_path)[f"{height}x{width}.png"]
        assert (line["height"], line["width"]) == (height, width)
        with Image.open(tmp_path / line["mask"]) as mask, Image.open(tmp_path / line["overlay"]) as overlay:
            assert mask.size == (width, height)
            assert max(overlay.size) <= 65_500


SOURCES = st.tuples(
    st.sampled_from([(1, 1), (1, 9), (8, 1), (3, 5), (40, 30), (2, 7)]),
    st.sampled_from(["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F"]),
    st.sampled_from(["PIL", "PNG", "TIFF", "WEBP", "JPEG", "GIF"]),
)


@given(source=SOURCES)
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@example(source=((8, 1), "F", "TIFF"))
@example(source=((1, 9), "I;16", "PNG"))
def test_any_mode_format_and_shape(
    quick: Segmenter, words: Vocabulary, source: tuple[tuple[int, int], str, str]
) -> None:
    (height, width), mode, kind = source
    assume((mode, kind) != ("YCbCr", "TIFF"))  # Pillow writes files that it cannot read itself
    image = Image.fromarray(noise(height, width)).convert("L").convert("I" if mode == "I;16" else mode).convert(mode)
    try:
        passed: Any = image if kind == "PIL" else pillow(kind, image)
    except (OSError, KeyError, ValueError):  # the format does not have this mode
        return
    try:
        assert quick(passed, words).labels.shape == (height, width)
    except ItaclipError as error:
        assert mode in ("I", "I;16", "F")
        assert "value_range=" in str(error)  # noqa: PT017
        stretched = itaclip.common.images.read_image(passed, itaclip.common.images.ReadOptions(value_range="stretch"))
        assert stretched.shape == (height, width, 3)


# --- whatever is raised ------------------------------------------------------


class StrangeError(Exception):
    """An exception that nobody expects."""


ERRORS: list[Callable[[], BaseException]] = [
    lambda: StrangeError("two\nlines"),
    lambda: cv2.error("resize"),
    lambda: MemoryError(),
    lambda: ZeroDivisionError(""),
    lambda: torch.OutOfMemoryError("out of memory"),
    lambda: ValueError("bad"),
    lambda: RecursionError("deep"),
]

LAYERS = (
    "itaclip.apps.folders.folder.read_image",
    "itaclip.segmenter._resized",
    "itaclip.core.pipeline.Pipeline.variants",
    "itaclip.common.figures.save_mask",
    "itaclip.result.Result.overlay",
)


def raising(layer: str, error: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a layer raise for red images only."""
    place, _, name = layer.rpartition(".")
    owner = pkgutil.resolve_name(place)
    original = getattr(owner, name)

    def replaced(*arguments: Any, **named: Any) -> Any:
        if any(map(_is_red, arguments)):
            raise error()
        return original(*arguments, **named)

    monkeypatch.setattr(owner, name, replaced)


def _is_red(value: Any) -> bool:
    """Whether something comes from the images of 20 x 30 pixels, which are red."""
    if isinstance(value, list):
        return any(map(_is_red, value))
    if isinstance(value, os.PathLike):
        return "red" in os.fspath(value)
    if isinstance(value, torch.Tensor) and value.ndim == 3:
        return bool(value[0].mean() > 1 and value[1].mean() < -1)
    size = getattr(getattr(value, "labels", value), "shape", ())
    return tuple(size[:2]) == (20, 30)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    root = tmp_path / "mixed"
    root.mkdir()
    for number in range(3):
        Image.fromarray(noise(24 + number, 32)).save(root / f"{number}.png")
        if number < 2:
            Image.new("RGB", (30, 20), "red").save(root / f"{number}red.png")
    return root


@pytest.mark.parametrize(
    ("layer", "error"),
    [
        pytest.param(
            layer, ERRORS[(2 * i + j) % len(ERRORS)], id=f"{layer.rpartition('.')[2]}-{(2 * i + j) % len(ERRORS)}"
        )
        for i, layer in enumerate(LAYERS)
        for j in range(3)
    ],
)
def test_one_bad_image_never_ends_a_run(
    layer: str, error: Callable[[], BaseException], quick: Segmenter, words: Vocabulary, mixed: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    raising(layer, error, monkeypatch)
    report = segment_folder(quick, words, find_items([mixed]), tmp_path / "out", batch=2)
    assert (report.done, sorted(report.failed)) == (3, ["0red.png", "1red.png"])
    assert type(error()).__name__ in report.failed["0red.png"]
    assert "\n" not in report.failed["0red.png"]
    assert set(read_lines(tmp_path / "out")) == {path.name for path in mixed.iterdir()}
    monkeypatch.undo()
    again = segment_folder(quick, words, find_items([mixed]), tmp_path / "out")
    assert (again.done, again.kept, again.failed) == (2, 3, {})


@pytest.mark.parametrize("layer", LAYERS)
def test_an_interruption_ends_a_run(
    layer: str, quick: Segmenter, words: Vocabulary, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(layer, KeyboardInterrupt, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        segment_folder(quick, words, find_items([mixed]), tmp_path / "out", batch=2)


@pytest.mark.parametrize("number", ["ENOSPC", "EDQUOT", "EROFS"])
def test_a_disk_that_takes_nothing_ends_a_run(
    number: str, quick: Segmenter, words: Vocabulary, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = getattr(errno, number)

    def full(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(labelling.figures, "save_mask", full)
    with pytest.raises(ItaclipError, match="cannot be written"):
        segment_folder(quick, words, find_items([mixed]), tmp_path / "out", batch=2)


@pytest.mark.parametrize("layer", ["itaclip.apps.collection.segmenting.decode_image", "itaclip.segmenter._resized",
                                   "itaclip.common.figures.mask_png", "itaclip.result.Result.to_coco"])  # fmt: skip
@pytest.mark.parametrize("error", ERRORS[:3:2], ids=lambda make: type(make()).__name__)
def test_one_bad_image_never_ends_a_part_of_a_collection(
    layer: str, error: Callable[[], BaseException], quick: Segmenter, words: Vocabulary, mixed: Path, odd: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    raising(layer, error, monkeypatch)
    if layer.endswith("decode_image"):  # bytes do not tell a size
        original = itaclip.common.images.decode_image

        def replaced(content: bytes, name: str, *options: Any) -> Any:
            if "red" in name:
                raise error()
            return original(content, name, *options)

        monkeypatch.setattr("itaclip.apps.collection.segmenting.decode_image", replaced)
    worker = SegmentParts.__new__(SegmentParts)  # without loading a segmenter
    worker._setup = SimpleNamespace(batch=2, threads=1, vocabulary=words, masks=True, provenance="{}")  # type: ignore[assignment]
    worker._store = Job("", str(tmp_path / "out"), None, None, 9, {}).store()
    worker._digest, worker._fatal, worker._lock, worker._segmenter = "0" * 16, None, threading.Lock(), quick
    paths = [*sorted(mixed.iterdir()), odd / "5000x1.png", odd / "words.jpg"]
    part = {"unit": 0, "part": 0, "end": True, "keys": [path.name for path in paths],
            "contents": [path.read_bytes() for path in paths], "errors": [None] * len(paths)}  # fmt: skip
    (report,) = worker(pa.Table.from_pylist([part])).to_pylist()
    assert report["fatal"] is None
    assert (report["images"], report["failed"]) == (7, 3)
    assert any(type(error()).__name__ in reason for reason in report["reasons"])
    (archive,) = (tmp_path / "out").rglob("*.tar")
    with tarfile.open(archive) as tar:
        assert sorted(tar.getnames()) == ["0.png.png", "1.png.png", "2.png.png", "5000x1.png.png"]


def test_the_pipeline_takes_any_shape_and_names_what_it_cannot_read(
    quick: Segmenter, words: Vocabulary, odd: Path
) -> None:
    segment = ImageSegmentationPipeline(quick, words)
    uri = "data:image/png;base64," + base64.b64encode((odd / "5000x1.png").read_bytes()).decode()
    for form in (odd / "5000x1.png", uri, torch.from_numpy(noise(5000, 1)), (odd / "5000x1.png").read_bytes()):
        (first, *_) = segment(form)
        assert first["mask"].size == (1, 5000)
    for name, message in BAD.items():
        with pytest.raises(ItaclipError, match=message):
            segment(odd / name)


def test_the_server_answers_about_any_image(quick: Segmenter, odd: Path) -> None:
    async def ask(path: Path, output: str) -> httpx.Response:
        transport = httpx.ASGITransport(make_api(quick, "", Limits(megapixels=0.15), JobQueue(1)))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            files = {"image": (path.name, path.read_bytes())}
            data = {"classes": "car; cloud", "refine": "false", "views": "false", "output": output}
            return await client.post("/v1/segment", files=files, data=data)

    for name in ("5000x1.png", "1x5000.png", "1x1.png"):
        for output in ("json", "view", "mask", "overlay", "geojson"):
            assert asyncio.run(ask(odd / name, output)).status_code == 200, (name, output)
    for name, message in BAD.items():
        answer = asyncio.run(ask(odd / name, "json"))
        assert answer.status_code == 422
        assert message in answer.json()["detail"]
    answer = asyncio.run(ask(odd / "2x100000.png", "json"))
    assert (answer.status_code, "--max-megapixels" in answer.json()["detail"]) == (413, True)


# --- the options -------------------------------------------------------------


def labels_of(out: Path, name: str) -> Any:
    with Image.open(out / f"masks/{name}.png") as mask:
        return np.asarray(mask)


def test_value_range_and_largest_of_the_command_line(odd: Path, tmp_path: Path, capfd: Any) -> None:
    """The same labels as from Python; a run with another range is another run."""
    words = ["--classes", "car; cloud", "--model", "demo", "--quality", "fast", "--set", "pamr_steps=0"]
    dark, out = str(odd / "dark.png"), str(tmp_path / "out")
    assert program(["segment", dark, "--out", out, *words]) == 1
    with pytest.raises(ItaclipError, match=r"another run \(different value_range\)"):
        program(["segment", dark, "--out", out, *words, "--value-range", "100,2000"])
    assert program(["segment", dark, "--out", out, *words, "--value-range", "100,2000", "--overwrite"]) == 0
    segmenter = Segmenter("demo", "fast", pamr_steps=0, value_range=(100, 2000))
    segmenter.set_classes(["car", "cloud"])
    np.testing.assert_array_equal(labels_of(tmp_path / "out", "dark"), segmenter(dark).labels)
    with pytest.raises(ItaclipError, match=r"another run \(different value_range\)"):
        program(["segment", dark, "--out", out, *words])
    assert program(["segment", dark, "--out", str(tmp_path / "s"), *words, "--value-range", "stretch"]) == 0
    capfd.readouterr()
    assert program(["segment", dark, "--out", str(tmp_path / "t"), *words, "--largest", "20"]) == 1
    assert "--largest" in capfd.readouterr().out.replace("\n", " ")
    for wrong, message in ((["--value-range", "3"], "expected LOW,HIGH"), (["--largest", "0"], "largest = 0")):
        with pytest.raises(ItaclipError, match=message):
            program(["segment", dark, "--out", str(tmp_path / "u"), *words, *wrong])


@pytest.mark.parametrize("value_range", [(100.0, 2000.0), "stretch", None])
def test_a_saved_segmenter_keeps_how_it_reads(quick: Segmenter, value_range: Any, tmp_path: Path) -> None:
    segmenter = Segmenter("demo", "fast", pamr_steps=0, value_range=value_range, largest=10**6)
    segmenter.set_classes(CLASSES)
    segmenter.save_pretrained(tmp_path / "saved")
    loaded = Segmenter.from_pretrained(tmp_path / "saved")
    assert loaded.read_options == segmenter.read_options
    assert Segmenter.from_pretrained(tmp_path / "saved", value_range=(0, 1)).read_options.value_range == (0, 1)
