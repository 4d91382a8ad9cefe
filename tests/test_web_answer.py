"""Requests, limits, and what the page gets to draw, without a server."""

from __future__ import annotations

import base64
import io
import itertools
import json
import logging
import socket
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from itaclip import Result, Segmenter
from itaclip.apps.command import serve as serve_command
from itaclip.apps.web.limits import Limits
from itaclip.apps.web.progress import Progress
from itaclip.apps.web.request import SegmentFields
from itaclip.apps.web.response import rendered
from itaclip.apps.web.segmentation import collected_warnings, own_classes
from itaclip.apps.web.segmentation import segment as segment_with_classes
from itaclip.apps.web.time_limit import TimeLimit
from itaclip.apps.web.view import runner_up, score_maps
from itaclip.common.progress import listening
from itaclip.core.scores import Scores
from itaclip.core.text import TextBank, parse_class_names
from itaclip.errors import ItaclipError
from itaclip.vocabulary import Vocabulary, split_definitions

CLASSES = "bus, city bus; fence\nhouse"
LIST = ["bus, city bus", "fence", "house"]
PLAIN = {"refine": False, "views": False}


def fields(**values: Any) -> SegmentFields:
    """The fields of a request for the scene, unrefined unless `values` say otherwise."""
    return SegmentFields(**({"name": "mine.jpg", "classes": CLASSES} | PLAIN | values))


def segment(*arguments: Any) -> Result:
    """Segment, and leave out the classes."""
    return segment_with_classes(*arguments)[0]


@pytest.fixture
def scene(demo_root: Path) -> Path:
    return demo_root / "JPEGImages/scene_003.jpg"


@pytest.mark.parametrize(
    ("changes", "background", "settings"),
    [
        ({}, True, {}),
        ({"background": "none"}, False, {}),
        ({"background": "water; wood"}, ["water", "wood"], {}),
        ({"refine": True, "views": True}, True, {"pamr_steps": 10, "img_engineering": True}),
        ({"threshold": 0.9}, True, {"prob_thd": 0.9}),
        ({"method": "scclip", "correct": True}, True, {"method": "scclip", "map_correction": True}),
    ],
)
def test_labels_are_those_of_the_python_interface(
    quick: Segmenter, scene: Path, changes: dict, background: bool | list[str], settings: dict
) -> None:
    result = segment(quick, scene.read_bytes(), fields(**changes), Limits())
    expected = quick(scene, quick.prepare(LIST, background), **settings)
    np.testing.assert_array_equal(result.labels, expected.labels)
    assert result.names == expected.names
    assert len(result.areas) > 1 or settings.get("method") == "scclip"


def test_the_form_of_a_configuration_gives_its_labels(scene: Path) -> None:
    segmenter = Segmenter.from_config(
        ROOT / "configs/cfg_demo.py", img_engineering=False, pamr_steps=0, slide_stride=112
    )
    own = own_classes(segmenter.vocabulary)
    assert own["classes"].splitlines()[1] == "night sky, starry sky"
    sent = fields(**own, threshold=segmenter.settings.prob_thd)
    result = segment(segmenter, scene.read_bytes(), sent, Limits())
    np.testing.assert_array_equal(result.labels, segmenter(scene).labels)
    unnamed = segment(segmenter, scene.read_bytes(), SegmentFields(name="mine.jpg", **PLAIN), Limits())
    np.testing.assert_array_equal(unnamed.labels, segmenter(scene).labels)
    assert unnamed.names == segmenter.names
    assert len(result.areas) > 3


def test_words_of_the_background_are_told(quick: Segmenter, scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("itaclip.vocabulary.read_lexicon", lambda path: ("grass", "sea", "sky", "snow"))
    expected = quick.prepare(LIST, "auto")
    result, vocabulary = segment_with_classes(quick, scene.read_bytes(), fields(background="auto"), Limits(words=4))
    answer = json.loads(rendered(result, vocabulary, "json", b"", [], 0)[0])
    assert answer["background_words"] == list(expected.background_words)
    assert answer["background_choice"] == expected.background_choice
    assert "words chosen" in answer["background_choice"]
    np.testing.assert_array_equal(result.labels, quick(scene, expected).labels)


def test_a_configuration_with_too_many_words_is_told_at_once() -> None:
    from web_helpers import free_port

    options = ["--config", str(ROOT / "configs/cfg_demo.py"), "--port", str(free_port())]
    with pytest.raises(ItaclipError, match=r"--max-words 5: the configuration's classes have \d+ words; raise it"):
        serve_command.main([*options, "--max-words", "5"])


def test_definitions_change_the_scores(quick: Segmenter, scene: Path) -> None:
    text = "\nfence >=pointed pales\ncity bus >=a long vehicle\n"
    definitions = {"fence": "pointed pales", "city bus": "a long vehicle"}
    assert split_definitions(text.splitlines(), "definitions") == definitions
    changed = segment(quick, scene.read_bytes(), fields(definitions=text), Limits()).scores.values
    expected = quick.prepare(LIST, True, definitions)
    np.testing.assert_allclose(changed, quick(scene, expected).scores.values, atol=1e-5)
    assert not np.array_equal(changed, segment(quick, scene.read_bytes(), fields(), Limits()).scores.values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": " ;\n"}, "class list is empty"),
        ({"classes": "cat; dog; Cat"}, "'Cat' already occurs on line 1"),
        ({"classes": "a, b; c, d"}, "4 words, synonyms included; at most 3"),
        ({"classes": "a; b", "background": "c, d"}, "4 words, synonyms included; at most 3"),
        ({"background": " "}, "list words for what surrounds the classes"),
        ({"definitions": "fire >=hot"}, "'fire'"),
        ({"method": "mine"}, r"method = 'mine': expected one of itaclip, clip, "),
    ],
)
def test_refuses_with_a_reason(quick: Segmenter, scene: Path, changes: dict, message: str) -> None:
    with pytest.raises(ItaclipError, match=message):
        segment(quick, scene.read_bytes(), fields(**({"classes": "grass; stripes"} | changes)), Limits(words=3))


@pytest.mark.parametrize("kind", ["text", "empty", "truncated", "eps", "large"])
def test_a_bad_image_is_named_as_its_owner_does(quick: Segmenter, scene: Path, kind: str) -> None:
    buffer = io.BytesIO()
    if kind == "text":
        buffer.write(b"no image at all")
    elif kind == "truncated":
        buffer.write(scene.read_bytes()[:2000])
    elif kind == "eps":  # PIL would start Ghostscript
        Image.new("RGB", (20, 20)).save(buffer, "EPS")
    elif kind == "large":
        Image.new("RGB", (1001, 1000)).save(buffer, "PNG")
    with pytest.raises(ItaclipError) as refusal:
        segment(quick, buffer.getvalue(), fields(name="holiday.png"), Limits(megapixels=1))
    assert str(refusal.value).startswith("holiday.png: ")


# --- limits ------------------------------------------------------------------


def test_time_limit_ends_a_computation_and_frees_the_segmenter(quick: Segmenter, scene: Path) -> None:
    with pytest.raises(ItaclipError, match="stopped after 1e-06 s"):
        segment(quick, scene.read_bytes(), fields(), Limits(seconds=1e-6))
    assert segment(quick, scene.read_bytes(), fields(), Limits()).labels.shape == (281, 326)


def test_time_limit_is_that_of_its_block() -> None:
    def work(seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            torch.zeros(1).add(1)

    began = time.monotonic()
    with pytest.raises(ItaclipError, match=r"stopped after 0.05 s"), TimeLimit(0.05):
        work(30)
    assert time.monotonic() - began < 20
    work(0.1)  # no longer limited
    with TimeLimit(20):
        assert torch.ones(2).sum() == 2


@pytest.mark.parametrize("name", ["megapixels", "upload_mb", "words", "seconds", "queue"])
def test_limits_are_positive(name: str) -> None:
    with pytest.raises(ItaclipError, match=f"{name} = 0: expected a positive number"):
        Limits(**{name: 0})
    with pytest.raises(ItaclipError, match=f"{name} = nan"):
        Limits(**{name: float("nan")})


# --- what the page draws -----------------------------------------------------


def unpacked(array: dict) -> np.ndarray:
    kind = {1: np.uint8, 2: np.dtype("<u2")}[array["bytes"]]
    values = np.frombuffer(zlib.decompress(base64.b64decode(array["data"])), kind)
    return values.reshape(array["height"], array["width"])


def test_the_view_holds_labels_scores_and_runners_up(quick: Segmenter, scene: Path) -> None:
    result = segment(quick, scene.read_bytes(), fields(output="view"), Limits())
    scores = result.scores.full
    assert scores is not None
    view = json.loads(rendered(result, quick.prepare(LIST), "view", scene.read_bytes(), [], 0.5)[0])
    np.testing.assert_array_equal(unpacked(view["labels"]), result.labels)
    ordered = np.sort(scores, axis=0)
    own = np.take_along_axis(scores, result.labels[None], axis=0)[0]
    wins = own == ordered[-1]  # elsewhere the threshold decided
    assert wins.mean() > 0.5
    rounding = 0.5 / 255 + 1e-6
    np.testing.assert_allclose(unpacked(view["score"]) / 255, own, atol=rounding)
    np.testing.assert_allclose(unpacked(view["runner_up_score"])[wins] / 255, ordered[-2][wins], atol=rounding)
    np.testing.assert_array_equal(unpacked(view["runner_up"])[wins], scores.argsort(axis=0)[-2][wins])
    highest = next(iter(view["score_maps"]))
    assert scores[int(highest)].max() == scores.max()
    assert len(view["score_maps"]) == len(result.names)
    assert view["summary"] == result.summary()
    assert view["coco"] == result.to_coco()
    assert view["picture"] is None  # the browser has the image


def test_the_runner_up_is_another_class_also_where_the_image_is_larger_than_its_scores() -> None:
    scores = np.random.default_rng(0).random((3, 30, 41), np.float32)
    small = scores.argmin(axis=0).astype(np.int32)  # the worst class: both others are better
    rows, columns = np.arange(77) * 30 // 77, np.arange(100) * 41 // 100
    labels = small[rows[:, None], columns]
    order = np.argsort(-scores, axis=0)[:2]
    kept = Scores(scores.min(axis=0), order, np.take_along_axis(scores, order, axis=0), scores)
    result = Result(np.zeros((77, 100, 3), np.uint8), labels, ("a", "b", "c"), kept, [[0, 0, 0]] * 3)
    own, second, second_score = runner_up(result)
    np.testing.assert_array_equal(own, scores.min(axis=0))
    np.testing.assert_array_equal(second, scores.argmax(axis=0))
    np.testing.assert_array_equal(second_score, scores.max(axis=0))
    assert {found.shape for found in score_maps(result).values()} == {(30, 41)}


def test_browsers_get_a_picture_of_what_they_cannot_decode(quick: Segmenter, scene: Path) -> None:
    buffer = io.BytesIO()
    Image.open(scene).save(buffer, "TIFF")
    result = segment(quick, buffer.getvalue(), fields(name="mine.tif", output="view"), Limits())
    view = json.loads(rendered(result, quick.prepare(LIST), "view", buffer.getvalue(), [], 0.5)[0])
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(view["picture"]))))
    assert np.abs(picture.astype(int) - result.image).mean() < 5


def test_more_than_256_classes_keep_their_numbers() -> None:
    labels = np.arange(300, dtype=np.int32).reshape(15, 20)
    names = tuple(f"class {i}" for i in range(300))
    zeros = np.zeros((300, 15, 20), np.float32)
    scores = Scores(zeros[0], np.tile([[[0]], [[1]]], (1, 15, 20)), zeros[:2], zeros)
    result = Result(np.zeros((15, 20, 3), np.uint8), labels, names, scores, [[0, 0, 0]] * 300)
    bank = TextBank(torch.zeros(300, 4), parse_class_names(names))
    view = json.loads(rendered(result, Vocabulary.of(bank, False, None), "view", b"", [], 0)[0])
    np.testing.assert_array_equal(unpacked(view["labels"]), labels)


# --- progress and warnings ---------------------------------------------------


def test_progress_rises_through_all_steps(quick: Segmenter, scene: Path) -> None:
    told: list[tuple[str, float]] = []
    progress = Progress(refine=True)

    def listen(step: str, share: float) -> None:
        progress(step, share)
        told.append((progress.step, progress.share))

    asked = fields(classes="pavilion; gazebo", views=True, refine=True)
    with listening(listen):
        segment(quick, scene.read_bytes(), asked, Limits())
    assert [step for step, _ in itertools.groupby(told, lambda entry: entry[0])] == ["texts", "image", "edges"]
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert len(set(shares)) > 5
    assert shares[-1] == 1
    heard = len(told)
    segment(quick, scene.read_bytes(), asked, Limits())  # nobody listens any more
    assert len(told) == heard


def test_warnings_reach_the_visitor(quick: Segmenter, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), collected_warnings() as messages:
        quick.prepare(["кошка"])
    assert len(messages) == 1
    assert "trained on English" in messages[0]
    quick.prepare(["собака"])
    assert len(messages) == 1


# --- the command -------------------------------------------------------------


def test_a_port_in_use_is_told_before_weights_are_loaded() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ItaclipError, match=rf"--port {port}: cannot listen there \(Address already in use\)"):
            serve_command.main(["--model", "no-such-model", "--port", str(port)])


@pytest.mark.parametrize("arguments", [["--port", "0"], ["--port", "70000"], ["--host", "no.such.host.invalid"]])
def test_an_address_that_cannot_be(arguments: list[str]) -> None:
    with pytest.raises(ItaclipError, match=arguments[1]):
        serve_command.main(["--model", "no-such-model", *arguments])


def test_listening_elsewhere_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    from itaclip.apps.web.address import is_loopback
    from itaclip.apps.web.server import serve

    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "example.org")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        with pytest.raises(ItaclipError, match="in use"):
            serve(lambda queue: None, Limits(), "0.0.0.0", other.getsockname()[1])  # type: ignore[arg-type]
        assert "0.0.0.0: anyone who can reach this machine can use the server" in caplog.text
        caplog.clear()
        with pytest.raises(ItaclipError, match="in use"):
            serve(lambda queue: None, Limits(), "0.0.0.0", other.getsockname()[1], guarded=True)  # type: ignore[arg-type]
    assert caplog.text == ""
