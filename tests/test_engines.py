"""Engines: OpenVINO gives PyTorch's results, in every precision, and converts a model once."""

from __future__ import annotations

import copy
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from processes import run_python, start_python
from torch import nn

from itaclip import ItaclipError, Segmenter
from itaclip.common.demo.scenes import draw_scene
from itaclip.core import choices
from itaclip.core.clip import load_clip
from itaclip.core.clip.openai import CLIP
from itaclip.core.encoder import DenseEncoder
from itaclip.core.engines import cache, clear_engines, openvino, weights
from itaclip.core.engines import select as choosing
from itaclip.core.engines.calibration import calibration_windows
from itaclip.core.engines.select import on_engine
from itaclip.core.engines.weights import KeptWeights
from itaclip.core.methods import METHODS, ON_ANY_TOWER, LastBlock, Window
from itaclip.core.methods.attention import neighbour
from itaclip.core.pipeline import Pipeline, Segmentation
from itaclip.core.settings import Settings
from itaclip.core.text import TextBank, TextEncoder, parse_class_names
from itaclip.devices import choose_device

CLASSES = parse_class_names(["background, wall", "cat, kitten", "cup"])


@pytest.fixture
def own_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("ITACLIP_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache/engines"


def segmented(clip: CLIP, settings: Settings) -> list[Segmentation]:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(3, *size, generator=generator) for size in ((112, 130), (90, 150))]
    features = torch.randn(len(CLASSES.queries), 64, generator=generator)
    bank = TextBank(F.normalize(features, dim=-1), CLASSES)
    regions = {"felzenszwalb": [np.arange(image[0].numel()).reshape(image.shape[1:]) // 4000 for image in images]}
    return Pipeline(copy.deepcopy(clip), settings)(images, [(112, 130), (90, 150)], bank, regions)


def agreement(found: list[Segmentation], expected: list[Segmentation]) -> float:
    same = torch.cat([(a.labels == b.labels).flatten() for a, b in zip(found, expected, strict=True)])
    return float(same.float().mean())


def encoders(clip: CLIP, dtype: str, name: str = "itaclip") -> tuple[DenseEncoder, DenseEncoder]:
    """PyTorch's in float32, and OpenVINO's."""
    plain = DenseEncoder(clip.visual, METHODS[name])
    other = DenseEncoder(copy.deepcopy(clip.visual), METHODS[name])
    on_engine(other, Settings(method=name, engine="openvino", dtype=dtype))
    return plain, other


ALWAYS = ("itaclip", "naclip", "proxyclip")
"""One method in a single graph, one with a window on the grid, one that reads a second encoder."""


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.vit_b_16) for name in ON_ANY_TOWER]
)
def test_float32_gives_the_same_labels_for_every_method(method: str, tiny_clip: CLIP, second_weights: str) -> None:
    settings = Settings(method=method, second_encoder=second_weights, slide_crop=96, slide_stride=64)
    expected = segmented(tiny_clip, settings)
    found = segmented(tiny_clip, settings.changed(engine="openvino"))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.scores.values, b.scores.values, atol=2e-5, rtol=0)
    assert agreement(found, expected) > 0.999


def test_several_methods_share_a_pass(tiny_clip: CLIP) -> None:
    plain, other = encoders(tiny_clip, "fp32")
    pixels = torch.randn(2, 3, 96, 96)
    methods = [(METHODS[name], Window(pixels)) for name in ("itaclip", "gem_bare", "scclip")]
    methods = [(replace(method, positions="scale"), window) for method, window in methods]
    for a, b in zip(other.tokens(pixels, methods), plain.tokens(pixels, methods), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("dtype", "closest"), [("bf16", 0.999), ("int8", 0.98)])
def test_lower_precision_stays_close_and_company_changes_nothing(dtype: str, closest: float, tiny_clip: CLIP) -> None:
    plain, other = encoders(tiny_clip, dtype)
    scene = calibration_windows("demo", (96, 96), Settings())[:5]
    found = other(scene)
    assert F.cosine_similarity(found, plain(scene), dim=-1).mean() > closest
    assert not torch.equal(found, plain(scene))
    loud = torch.cat([scene[:2], 30 * torch.randn(3, 3, 96, 96)])
    torch.testing.assert_close(other(loud)[:2], found[:2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(other(scene[:1]), found[:1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("streams", [2, 4])
def test_streams_divide_a_batch_and_change_nothing(
    streams: int, tiny_clip: CLIP, own_engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, other = encoders(tiny_clip, "fp32")
    monkeypatch.setattr(openvino.OpenVINOBlocks, "_streams", lambda self, path, x: streams)
    pixels = torch.randn(9, 3, 96, 96)
    for count in (9, 4, 3, 1):  # not even each stream gets a view
        torch.testing.assert_close(other(pixels[:count]), plain(pixels[:count]), atol=1e-4, rtol=1e-4)
    (graph,) = other.engine._graphs.values()  # type: ignore[union-attr]
    assert len(graph._requests) == streams


def test_streams_are_measured_where_there_are_threads(
    tiny_clip: CLIP, own_engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = {"1": 1.0, "2": 0.5}
    monkeypatch.setattr(choices, "_seconds", lambda call: (call(), took[str(call.args[0])])[1])
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        plain, other = encoders(tiny_clip, "fp32")
        pixels = torch.randn(3, 3, 96, 96)
        torch.testing.assert_close(other(pixels), plain(pixels), atol=1e-4, rtol=1e-4)
    finally:
        torch.set_num_threads(before)
    (line,) = choices.remembered()
    assert line.startswith("streams (")
    assert "2 threads: 2 (1 1e+03 ms, 2 500 ms)" in line
    (graph,) = other.engine._graphs.values()  # type: ignore[union-attr]
    assert len(graph._requests) == 2


def test_queries_and_keys_leave_their_products_rounded(own_engines: Path) -> None:
    """In int8 no pass over the activations rounds them afterwards: they are as wide as the products write them."""
    encoder = DenseEncoder(load_clip("demo").visual, METHODS["itaclip"])
    on_engine(encoder, Settings(engine="openvino", dtype="int8"))
    encoder(torch.randn(2, 3, 112, 112))
    (graph,) = encoder.engine._graphs.values()  # type: ignore[union-attr]
    kinds = [
        tuple(node.get_rt_info()[name].astype(str) for name in ("layerType", "outputPrecisions"))
        for node in graph._compiled.get_runtime_model().get_ordered_ops()
    ]
    products = [precisions for kind, precisions in kinds if kind.startswith("FullyConnected")]
    assert sum(precisions in ("i8", "u8") for precisions in products) >= 3 * (encoder.depth - 1)


def test_the_text_tower_gives_the_same_features(tiny_clip: CLIP) -> None:
    words = ["cat", "a photo of a sofa beside a very long wooden wall.", "dog"]
    other = TextEncoder(tiny_clip, engine="openvino")
    torch.testing.assert_close(other(words), TextEncoder(tiny_clip)(words), atol=1e-5, rtol=0)
    torch.testing.assert_close(other(["cat"]), TextEncoder(tiny_clip)(["cat"]), atol=1e-5, rtol=0)


def test_a_model_is_converted_once(tiny_weights: Path, own_engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later starts load; a damaged copy is made again; other weights and methods get files of their own."""
    script = (
        "import sys, torch; from itaclip.core.clip import load_clip; from itaclip.core.encoder import DenseEncoder\n"
        "from itaclip.core.engines.select import on_engine; from itaclip.core.methods import METHODS\n"
        "from itaclip.core.settings import Settings\n"
        "e = DenseEncoder(load_clip(sys.argv[1]).visual, METHODS['itaclip'])\n"
        "on_engine(e, Settings(engine='openvino'))\n"
        "print(float(e(torch.ones(1, 3, 64, 64)).sum()))"
    )
    both = [start_python("-c", script, tiny_weights) for _ in "ab"]
    first, second = (process.communicate()[0] for process in both)
    assert first
    assert first == second
    (kept,) = own_engines.glob("*/model.xml")

    def refused(*_: object) -> None:
        raise AssertionError("converted again")

    pixels = torch.ones(1, 3, 64, 64)
    with monkeypatch.context() as patch:
        patch.setattr(openvino, "_write", refused)
        found = encoders(load_clip(str(tiny_weights)), "fp32")[1](pixels)
        assert float(found.sum()) == pytest.approx(float(first), rel=1e-5)
        with pytest.raises(AssertionError, match="converted again"):
            encoders(load_clip(str(tiny_weights)), "fp32", "clip")[1](pixels)
        other = load_clip(str(tiny_weights))
        other.visual.transformer.resblocks[3].mlp.c_fc.weight.data[0, 0] += 1
        with pytest.raises(AssertionError, match="converted again"):
            encoders(other, "fp32")[1](pixels)
    weights = kept.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:-1000])
    torch.testing.assert_close(encoders(load_clip(str(tiny_weights)), "fp32")[1](pixels), found)
    assert clear_engines() > 0
    assert not own_engines.exists()


@pytest.mark.slow
def test_signals_arrive_after_models_are_dropped_and_nothing_is_reported(tmp_path: Path) -> None:
    """Unloading OpenVINO's plugins, the first one first, leaves the thread a stack for signals that is gone."""
    script = (
        "import gc, signal, subprocess, torch; from itaclip.core.clip import load_clip\n"
        "from itaclip.core.encoder import DenseEncoder; from itaclip.core.engines.select import on_engine\n"
        "from itaclip.core.methods import METHODS; from itaclip.core.settings import Settings\n"
        "encoders = []\n"
        "for dtype in ('fp32', 'int8'):\n"
        "    encoders.append(DenseEncoder(load_clip('demo').visual, METHODS['clip']))\n"
        "    on_engine(encoders[-1], Settings(engine='openvino', dtype=dtype))\n"
        "    encoders[-1](torch.ones(1, 3, 64, 64))\n"
        "encoders.clear(); gc.collect()\n"
        "signal.signal(signal.SIGCHLD, lambda *_: None); subprocess.run(['true'], check=True)\n"
        "import sys; print('openvino_telemetry' in sys.modules and sys.modules['openvino_telemetry'])"
    )
    environment = os.environ | {"ITACLIP_CACHE_DIR": str(tmp_path), "HOME": str(tmp_path)}
    done = run_python("-c", script, env=environment)
    assert (done.returncode, done.stdout.strip()) == (0, "None"), done.stderr  # None: nothing reports its use
    assert not (tmp_path / "intel").exists()


def test_a_cache_that_cannot_be_written(
    tiny_clip: CLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ITACLIP_CACHE_DIR", str(tmp_path / "file"))
    plain, other = encoders(tiny_clip, "fp32")
    pixels = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(other(pixels), plain(pixels), atol=1e-4, rtol=1e-4)
    assert "not kept for the next start" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's account of a process")
def test_weights_that_an_engine_has_do_not_stand_in_memory_twice(own_engines: Path) -> None:
    """Kept weights are equal, take no memory of their own, and outlive a cleared cache."""
    module = nn.Linear(4096, 4096).requires_grad_(False)
    before = copy.deepcopy(module.state_dict())
    with_both = own_memory()
    kept = KeptWeights(module, "a fingerprint")
    assert own_memory() <= with_both - 60
    for _ in range(2):
        assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())
        clear_engines()
        kept.release()


def test_weights_that_cannot_be_kept_on_disk_stay_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = nn.Linear(8, 8)
    before = copy.deepcopy(module.state_dict())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("ITACLIP_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(weights, "save_file", full)
    KeptWeights(module, "another fingerprint").release()
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())
    assert "the weights stay in memory" in caplog.text.lower()


def test_classes_set_after_the_text_tower_was_freed(own_engines: Path) -> None:
    """A second class list compiles the tower again; the first one's labels come back with its words."""
    image = draw_scene((96, 128), np.random.default_rng(0)).image
    segmenter = Segmenter("demo", "fast", engine="openvino", text_cache=False)
    found = []
    for words in (["cat", "dog"], ["a wall", "a road", "a tree"], ["cat", "dog"]):
        segmenter.set_classes(words)
        found.append(segmenter(image).labels)
    assert np.array_equal(found[0], found[2])


def own_memory() -> int:
    """MiB of this process that no file holds."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) // 1024


def test_recipes_are_told_apart_by_their_code() -> None:
    one, two, same = (LastBlock(attention=function) for function in (neighbour(5.0), neighbour(4.0), neighbour(5.0)))
    assert cache.described(one) == cache.described(same)
    assert cache.described(one) != cache.described(two)
    assert len({cache.described(method) for method in METHODS.values()}) == len(METHODS)


def test_many_sizes_of_windows_fall_back_to_pytorch(
    tiny_clip: CLIP, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(openvino, "MOST_GRIDS", 1)
    plain, other = encoders(tiny_clip, "fp32")
    for size in ((64, 64), (64, 96), (96, 64)):
        pixels = torch.randn(1, 3, *size)
        torch.testing.assert_close(other(pixels), plain(pixels), atol=1e-4, rtol=1e-4)
    assert caplog.text.count("further sizes run in PyTorch") == 1


@pytest.mark.parametrize("faster", ["torch", "openvino"])
def test_auto_takes_what_was_measured_to_be_faster(
    faster: str, tiny_clip: CLIP, own_engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([1.0, 2.0] if faster == "torch" else [2.0, 1.0])
    monkeypatch.setattr(choices, "_seconds", lambda function: (function(), next(seconds))[1])
    settings = Settings(engine="auto", device="cpu")
    encoder = DenseEncoder(copy.deepcopy(tiny_clip.visual), METHODS["itaclip"])
    assert on_engine(encoder, settings) == faster
    assert (encoder.engine is None) == (faster == "torch")
    again = DenseEncoder(copy.deepcopy(tiny_clip.visual), METHODS["itaclip"])
    assert on_engine(again, settings) == faster  # remembered: there are no more seconds
    (line,) = choices.remembered()
    assert f"dtype fp32), {torch.get_num_threads()} threads: {faster} fp32 (torch fp32 " in line


def test_auto_without_openvino_takes_pytorch(tiny_clip: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "has_openvino", lambda dtype: False)
    monkeypatch.setattr(openvino, "has_openvino", lambda dtype="fp32": False)
    encoder = DenseEncoder(copy.deepcopy(tiny_clip.visual), METHODS["itaclip"])
    assert on_engine(encoder, Settings(engine="auto")) == "torch"
    with pytest.raises(ItaclipError, match=r"OpenVINO is not installed; install the extra 'openvino'"):
        on_engine(encoder, Settings(engine="openvino"))


def test_calibration_reads_the_users_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, shape in (("a.png", (40, 90, 3)), ("b.JPG", (120, 60, 3)), ("notes.txt", None)):
        if shape is None:
            (tmp_path / name).write_text("no image")
        else:
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / name)
    assert calibration_windows(str(tmp_path), (64, 96), Settings()).shape == (2, 3, 64, 96)
    (tmp_path / "a.png").unlink()
    (tmp_path / "b.JPG").unlink()
    with pytest.raises(ItaclipError, match="no image to calibrate int8 on"):
        calibration_windows(str(tmp_path), (64, 96), Settings())
    with pytest.raises(ItaclipError, match="expected a folder of images, or 'demo'"):
        calibration_windows(str(tmp_path / "none"), (64, 96), Settings())


@pytest.mark.slow
def test_the_api_takes_it(demo_root: Path, quick: Segmenter) -> None:
    segmenter = Segmenter("demo", "fast", pamr_steps=0, dtype="int8", engine="openvino")
    photo = f"{demo_root}/JPEGImages/scene_002.jpg"
    found, expected = (each(photo, each.prepare(["car", "house", "cloud"])) for each in (segmenter, quick))
    assert (found.labels == expected.labels).mean() > 0.98
    segmenter.set_classes(["car"])
    with pytest.raises(ItaclipError, match="engine = 'torch': cannot change after loading"):
        segmenter(photo, engine="torch")


def test_what_does_not_go_together() -> None:
    for values, message in (
        ({"dtype": "int8"}, "int8 runs with engine = 'openvino'"),
        ({"dtype": "fp16", "engine": "openvino"}, "fp32, bf16, int8 or auto with engine = 'openvino'"),
        ({"compile": True, "engine": "openvino"}, "compile = True: expected False with another engine"),
        ({"engine": "tensorrt"}, "one of torch, openvino, auto"),
    ):
        with pytest.raises(ItaclipError, match=message):
            Settings(**values)  # type: ignore[arg-type]
    with pytest.raises(ItaclipError, match=r"runs on CPUs only, but device is 'cuda'"):
        choose_device("cuda", "fp32", "openvino")
    assert choose_device("auto", "int8", "auto") == torch.device("cpu")


def test_images_of_the_calibration_are_saved_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    photo, folder = draw_scene((120, 150), rng).image, tmp_path / "photos"
    folder.mkdir()
    for number in range(2):
        Image.fromarray(draw_scene((120, 150), rng).image).save(folder / f"{number}.png")
    original = Segmenter("demo", "fast", engine="openvino", dtype="int8", calibration=str(folder))
    original.set_classes(["sky", "house", "tree"])
    original.save_pretrained(tmp_path / "saved")
    shutil.rmtree(folder)
    loaded = Segmenter.from_pretrained(tmp_path / "saved")
    assert loaded.settings.calibration == str(tmp_path / "saved/calibration")
    np.testing.assert_array_equal(loaded(photo).labels, original(photo).labels)
    loaded.save_pretrained(tmp_path / "saved")  # over itself
    assert sorted(path.name for path in (tmp_path / "saved/calibration").iterdir()) == ["0.png", "1.png"]
