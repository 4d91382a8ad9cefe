"""The Transformers-style pipeline, and saved segmenters."""

from __future__ import annotations

import base64
import json
import os
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from processes import run_python
from safetensors.torch import load_file, save_file

import itaclip
from itaclip import ItaclipError, Segmenter
from itaclip.apps.pipelines import ImageSegmentationPipeline
from itaclip.common.images import read_image
from itaclip.core.clip.loading import load_clip
from itaclip.core.clip.state_dict import set_statistics
from itaclip.core.pipeline import Pipeline
from itaclip.formats.saved import write_segmenter

CLASSES = ["cloud", "house, home", "balloon"]


@pytest.fixture(scope="module")
def segment(quick: Segmenter) -> ImageSegmentationPipeline:
    return itaclip.pipeline("image-segmentation", model=quick, candidate_labels=CLASSES)


@pytest.fixture
def photo(demo_root: Path) -> Path:
    return demo_root / "JPEGImages/scene_002.jpg"


def same(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> bool:
    return [entry["label"] for entry in found] == [entry["label"] for entry in wanted] and all(
        (np.asarray(a["mask"]) == np.asarray(b["mask"])).all() for a, b in zip(found, wanted, strict=True)
    )


# --- the pipeline ------------------------------------------------------------


def test_an_image_in_any_form_gives_the_segmenter_s_labels(
    segment: ImageSegmentationPipeline, quick: Segmenter, photo: Path
) -> None:
    expected = quick(photo, quick.prepare(CLASSES)).to_hf()
    uri = "data:image/jpeg;base64," + base64.b64encode(photo.read_bytes()).decode()
    for form in (photo, str(photo), uri):
        assert same(segment(form), expected)
    pixels = read_image(photo)
    for form in (pixels, Image.fromarray(pixels)):
        assert same(segment(form), expected)
    for entry in segment(str(photo)):
        assert set(entry) == {"score", "label", "mask"}
        assert entry["mask"].mode == "L"


@pytest.mark.parametrize("number", [1, 2, 3])
def test_base64_as_programs_write_it_gives_the_same(
    segment: ImageSegmentationPipeline, quick: Segmenter, demo_root: Path, number: int
) -> None:
    path = demo_root / f"JPEGImages/scene_00{number}.jpg"
    content = path.read_bytes()
    plain, safe = base64.b64encode(content).decode(), base64.urlsafe_b64encode(content).decode()
    lines = base64.encodebytes(content).decode()
    expected = quick(path, quick.prepare(CLASSES)).to_hf()
    urls = (lines, safe.rstrip("="), plain.replace("+", "%2b"))
    texts = [plain, plain.rstrip("="), safe, lines, lines.replace("\n", "\r\n  ")]
    for text in (*texts, *(f"data:image/jpeg;base64,{url}" for url in urls), f"DATA:;BASE64,{plain}"):
        assert same(segment(text), expected), text[:40]


@pytest.mark.parametrize("kind", ["short", "long, without a dot", "with folders"])
def test_a_file_comes_before_base64(
    segment: ImageSegmentationPipeline,
    quick: Segmenter,
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    name = {"short": "photo", "long, without a dot": "A" * 80, "with folders": "holidays/" + "B" * 55}[kind]
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(exist_ok=True)
    shutil.copy(photo, name)
    assert same(segment(name), quick(photo, quick.prepare(CLASSES)).to_hf())
    Path(name).unlink()
    message = "photo: no such file" if kind == "short" else r"\.\.\. \(base64, as no file has this name\): not"
    with pytest.raises(ItaclipError, match=message):
        segment(name)


def test_lists_give_lists_and_iterators_give_iterators(segment: ImageSegmentationPipeline, demo_root: Path) -> None:
    paths = sorted(str(path) for path in (demo_root / "JPEGImages").iterdir())[:3]
    single = [segment(path) for path in paths]
    listed = segment(paths, batch_size=2)
    assert isinstance(listed, list)
    assert [len(entry) for entry in listed] == [len(entry) for entry in single]

    taken = []

    def images() -> Iterator[str]:
        for path in paths:
            taken.append(path)
            yield path

    stream = segment(images())
    assert taken == []
    assert same(next(stream), single[0])
    assert taken == paths[:1]  # reads no more than requested
    assert sum(1 for _ in stream) == 2

    class Dataset(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, i: int) -> str:
            return paths[i]

    assert same(next(iter(segment(Dataset()))), single[0])


def test_classes_and_settings_of_one_call(quick: Segmenter, photo: Path) -> None:
    plain = itaclip.pipeline(model=quick)
    assert {entry["label"] for entry in plain(photo, ["house", "fire"], background=False)} <= {"house", "fire"}
    assert plain(photo, ["house"], prob_thd=1.0)[0]["label"] == "background"
    with pytest.raises(ItaclipError, match="pass candidate_labels"):
        plain(photo)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "object-detection"}, "only 'image-segmentation' is supported"),
        ({"candidate_labels": "cat, dog"}, "expected a list"),
        ({"candidate_labels": []}, "class list is empty"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"pamr_steps": 3}, "pamr_steps: a Segmenter is already configured"),
    ],
)
def test_bad_pipelines(quick: Segmenter, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ItaclipError, match=message):
        itaclip.pipeline(**{"model": quick} | arguments)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ("missing.jpg", {}, "missing.jpg: no such file"),
        ("http://127.0.0.1:1/a.jpg", {}, "URLs are not fetched by default; pass allow_urls=True"),
        ("data:image/png;base64,???", {}, "not base64"),
        ("data:image/png;base64,AAAA", {}, "not an image"),
        ("data:image/png,AAAA", {}, "not base64: expected a data URL such as"),
        ("data:image/png;base64,AA+_", {}, "mixes the alphabets"),
        ("data:image/png;base64,AA AA", {}, "' ' at character 3; was a \\+ sent as a blank"),
        (7, {}, "inputs of type int"),
        ([7], {}, "image of type int"),
        ("missing.jpg", {"subtask": "panoptic"}, "only 'semantic' is supported"),
        ("missing.jpg", {"threshold": 0.5}, "unknown setting 'threshold'"),
        ("missing.jpg", {"batch_size": 0}, "batch_size = 0"),
    ],
)
def test_bad_inputs(segment: ImageSegmentationPipeline, inputs: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ItaclipError, match=message):
        segment(inputs, **options)


@pytest.fixture
def website(photo: Path) -> Iterator[str]:
    """A server with a photo, a page, a redirect to a local file, and a file that is too large."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response({"/missing": 404, "/away": 302}.get(self.path, 200))
            if self.path == "/away":
                self.send_header("Location", photo.as_uri())
            self.end_headers()
            body = {"/photo.jpg": photo.read_bytes(), "/large": bytes(200_000)}
            self.wfile.write(body.get(self.path, b"<html></html>"))

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_urls_are_fetched_if_allowed(quick: Segmenter, photo: Path, website: str) -> None:
    segment = ImageSegmentationPipeline(
        quick, quick.prepare(CLASSES), allow_urls=True, largest_download=150_000, timeout=10
    )
    assert same(segment(f"{website}/photo.jpg"), segment(photo))
    for name, message in {
        "missing": "status 404", "page": "not an image", "large": "larger than 150,000 bytes", "away": "status 302",
    }.items():  # fmt: skip
        with pytest.raises(ItaclipError, match=message):
            segment(f"{website}/{name}")
    with pytest.raises(ItaclipError, match="cannot be fetched"):
        segment("http://127.0.0.1:1/photo.jpg")


# --- folders -----------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "town"
    segmenter = Segmenter("demo", "fast", pamr_steps=1, short_side=200, largest=10**6)
    segmenter.set_classes(CLASSES, ["sky", "tree"], {"home": "a building with a roof"})
    segmenter.save_pretrained(folder)
    return folder


def test_a_saved_segmenter_gives_equal_labels(saved: Path, photo: Path) -> None:
    original = Segmenter("demo", "fast", pamr_steps=1, short_side=200, largest=10**6)
    original.set_classes(CLASSES, ["sky", "tree"], {"home": "a building with a roof"})
    loaded = Segmenter.from_pretrained(saved)
    expected, found = original(photo), loaded(photo)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.scores.values, expected.scores.values)
    assert (found.names, found.colors) == (expected.names, expected.colors)
    assert (loaded.settings, loaded.short_side, loaded.read_options.largest) == (original.settings, 200, 10**6)
    assert loaded.fingerprint == original.fingerprint
    assert loaded.vocabulary.definitions == original.vocabulary.definitions
    assert len(expected.areas) > 1
    # the text tower is saved too: new classes, and a second round trip
    words = ["water", "fence"]
    np.testing.assert_array_equal(loaded.prepare(words).bank.features, original.prepare(words).bank.features)
    loaded.save_pretrained(saved.parent / "again")
    assert {p.name: p.read_bytes() for p in (saved.parent / "again").iterdir()} == {
        p.name: p.read_bytes() for p in saved.iterdir()
    }


def test_loading_needs_no_network_and_no_other_file(saved: Path, photo: Path, tmp_path: Path) -> None:
    """In another process without sockets and with an empty home folder."""
    program = """
import socket, sys
def refuse(*_, **__): raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = refuse
from itaclip import Segmenter
segmenter = Segmenter.from_pretrained(sys.argv[1], pamr_steps=0)
print(segmenter.settings.pamr_steps, segmenter(sys.argv[2]).names)
"""
    environment = os.environ | {"HOME": str(tmp_path), "ITACLIP_CACHE_DIR": str(tmp_path / "cache")}
    found = run_python("-c", program, saved, photo, env=environment, cwd=tmp_path)
    assert found.stdout == "0 ('background', 'cloud', 'house', 'balloon')\n"


def test_pipeline_and_command_line_accept_the_folder(saved: Path, photo: Path, tmp_path: Path) -> None:
    expected = Segmenter.from_pretrained(saved)(photo)
    assert same(itaclip.pipeline(model=saved)(photo), expected.to_hf())
    from itaclip.apps.command.main import main

    assert main(["segment", str(photo), "--model", str(saved), "--out", str(tmp_path / "out")]) == 0
    with Image.open(tmp_path / f"out/masks/{photo.stem}.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), expected.labels)
    with pytest.raises(ItaclipError, match="--quality: the saved segmenter"):
        main(["segment", str(photo), "--model", str(saved), "--quality", "fast", "--out", str(tmp_path / "out")])


def test_a_configuration_s_segmenter_is_saved_with_its_classes(photo: Path, tmp_path: Path) -> None:
    settings = {"img_engineering": False, "pamr_steps": 0, "slide_stride": 112, "middle_layers": (2, 3)}
    original = Segmenter.from_config(ROOT / "configs/cfg_demo.py", **settings)
    original.save_pretrained(tmp_path)
    loaded = Segmenter.from_pretrained(tmp_path)
    assert loaded.settings == original.settings
    np.testing.assert_array_equal(loaded(photo).labels, original(photo).labels)


def test_a_second_encoder_s_file_is_saved_too(second_weights: str, photo: Path, tmp_path: Path) -> None:
    moved = tmp_path / "dino.safetensors"
    shutil.copy(second_weights, moved)
    original = Segmenter("demo", "fast", method="proxyclip", second_encoder=str(moved))
    original.set_classes(CLASSES)
    expected = original(photo).labels
    original.save_pretrained(tmp_path / "saved")
    moved.unlink()
    loaded = Segmenter.from_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(loaded(photo).labels, expected)
    loaded.save_pretrained(tmp_path / "again")
    description = json.loads((tmp_path / "again/itaclip.json").read_text())
    assert description["settings"]["second_encoder"] == "second_encoder.safetensors"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "proxyclip", "second_encoder": "dino-vitb8"}, "second_encoder = 'dino-vitb8' is not a file"),
        ({"map_correction": True, "regions": "sam2"}, "regions = 'sam2' cannot be saved"),
    ],
)
def test_what_cannot_be_saved_is_rejected(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    segmenter = Segmenter("demo", "fast", **settings)
    with pytest.raises(ItaclipError, match=message):
        segmenter.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_folder_that_cannot_be_written(quick: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ItaclipError, match="cannot be written"):
        quick.save_pretrained(tmp_path / "file" / "saved")


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / "itaclip.json").read_text())
        change(content)
        (folder / "itaclip.json").write_text(json.dumps(content))

    return edit


def other_features(folder: Path) -> None:
    features = load_file(folder / "vocabulary.safetensors")["features"]
    save_file({"features": features + 1}, folder / "vocabulary.safetensors")


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def evil_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Evil()))


def other_weights(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["visual.proj"] = state["visual.proj"] * 2
    save_file(state, folder / "model.safetensors", metadata={"quick_gelu": "true"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "itaclip.json").unlink(), "not a saved segmenter"),
        (lambda folder: (folder / "itaclip.json").write_text("{"), "itaclip.json: not valid JSON"),
        (lambda folder: (folder / "itaclip.json").write_bytes(b"\xff\xfe"), "itaclip.json: not valid JSON"),
        (lambda folder: (folder / "itaclip.json").write_text("[" * 100_000), "itaclip.json: not valid JSON"),
        (lambda folder: (folder / "itaclip.json").write_text("[]"), "this version reads format 1"),
        (edited(lambda content: content.update(format=2)), "format '2'; this version reads format 1"),
        (edited(lambda content: content.update(short_side="x")), "short_side = 'x'"),
        (edited(lambda content: content.update(short_side=True)), "short_side = 'True'"),
        (edited(lambda content: content.update(largest=0)), "largest = '0'"),
        (edited(lambda content: content.update(settings=[])), "settings = "),
        (edited(lambda content: content["settings"].update(pamr_steps="x")), "pamr_steps"),
        (edited(lambda content: content["settings"].update(evil=1)), "unknown setting 'evil'"),
        (edited(lambda content: content["settings"].update(method_options=[1])), "method_options"),
        (edited(lambda content: content["settings"].update(
            method="proxyclip", second_encoder="second_encoder/../../x.pt")), "expected a file of this folder"),
        (edited(lambda content: content["settings"].update(dtype="int8", engine="openvino", calibration="../x")),
         "calibration = '../x': expected 'calibration', in this folder"),
        (edited(lambda content: content.update(vocabulary=7)), "vocabulary: expected"),
        (edited(lambda content: content["vocabulary"].update(classes=[[]])), "classes: expected lists of words"),
        (edited(lambda content: content["vocabulary"]["classes"][0].pop()), "the text features do not match"),
        (edited(lambda content: content["vocabulary"].update(background="no")), "background = 'no'"),
        (edited(lambda content: content["vocabulary"].update(definitions=["x"])), "definitions: expected"),
        (other_features, "the text features do not match"),
        (other_weights, "the weights differ from those saved"),
        (evil_weights, "model.safetensors: (refused|truncated)"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no such weight file"),
        (lambda folder: os.truncate(folder / "model.safetensors", 5000), "truncated or damaged"),
        (lambda folder: (folder / "vocabulary.safetensors").unlink(), "vocabulary.safetensors"),
    ],
)  # fmt: skip
def test_damaged_folders(
    saved: Path, tmp_path: Path, damage: Callable[[Path], Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(saved, tmp_path / "copy")
    damage(tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ItaclipError, match=message):
        Segmenter.from_pretrained(tmp_path / "copy")
    assert not (tmp_path / "executed").exists()


def test_the_pixels_that_a_model_expects_are_saved(quick: Segmenter, photo: Path, tmp_path: Path) -> None:
    """Weights trained on pixels in [-1, 1] get such pixels again."""
    clip = load_clip("demo")
    set_statistics(clip, {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
    write_segmenter(tmp_path / "other", clip, quick.settings, quick.short_side, quick.read_options, None)
    pixels = torch.randn(1, 3, 112, 112)
    found = Segmenter.from_pretrained(tmp_path / "other", device="cpu")._pipeline.encoder(pixels)
    assert torch.equal(found, Pipeline(clip, quick.settings).encoder(pixels))
    assert not torch.allclose(found, quick._pipeline.encoder(pixels), atol=1e-3)


def test_segmenters_saved_by_earlier_versions_load(tmp_path: Path) -> None:
    segmenter = Segmenter("demo", "fast", text_cache=False)
    segmenter.save_pretrained(tmp_path / "saved")
    description = tmp_path / "saved/itaclip.json"
    content = json.loads(description.read_text())
    content["settings"]["across_windows"] = False  # a switch that is gone
    description.write_text(json.dumps(content))
    assert Segmenter.from_pretrained(tmp_path / "saved", text_cache=False).settings == segmenter.settings
    content["settings"]["across_windows"] = True
    description.write_text(json.dumps(content))
    with pytest.raises(ItaclipError, match="unknown setting 'across_windows'"):
        Segmenter.from_pretrained(tmp_path / "saved", text_cache=False)
