"""The web page's form, limits and answer, without a server."""

from __future__ import annotations

import json
import logging
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from itaclip import Segmenter
from itaclip.command import serve as serve_command
from itaclip.errors import ItaclipError
from itaclip.vocabulary import split_definitions
from itaclip.web.answer import (
    Form,
    collected_warnings,
    legend_table,
    score_maps,
    segment,
    words_of,
    write_downloads,
)
from itaclip.web.limits import Limits, TimeLimit

CLASSES = "bus, city bus; fence\nhouse"
LIST = ["bus, city bus", "fence", "house"]
PLAIN = {"refine": False, "views": False}


@pytest.fixture
def scene(demo_root: Path) -> Path:
    return demo_root / "JPEGImages/scene_003.jpg"


@pytest.mark.parametrize(
    ("changes", "background", "settings"),
    [
        ({}, True, {}),
        ({"background": "none"}, False, {}),
        ({"background": "own", "own_words": "water; wood"}, ["water", "wood"], {}),
        ({"refine": True, "views": True}, True, {"pamr_steps": 10, "img_engineering": True}),
        ({"threshold": 0.9}, True, {"prob_thd": 0.9}),
        ({"method": "scclip", "correct": True}, True, {"method": "scclip", "map_correction": True}),
    ],
)
def test_labels_are_those_of_the_python_interface(
    quick: Segmenter, scene: Path, changes: dict, background: bool | list[str], settings: dict
) -> None:
    result = segment(quick, Form(scene, "mine.jpg", CLASSES, **(PLAIN | changes)), Limits())
    expected = quick(scene, quick.prepare(LIST, background), **settings)
    np.testing.assert_array_equal(result.labels, expected.labels)
    assert result.names == expected.names
    assert len(result.areas) > 1 or settings.get("method") == "scclip"


def test_the_form_of_a_configuration_gives_its_labels(scene: Path) -> None:
    segmenter = Segmenter.from_config(
        ROOT / "configs/cfg_demo.py", img_engineering=False, pamr_steps=0, slide_stride=112
    )
    classes, background, own_words, definitions = words_of(segmenter.vocabulary)
    assert (classes.splitlines()[1], background) == ("night sky, starry sky", "own")
    form = Form(scene, "mine.jpg", classes, background, own_words, definitions, threshold=segmenter.settings.prob_thd)
    result = segment(segmenter, replace(form, **PLAIN), Limits())
    np.testing.assert_array_equal(result.labels, segmenter(scene).labels)
    assert len(result.areas) > 3


def test_a_configuration_with_too_many_words_is_told_at_once() -> None:
    pytest.importorskip("gradio")
    from web_helpers import free_port

    options = ["--config", str(ROOT / "configs/cfg_demo.py"), "--port", str(free_port())]
    with pytest.raises(ItaclipError, match=r"--max-words 5: the configuration's classes have \d+; raise it"):
        serve_command.main([*options, "--max-words", "5"])


def test_definitions_change_the_scores(quick: Segmenter, scene: Path) -> None:
    form = Form(scene, "mine.jpg", CLASSES, **PLAIN)
    told = replace(form, definitions="\nfence >=pointed pales\ncity bus >=a long vehicle\n")
    assert split_definitions(told.definitions.splitlines(), "definitions") == {
        "fence": "pointed pales",
        "city bus": "a long vehicle",
    }
    changed = segment(quick, told, Limits()).scores
    expected = quick.prepare(LIST, True, split_definitions(told.definitions.splitlines(), "definitions"))
    np.testing.assert_allclose(changed, quick(scene, expected).scores, atol=1e-5)
    assert not np.array_equal(changed, segment(quick, form, Limits()).scores)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": " ;\n"}, "class list is empty"),
        ({"classes": "cat; dog; Cat"}, "'Cat' already occurs on line 1"),
        ({"classes": "a, b; c, d"}, "4 words, synonyms included; at most 3"),
        ({"classes": "a; b", "background": "own", "own_words": "c, d"}, "4 words, synonyms included; at most 3"),
        ({"background": "own", "own_words": " "}, "list words for what surrounds the classes"),
        ({"definitions": "fire: hot"}, "definitions, line 1: 'fire: hot' has no ' >='"),
        ({"definitions": "fire >=hot"}, "'fire'"),
        ({"method": "mine"}, r"method = 'mine': expected one of itaclip, clip, "),
        ({"threshold": 7.0}, r"prob_thd = 7.0: expected in \[0, 1\]"),
    ],
)
def test_refuses_with_a_reason(quick: Segmenter, scene: Path, changes: dict, message: str) -> None:
    form = Form(scene, "mine.jpg", **({"classes": "grass; stripes"} | PLAIN | changes))
    with pytest.raises(ItaclipError, match=message):
        segment(quick, form, Limits(words=3))


@pytest.mark.parametrize("kind", ["text", "truncated", "eps", "large", "missing"])
def test_a_bad_image_is_named_as_its_owner_does(quick: Segmenter, tmp_path: Path, scene: Path, kind: str) -> None:
    path = tmp_path / "server_folder" / "stored.png"
    path.parent.mkdir()
    if kind == "text":
        path.write_text("no image at all")
    elif kind == "truncated":
        path.write_bytes(scene.read_bytes()[:2000])
    elif kind == "eps":  # PIL would start Ghostscript
        Image.new("RGB", (20, 20)).save(path, "EPS")
    elif kind == "large":
        Image.new("RGB", (1001, 1000)).save(path)
    with pytest.raises(ItaclipError) as refusal:
        segment(quick, Form(path, "holiday.png", "grass"), Limits(megapixels=1))
    assert str(refusal.value).startswith("holiday.png: ")
    assert "server_folder" not in str(refusal.value)


@pytest.mark.parametrize(
    ("image", "values", "message"),
    [
        (None, {}, "no image"),
        ({"path": None, "url": "data:image/png;base64,AAAA"}, {}, "no image"),
        ({"path": "a.png"}, {"classes": 5}, "classes = '5': expected a str"),
        ({"path": "a.png"}, {"classes": "cat", "views": "yes"}, "views = 'yes': expected a bool"),
        ({"path": "a.png"}, {"classes": "cat", "threshold": []}, "expected a float"),
        ({"path": "a.png"}, {"classes": "cat", "background": "maybe"}, "expected general, own or none"),
        ({"path": "a.png"}, {"classes": "x" * 11}, "11 characters of text; at most 10"),
    ],
)
def test_a_form_of_the_wrong_kind_is_refused(image: object, values: dict, message: str) -> None:
    with pytest.raises(ItaclipError, match=message):
        Form.of(image, Limits(characters=10), **values)


def test_a_file_keeps_its_name_but_not_its_folders() -> None:
    assert Form.of({"path": "/srv/x.png", "orig_name": "../../etc/y.png"}, Limits(), classes="cat").name == "y.png"


# --- limits ------------------------------------------------------------------


def test_time_limit_ends_a_computation_and_frees_the_segmenter(quick: Segmenter, scene: Path) -> None:
    form = Form(scene, "mine.jpg", CLASSES, **PLAIN)
    with pytest.raises(ItaclipError, match="stopped after 1e-06 s"):
        segment(quick, form, Limits(seconds=1e-6))
    assert segment(quick, form, Limits()).labels.shape == (281, 326)


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


# --- what is shown and taken away --------------------------------------------


def test_downloads_hold_the_result(quick: Segmenter, scene: Path, tmp_path: Path) -> None:
    result = segment(quick, Form(scene, "../my: scene?.jpg", CLASSES, **PLAIN), Limits())
    paths = write_downloads(result, tmp_path)
    assert paths["mask"].name == "my_scene.png"
    with Image.open(paths["mask"]) as mask:
        np.testing.assert_array_equal(np.asarray(mask), result.labels)
        assert mask.getpalette()[:6] == [*result.colors[0], *result.colors[1]]
    assert json.loads(paths["json"].read_text()) == result.summary()
    assert json.loads(paths["coco"].read_text()) == result.coco()


def test_class_names_are_text_not_html(quick: Segmenter, scene: Path) -> None:
    names = "<b>grass</b>; <script>stripes</script>"
    legend = legend_table(segment(quick, Form(scene, "mine.jpg", names, background="none", **PLAIN), Limits()))
    assert "&lt;b&gt;grass" in legend
    assert "&lt;script&gt;stripes" in legend
    assert "<script" not in legend


def test_score_maps_start_with_the_highest_score(quick: Segmenter, scene: Path) -> None:
    result = segment(quick, Form(scene, "mine.jpg", CLASSES, **PLAIN), Limits())
    maps = score_maps(result)
    order = sorted(result.names, key=lambda name: -result.score_map(name).max())
    assert [caption.split(":")[0] for _, caption in maps] == order
    assert all(picture.shape == result.image.shape for picture, _ in maps)
    peak = np.unravel_index(result.score_map(order[0]).argmax(), result.labels.shape)
    assert maps[0][0][peak].mean() > maps[-1][0][peak].mean()  # bright where the score is high


def test_warnings_reach_the_visitor(quick: Segmenter, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), collected_warnings() as messages:
        quick.prepare(["кошка"])
    assert len(messages) == 1
    assert "trained on English" in messages[0]
    quick.prepare(["собака"])
    assert len(messages) == 1


# --- the command -------------------------------------------------------------


def test_says_how_to_get_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ItaclipError, match=r"pip install 'itaclip\[web\]'"):
        serve_command.main(["--model", "demo"])


def test_a_port_in_use_is_told_before_weights_are_loaded() -> None:
    pytest.importorskip("gradio")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ItaclipError, match=rf"--port {port}: cannot be listened at \(Address already in use\)"):
            serve_command.main(["--model", "no-such-model", "--port", str(port)])


@pytest.mark.parametrize("arguments", [["--port", "0"], ["--port", "70000"], ["--host", "no.such.host.invalid"]])
def test_an_address_that_cannot_be(arguments: list[str]) -> None:
    pytest.importorskip("gradio")
    with pytest.raises(ItaclipError, match=arguments[1]):
        serve_command.main(["--model", "no-such-model", *arguments])


def test_listening_elsewhere_is_warned_of(quick: Segmenter, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("gradio")
    from itaclip.web.address import is_loopback
    from itaclip.web.server import serve

    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "example.org")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        with pytest.raises(ItaclipError, match="in use"):
            serve(quick, "", Limits(), "0.0.0.0", other.getsockname()[1])
    assert "0.0.0.0: whoever reaches this machine can use the page" in caplog.text
