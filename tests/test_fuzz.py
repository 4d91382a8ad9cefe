"""Any input gives a result or an error message, never another exception."""

from __future__ import annotations

import io
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save as save_safetensors

from itaclip.apps.command.main import main as program
from itaclip.common.images import LARGEST, read_image
from itaclip.core.clip.weights import read_weights
from itaclip.core.settings import Settings
from itaclip.core.text import parse_class_names, read_auxiliary_texts, read_class_names
from itaclip.errors import ItaclipError
from itaclip.research.evaluation import command
from itaclip.research.evaluation.journal import Entry, Journal
from itaclip.research.evaluation.loading import load_batches
from itaclip.research.openmmlab.configuration import load_config
from itaclip.research.preparation.masks import read_label_map
from itaclip.vocabulary import split_classes

quick = settings(suppress_health_check=list(HealthCheck))


def many(examples: int) -> settings:
    return settings(quick, max_examples=examples)


@pytest.fixture(scope="module")
def folder() -> Any:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def answered(function: Callable[..., Any], *arguments: Any, about: str | Path | None = None) -> Any:
    """Return the result, or None after an `ItaclipError` whose message names its subject."""
    result, message = None, "none"
    try:
        result = function(*arguments)
    except ItaclipError as error:
        message = str(error)
    assert message.strip()
    assert about is None or message == "none" or str(about) in message
    return result


# --- texts -------------------------------------------------------------------


LINES = st.text("ab ,>=\n\r\t\x00\x0b\u2028\ufeffü>", max_size=40).map(str.encode) | st.binary(max_size=40)


@given(content=LINES, background=st.booleans())
@many(600)
def test_class_files(folder: Path, content: bytes, background: bool) -> None:
    path = folder / "classes.txt"
    path.write_bytes(content)
    classes = answered(read_class_names, path, background, about=path)
    if classes is not None:
        assert all(word and word == word.strip() for word in classes.queries)
        assert len(classes) == len(classes.names) > 0


@given(content=LINES | st.just(b"a >=x\nb >=y"), background=st.booleans())
@many(400)
def test_text_files(folder: Path, content: bytes, background: bool) -> None:
    path = folder / "texts.txt"
    path.write_bytes(content)
    classes = parse_class_names(["wall", "a", "b"][not background :])
    texts = answered(read_auxiliary_texts, path, classes, background, about=path)
    assert texts is None or len(texts) == 2


@given(text=st.text("ab ;,\n\t\x00ü", max_size=30) | st.text(max_size=20))
@many(400)
def test_typed_class_lists(text: str) -> None:
    answered(split_classes, text)


# --- images ------------------------------------------------------------------


def picture(kind: str, mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 20, (9, 11, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


PICTURES = [picture(kind) for kind in ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP")]


@st.composite
def damaged(draw: st.DrawFn, files: list[bytes]) -> bytes:
    """A file truncated, with changed bytes, or with extra bytes at the end."""
    content = bytearray(draw(st.sampled_from(files)))
    del content[draw(st.integers(0, len(content))) :]
    for place in draw(st.lists(st.integers(0, max(len(content) - 1, 0)), max_size=4)):
        if content:
            content[place] = draw(st.integers(0, 255))
    return bytes(content) + draw(st.binary(max_size=8))


@given(content=damaged(PICTURES) | st.binary(max_size=60), suffix=st.sampled_from([".jpg", ".png", ".tif", ""]))
@many(900)
def test_images_with_any_extension(folder: Path, content: bytes, suffix: str) -> None:
    path = folder / f"image{suffix}"
    path.write_bytes(content)
    image = answered(read_image, path, about=path)
    if image is not None:
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3


@given(content=damaged([picture("PNG", "P"), picture("PNG", "L"), picture("PNG")]))
@many(500)
def test_label_maps(folder: Path, content: bytes) -> None:
    path = folder / "mask.png"
    path.write_bytes(content)
    labels = answered(read_label_map, path, about=path)
    assert labels is None or (labels.dtype == np.uint8 and labels.ndim == 2)


def bomb(side: int) -> bytes:
    """A file of a few kilobytes that claims to have side x side pixels."""
    buffer = io.BytesIO()
    Image.new("1", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_001, 14_000])
def test_decompression_bombs_are_rejected_before_decoding(
    side: int, tmp_path: Path, voc_like: Callable[..., Path]
) -> None:
    content = bomb(side)
    assert len(content) < 100_000 < LARGEST < side * side
    path = tmp_path / "bomb.png"
    path.write_bytes(content)
    with pytest.raises(ItaclipError, match=r"bomb\.png"):
        read_image(path)

    root = voc_like([(20, 30), (20, 30)])
    (root / "JPEGImages/image_1.jpg").write_bytes(content)
    dataset = _dataset(root)
    (batch, skipped), *_ = load_batches(dataset, [range(2)], 0)
    assert len(batch["inputs"]) == 1
    assert skipped[0][0].endswith("image_1.jpg")
    assert "at most 100,000,000 are accepted" in skipped[0][1]
    assert "ITACLIPLoadImage" in skipped[0][1]


def test_a_mask_of_another_size_affects_only_its_image(voc_like: Callable[..., Path]) -> None:
    root = voc_like([(20, 30), (20, 30)])
    Image.new("L", (7, 8)).save(root / "SegmentationClass/image_0.png")
    (batch, skipped), *_ = load_batches(_dataset(root), [range(2)], 0)
    assert len(batch["inputs"]) == 1
    assert skipped == [(str(root / "JPEGImages/image_0.jpg"), "the mask is 8 x 7, but the image is 20 x 30")]


def _dataset(root: Path) -> Any:
    from itaclip.research.evaluation.setup import build_dataset

    config = load_config(ROOT / "configs/cfg_demo.py")
    config.test_dataloader.dataset.data_root = str(root)
    return build_dataset(config)


# --- weights -----------------------------------------------------------------


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


STATE = {"visual.proj": torch.ones(2, 3), "logit_scale": torch.ones(())}


@given(content=damaged([saved(STATE), save_safetensors(STATE)]))
@many(500)
@example(saved([1, 2]))
@example(save_safetensors({}))
@example(saved(STATE).replace(b"PK\x01\x02\x00\x00\x00\x00", b"PK\x01\x02\x00\x00\x40\x00"))  # a later zip format
def test_weight_files(folder: Path, content: bytes) -> None:
    path = folder / "weights.pt"
    path.write_bytes(content)
    answered(read_weights, path, about=path)


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self._victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._victim),)


@pytest.mark.parametrize("form", ["plain pickle", "torch.save", "inside a state dict", "TorchScript", "bin folder"])
def test_malicious_pickles_are_rejected_and_not_run(form: str, tmp_path: Path) -> None:
    evil = Malicious(tmp_path / "pwned")
    path = tmp_path / "weights.pt"
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(evil))
    elif form == "TorchScript":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("weights/constants.pkl", pickle.dumps(()))
            archive.writestr("weights/data.pkl", pickle.dumps(evil))
    elif form == "bin folder":
        path = tmp_path / "clip"
        path.mkdir()
        (path / "config.json").write_text('{"vision_config": {}, "text_config": {}}')
        torch.save(evil, path / "pytorch_model.bin")
    else:
        torch.save(evil if form == "torch.save" else STATE | {"evil": evil}, path)
    with pytest.raises(ItaclipError, match="refused"):
        read_weights(path)
    assert not (tmp_path / "pwned").exists()


# --- configurations, settings, options -------------------------------------------


VALUES = st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.text(max_size=4) | st.lists(
    st.integers(-2, 9) | st.text(max_size=2), max_size=3
)  # fmt: skip


@given(values=st.dictionaries(st.sampled_from([*Settings.__dataclass_fields__]), VALUES, max_size=4))
@many(600)
def test_settings(values: dict[str, Any]) -> None:
    answered(lambda: Settings(**values))


@given(
    text=st.lists(
        st.sampled_from(["model = dict(", ")", "\n", "type='A'", "test_dataloader = ", "dataset=dict()", "1", "{", "}",
                         "_base_ = './x.py'", "import os", "\x00", "é", "raise ValueError", " ", "=", "["]),
        max_size=8,
    )
)  # fmt: skip
@many(150)
@example(["model = dict(type='A')", "\n", "test_dataloader = 1"])
@example(["model = 1", "\n", "test_dataloader = dict(dataset=dict())"])
def test_configurations(folder: Path, text: list[str]) -> None:
    path = folder / "config.py"
    path.write_text("".join(text))
    answered(load_config, path, about=path)


WORDS = st.sampled_from(
    ["--config", "--method", "naclip", "--preset", "common", "--pamr", "on", "--limit", "0", "-1", "x", "--cfg-options",
     "model.pamr_steps", "model.pamr_stride=(1,", "model.a.b.c=1", "a.b=", "=", "model=3", "test_dataloader=x", "",
     "test_dataloader.dataset.pipeline.9.type=X", "model.type.x=1", "model.slide_crop=abc", "--launcher", "slurm"]
) | st.text(max_size=5)  # fmt: skip


@given(words=st.lists(WORDS, max_size=6))
@many(250)
@example(["--cfg-options", "model.pamr_steps"])
@example(["--cfg-options", "model.pamr_stride=(1,"])
@example(["--cfg-options", "model=3"])
def test_options_of_eval(folder: Path, words: list[str]) -> None:
    args = ["--config", str(ROOT / "configs/cfg_demo.py"), *words]
    with suppress(SystemExit):  # argparse reports the problem and exits
        parsed = command.parser().parse_args(args)
        answered(command.configure, parsed, folder)


COMMANDS = st.sampled_from(
    ["segment", "eval", "demo", "env", "segmnt", "--help", "--version", "--out", "missing.jpg", "--classes", "cat; ;",
     "--every", "3/2", "a/b", "--batch", "0", "--set", "x", "slide_crop=abc", "--limit", "--config", "nowhere.py", "-",
     "--classes-file", "--launcher", "pytorch"]
) | st.text(max_size=5)  # fmt: skip


@given(words=st.lists(COMMANDS, max_size=5).filter(lambda words: words[:1] not in (["demo"], ["env"])))
@many(200)
def test_options_of_the_program(folder: Path, words: list[str]) -> None:
    with suppress(SystemExit):
        answered(program, [*words, "--out", str(folder / "out")] if "segment" in words else words)


# --- journals ----------------------------------------------------------------


@given(noise=st.binary(max_size=60), cut=st.integers(0, 400), place=st.integers(0, 399), value=st.integers(0, 255))
@many(400)
def test_journals(folder: Path, noise: bytes, cut: int, place: int, value: int) -> None:
    """A changed line is ignored; an accepted line is exactly as written."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        writing = Journal(Path(name), {"a": "b"})
        entries = {f"batch{i}": Entry(["x.jpg"], [[i, 5]], 0.5) for i in range(3)}
        for batch, entry in entries.items():
            writing.write(batch, entry)
        (path,) = Path(name).glob("*.jsonl")
        content = bytearray(path.read_bytes()[:cut])
        if place < len(content):
            content[place] = value
        path.write_bytes(bytes(content) + noise)
        found, done = Journal(Path(name), {"a": "b"}).restore(list(entries))
        assert done == set(found)
        assert all(found[batch] == entries[batch] for batch in found)
