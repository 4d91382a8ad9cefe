"""Class lists at every door: unique names, one background, wrong types, labelme's files, addresses."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import ROOT
from mmengine.config import Config
from PIL import Image
from preparation_helpers import write_image, write_mask

import itaclip
from itaclip import ItaclipError, Result, Segmenter
from itaclip.apps.collection.segmenting import row_of
from itaclip.apps.command.main import main as program
from itaclip.apps.folders.finding import find_items
from itaclip.apps.folders.folder import segment_folder
from itaclip.apps.pipelines import ImageSegmentationPipeline
from itaclip.apps.web.api import make_api
from itaclip.apps.web.job_queue import JobQueue
from itaclip.apps.web.limits import Limits
from itaclip.core.second_encoders.loading import load_second_encoder
from itaclip.core.text import parse_class_names, read_class_names
from itaclip.core.text.class_names import read_lines
from itaclip.formats.configuration import read_model
from itaclip.research.preparation.commands.new_dataset import main as new_dataset
from itaclip.research.preparation.region_masks import find_images
from itaclip.vocabulary import CONTRAST_WORDS

WORDS = ["background", "cardboard box", "blank billboard"]
OWN = ", ".join(WORDS)


@pytest.fixture
def photo(demo_root: Path) -> Path:
    return demo_root / "JPEGImages/scene_002.jpg"


@pytest.fixture(scope="module")
def primed() -> Segmenter:
    """A segmenter of this module's own, with a class; others rely on `quick` having none."""
    segmenter = Segmenter("demo", "fast", pamr_steps=0)
    segmenter.set_classes(["house"])
    return segmenter


def named_everywhere(result: Result) -> None:
    """Every export tells all classes apart, and together they cover the image once."""
    names = set(result.areas)
    assert len(set(result.names)) == len(result.names)
    assert sum(result.areas.values()) == pytest.approx(1)
    np.testing.assert_array_equal(sum(mask.astype(int) for mask in result.masks().values()), 1)
    for name, mask in result.masks().items():
        assert mask.mean() == pytest.approx(result.areas[name])
        np.testing.assert_array_equal(mask, result.labels == result.names.index(name))
    assert sum(result.summary()["areas"].values()) == pytest.approx(1, abs=1e-5)
    assert [entry["label"] for entry in result.to_hf()] == [name for name in result.names if name in names]
    found = {
        feature["properties"]["name"]: feature["properties"]["area"] for feature in result.to_geojson()["features"]
    }
    assert found == {name: mask.sum() for name, mask in result.masks().items()}
    brushes = [region["value"]["brushlabels"][0] for region in result.to_label_studio(skip=())["result"]]
    assert sorted(brushes) == sorted(names)
    coco = result.to_coco()
    name_of = {category["id"]: category["name"] for category in coco["categories"]}
    assert len(set(name_of.values())) == len(name_of)
    assert {name_of[entry["category_id"]]: entry["area"] for entry in coco["annotations"]} == found
    assert sum(segment["share"] for segment in row_of("photo", result)["segments"]) == pytest.approx(1)
    if find_spec("supervision"):
        detections = result.to_supervision()
        for name, mask in zip(detections.data["class_name"], detections.mask, strict=True):
            np.testing.assert_array_equal(mask, result.mask(str(name)))


# --- one background ------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "others", "background"),
    [
        ([OWN, "house", "balloon"], ["house", "balloon"], WORDS),
        (["house", "balloon, hot-air balloon", "Background"], ["house", "balloon, hot-air balloon"], True),
        (["cloud", ["_background_", *WORDS[1:]], "tree"], ["cloud", "tree"], WORDS),
        (["__ignore__", "_background_", "house"], ["house"], True),
    ],
)
def test_a_class_named_background_is_the_background(
    quick: Segmenter, photo: Path, classes: list[Any], others: list[str], background: Any
) -> None:
    vocabulary = quick.prepare(classes)
    assert vocabulary.names == ("background", *(name.split(",")[0] for name in others))
    assert vocabulary.background
    result, expected = quick(photo, vocabulary), quick(photo, quick.prepare(others, background))
    np.testing.assert_array_equal(result.labels, expected.labels)
    np.testing.assert_array_equal(result.scores.values, expected.scores.values)
    named_everywhere(result)


def test_a_background_that_comes_later_is_announced(quick: Segmenter, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        quick.prepare(["background", "house", "tree"])
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING):
        quick.prepare(["house", "background", "tree"])
    assert "background, house, tree" in caplog.text


@pytest.mark.parametrize("name", ["background", "Background", "BACK GROUND"])
def test_without_a_background_it_is_a_class_like_any_other(quick: Segmenter, photo: Path, name: str) -> None:
    vocabulary = quick.prepare(["house", f"{name}, sky", "tree"], background=False)
    assert vocabulary.names == ("house", name, "tree")
    assert not vocabulary.background
    assert vocabulary.bank.class_names.synonyms[1] == (name, "sky")
    named_everywhere(quick(photo, vocabulary))


def test_a_synonym_is_no_name(quick: Segmenter, photo: Path) -> None:
    vocabulary = quick.prepare(["wall, background", "house"])
    assert vocabulary.names == ("background", "wall", "house")
    assert not {"background", "wall"} & set(vocabulary.bank.class_names.synonyms[0])
    named_everywhere(quick(photo, vocabulary))


@pytest.mark.parametrize("classes", [["curtains", "S-and"], ["tree house", "Snow"], ["sky-scraper", "side walk"]])
def test_general_words_make_way_for_any_spelling(quick: Segmenter, classes: list[str]) -> None:
    words = quick.prepare(classes).bank.class_names.synonyms[0]
    taken = {"curtains": {"curtain", "sand"}, "tree house": {"tree", "snow"}, "sky-scraper": set()}[classes[0]]
    assert set(CONTRAST_WORDS) - set(words) == taken


@pytest.mark.parametrize(
    ("classes", "options", "message"),
    [
        ([OWN, "house"], {"background": ["sky"]}, "names the background, and background = sky"),
        (["background", "_background_", "x"], {}, "'background' already occurs on line 1"),
        (["x", "Background", "background, sky"], {"background": False}, "'background' already occurs on line 2"),
        (["background, sky"], {}, "nothing but the background"),
        (["background, house", "house"], {}, "'house' already occurs on line 1"),
        (["house"], {"background": ["sky", "HOUSE"]}, "background: 'HOUSE' already occurs in class 'house'"),
        (["traffic light", "traffic-light"], {}, "'traffic-light' already occurs on line 1"),
        (["cat", "sofa, C at"], {}, "'C at' already occurs on line 1"),
        ([*CONTRAST_WORDS[1:], "plane, background"], {}, "uses all general words"),
        (["background", "x"], {"definitions": {"background": "nothing"}}, "the background has no definition"),
        (["sofa, couch"], {"definitions": {"sofa": "a seat", "couch": "a bed"}}, "class 'sofa' has one already"),
        (["house", "__ignore__"], {}, "line 2: '__ignore__' is no class"),
        (["__ignore__"], {}, "contains no class"),
    ],
)
def test_names_that_collide_are_refused(
    quick: Segmenter, classes: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ItaclipError, match=message):
        quick.prepare(classes, **options)


# --- other doors -----------------------------------------------------------------


LISTS = [[OWN, "house", "balloon"], ["house", "background", "cloud"], ["__ignore__", "_background_", "tree", "cloud"]]


@pytest.mark.parametrize("classes", LISTS)
def test_the_pipeline_follows_the_rule(quick: Segmenter, photo: Path, classes: list[str]) -> None:
    expected = quick(photo, quick.prepare(classes))
    found = itaclip.pipeline(model=quick, candidate_labels=classes)(photo)
    assert [entry["label"] for entry in found] == [name for name in expected.names if name in expected.areas]
    for entry in found:
        np.testing.assert_array_equal(np.asarray(entry["mask"]) == 255, expected.mask(entry["label"]))


@pytest.mark.parametrize("classes", LISTS)
def test_the_command_line_follows_the_rule(
    quick: Segmenter, photo: Path, tmp_path: Path, classes: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "words.txt").write_text("\n".join(classes) + "\n")
    expected = quick(photo, quick.prepare(classes))
    common = ["segment", str(photo), "--model", "demo", "--quality", "fast", "--set", "pamr_steps=0"]
    for number, options in enumerate(
        (["--classes", "; ".join(classes)], ["--classes-file", str(tmp_path / "words.txt")])
    ):
        out = tmp_path / str(number)
        assert program([*common, *options, "--out", str(out)]) == 0
        with Image.open(out / "masks/scene_002.png") as mask:
            np.testing.assert_array_equal(np.asarray(mask), expected.labels)
        line = json.loads((out / "results.jsonl").read_text())
        assert sum(line["areas"].values()) == pytest.approx(1, abs=1e-5)
        assert list(line["areas"]) == list(expected.areas)
    assert ", ".join(expected.names) in " ".join(capsys.readouterr().out.split())


def test_the_command_line_chooses_words(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lexicon.txt").write_text("grass, sea\nsnow, sky\n")
    common = ["segment", str(photo), "--model", "demo", "--quality", "fast", "--set", "pamr_steps=0",
              "--classes", "cat", "--out", str(tmp_path / "out"), "--lexicon",
              str(tmp_path / "lexicon.txt")]  # fmt: skip
    assert program([*common, "--background", "auto"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "4 words chosen; the classes stand for 0 of the 4 words of the lexicon (0%) (background, " in told
    key = json.loads((tmp_path / "out/run.json").read_text())
    assert set(key["classes"][0]) == {"background", "grass", "sea", "snow", "sky"}
    with pytest.raises(ItaclipError, match=r"--lexicon: .*only with --background auto"):
        program(common)


def test_messages_name_the_class_file_and_its_line(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("cat\nwall\nCAT\n")
    command = ["segment", str(tmp_path), "--model", "demo", "--classes-file", str(path), "--out", str(tmp_path / "out")]
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    with pytest.raises(ItaclipError, match=r"words\.txt, line 3: 'CAT' already occurs on line 1"):
        program(command)
    path.write_text("cat\nwall\n")
    with pytest.raises(ItaclipError, match="background: 'wall' already occurs in class 'wall'"):
        program([*command, "--background", "wall, floor"])
    path.write_text("background, wall\ncat\n")
    with pytest.raises(ItaclipError, match=r"words\.txt: names the background, and background = floor"):
        program([*command, "--background", "floor"])


def posted(segmenter: Segmenter, **fields: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(make_api(segmenter, "", Limits(), JobQueue(2)))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/v1/segment", json=fields)

    return asyncio.run(ask())


@pytest.mark.parametrize("classes", LISTS)
def test_http_answers_follow_the_rule(quick: Segmenter, photo: Path, classes: list[str]) -> None:
    expected = quick(photo, quick.prepare(classes), scores="full")
    image = base64.b64encode(photo.read_bytes()).decode()
    answer = posted(quick, image=image, classes=classes).json()
    assert [entry["name"] for entry in answer["classes"]] == list(expected.names)
    assert sum(entry["area"] for entry in answer["classes"]) == pytest.approx(1)
    for entry in answer["classes"]:
        mask = expected.labels == entry["label"]
        assert entry["area"] == pytest.approx(mask.mean())
        assert entry["score"] == (
            pytest.approx(expected.score_map(entry["label"])[mask].mean()) if mask.any() else None
        )
    assert any("the others keep their order" in text for text in answer["warnings"]) == (classes[0] == "house")
    geojson = posted(quick, image=image, classes=classes, output="geojson").json()
    assert {entry["properties"]["name"] for entry in geojson["features"]} == set(expected.areas)
    refused = posted(quick, image=image, classes=[OWN, "house"], background=["sky"])
    assert refused.status_code == 422
    assert "names the background" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("classes", "options"),
    [
        ([OWN, "house", "balloon"], {}),
        (["house", "background, sky", "tree"], {"background": False}),
        (["cloud", "house"], {"background": ["sky"], "colors": {"cloud": "#102030", "background": (1, 2, 3)}}),
    ],
)
def test_saved_and_served_segmenters_keep_names_and_colors(
    photo: Path, tmp_path: Path, classes: list[str], options: dict[str, Any]
) -> None:
    original = Segmenter("demo", "fast", pamr_steps=0)
    original.set_classes(classes, **options)
    expected = original(photo)
    original.save_pretrained(tmp_path)
    loaded = Segmenter.from_pretrained(tmp_path)
    result = loaded(photo)
    assert (result.names, result.colors) == (expected.names, expected.colors)
    np.testing.assert_array_equal(result.labels, expected.labels)
    answer = posted(loaded, image=base64.b64encode(photo.read_bytes()).decode()).json()
    assert [(entry["name"], tuple(entry["color"])) for entry in answer["classes"]] == list(
        zip(expected.names, expected.colors, strict=True)
    )
    assert {entry["name"]: entry["area"] for entry in answer["classes"] if entry["area"]} == pytest.approx(
        expected.areas
    )


@pytest.mark.parametrize(
    ("classes", "background", "message"),
    [
        ([["house"], ["House"], ["tree"]], False, "classes, line 2: 'House' already occurs on line 1"),
        ([["background"], ["tree"], ["_background_"]], True, "classes, line 3: names a second background"),
        ([["sky"], ["sky"], ["tree"]], True, "classes, line 2: 'sky' already occurs on line 1"),
    ],
)
def test_saved_names_that_collide_are_refused(
    tmp_path: Path, classes: list[list[str]], background: bool, message: str
) -> None:
    segmenter = Segmenter("demo", "fast", pamr_steps=0)
    segmenter.set_classes(["house", "tree", "cloud"], background=False)
    segmenter.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "itaclip.json").read_text())
    content["vocabulary"] |= {"classes": classes, "background": background}
    (tmp_path / "itaclip.json").write_text(json.dumps(content))
    with pytest.raises(ItaclipError, match=rf"itaclip\.json: {message}"):
        Segmenter.from_pretrained(tmp_path)


def test_results_with_equal_names_are_refused() -> None:
    image, labels = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.int32)
    with pytest.raises(ItaclipError, match="two classes are named 'cat'"):
        Result(image, labels, ("cat", "dog", "cat"), np.zeros((3, 2, 2), np.float32), [(0, 0, 0)] * 3)


def test_classes_are_left_out_of_label_studio_by_whole_names(quick: Segmenter, photo: Path) -> None:
    result = quick(photo, quick.prepare(["ground", "house"]))
    with pytest.raises(ItaclipError, match=r"skip = 'background': expected a list"):
        result.to_label_studio(skip="background")
    assert result.mask(np.int64(1)).sum() == result.mask("ground").sum()


# --- configurations and class files ------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "background", "names"),
    [
        (["background, sky", "cat"], True, ("background", "cat")),
        (["cat", "background", "dog"], False, ("cat", "background", "dog")),
        (["sky, wall, bed", "cat", "bed"], True, ("sky", "cat", "bed")),
        (["__ignore__", "_background_", "cat", "dog"], True, ("background", "cat", "dog")),
        (["__ignore__", "_background_, sky", "cat"], False, ("background", "cat")),
    ],
)
def test_class_files_keep_their_order(
    tmp_path: Path, lines: list[str], background: bool, names: tuple[str, ...]
) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("\n".join(lines) + "\n")
    assert read_class_names(path, background).names == names


@pytest.mark.parametrize(
    ("lines", "background", "message"),
    [
        (["cat", "background"], True, r"line 2: names a second background.*line 1 is the background"),
        (["sky", "cat", "_background_, wall"], True, "line 3: names a second background"),
        (["__ignore__", "sky", "Background"], True, "line 3: .*line 2 is the background"),
        (["sky, wall", "Sky"], True, "'Sky' already occurs on line 1"),
        (["background", "cat", "Back-ground"], False, "'Back-ground' already occurs on line 1"),
        (["cat", "__ignore__", "dog"], False, "line 2: '__ignore__' is no class"),
        (["cat; dog"], False, "line 1: 'cat; dog' contains ';'"),
    ],
)
def test_class_files_are_never_reordered(lines: list[str], background: bool, message: str) -> None:
    with pytest.raises(ItaclipError, match=message):
        parse_class_names(lines, "names.txt", background)


def test_a_configuration_gives_unique_names(photo: Path, tmp_path: Path) -> None:
    config = ROOT / "configs/cfg_demo.py"
    segmenter = Segmenter.from_config(config, slide_stride=112, pamr_steps=0)
    named_everywhere(segmenter(photo))
    lines = read_lines(read_model(config).classes.name_path)
    assert segmenter.names == ("background", *(line.split(", ")[0] for line in lines[1:]))
    lines[3] = f"background, {lines[3]}"
    (tmp_path / "classes.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "cfg.py").write_text(f'_base_ = "{config}"\nmodel = dict(name_path="{tmp_path}/classes.txt")\n')
    with pytest.raises(ItaclipError, match=r"classes\.txt, line 4: names a second background"):
        Segmenter.from_config(tmp_path / "cfg.py", pamr_steps=0)


# --- labelme's labels.txt ------------------------------------------------------------


def labelme_dataset(folder: Path, highest: int) -> list[str]:
    """What labelme2voc writes: ids from the second line of labels.txt on, 255 for __ignore__."""
    (folder / "labels.txt").write_text("__ignore__\n_background_\ncat\ndog\n")
    for number, values in enumerate(([0, 1, 255], [0, 2, 1], [0, highest, 255])):
        write_image(folder / f"images/{number}.jpg", 4, 6)
        write_mask(folder / f"masks/{number}.png", np.resize(values, (4, 6)), "P")
    return [str(folder / "images"), str(folder / "masks"), "--classes", str(folder / "labels.txt"), "--name", "pets",
            "--out", str(folder / "out")]  # fmt: skip


def test_labelme_s_labels_fit_its_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = labelme_dataset(tmp_path, 2)
    assert new_dataset(ROOT / "configs/base.py", [*arguments, "--background"]) == 0
    assert "pass --background" not in capsys.readouterr().out
    config = Config.fromfile(tmp_path / "out/configs/cfg_pets.py")
    assert config.test_dataloader.dataset.metainfo.classes == ["background", "cat", "dog"]
    assert read_class_names(config.model.name_path, True).names == ("background", "cat", "dog")
    assert (tmp_path / "out/llm_texts/pets_definitions.txt").read_text() == "cat >=\ndog >=\n"


def test_labelme_s_masks_with_more_labels_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert new_dataset(ROOT / "configs/base.py", [*labelme_dataset(tmp_path, 3), "--background"]) == 1
    assert "outside 0..2" in " ".join(capsys.readouterr().out.split())


def test_a_background_without_its_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = labelme_dataset(tmp_path, 2)
    with pytest.raises(ItaclipError, match=r"labels\.txt: the first class is the background, but with --ignore-zero"):
        new_dataset(ROOT / "configs/base.py", [*arguments, "--ignore-zero"])
    assert not (tmp_path / "out").exists()
    assert new_dataset(ROOT / "configs/base.py", arguments) == 0
    assert "pass --background" in " ".join(capsys.readouterr().out.split())


# --- wrong types -------------------------------------------------------------------


@pytest.mark.parametrize(
    "classes",
    [
        np.array(["cat", "sofa, couch"]), ("cat", ("sofa", "couch")), (word for word in ("cat", "sofa, couch")),
        {"cat": 0, "sofa, couch": 1}.keys(), ["cat\n", " sofa , couch \r\n"], ["cat", np.array(["sofa", "couch"])],
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_any_series_of_names_is_a_list(quick: Segmenter, classes: Any) -> None:
    vocabulary = quick.prepare(classes)
    assert vocabulary.names == ("background", "cat", "sofa")
    assert vocabulary.bank.class_names.synonyms[1:] == (("cat",), ("sofa", "couch"))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (b"sky", r"classes = b'sky': expected a list"),
        ([b"sky"], r"entry 1: b'sky': expected a name as text"),
        ({"cat": "a small animal"}, "expected a list of names, not a dict.*definitions="),
        ({"cat", "dog"}, "type set: has no order"),
        (np.arange(3), "entry 1: 0: expected a name"),
        (3, "of type int: expected a list"),
        (None, "of type NoneType: expected a list"),
        (["cat", None], "entry 2: None: expected a name"),
        (["cat", {"dog", "hound"}], "entry 2: .*expected a name as text, or a list of synonyms, not set"),
        ([["cat", ["kitten"]]], "entry 1: .*not list"),
        (["cat\ndog"], "entry 1: .*several lines"),
        (["cat; dog"], "contains ';'"),
    ],
)  # fmt: skip
def test_other_types_are_refused(quick: Segmenter, classes: Any, message: str) -> None:
    with pytest.raises(ItaclipError, match=message):
        quick.prepare(classes)
    with pytest.raises(ItaclipError, match=message):
        quick.set_classes(classes)
    if classes is not None:
        with pytest.raises(ItaclipError, match=message):
            itaclip.pipeline(model=quick, candidate_labels=classes)


@pytest.mark.parametrize("words", [np.array(["sky", "wall"]), ("sky", "wall"), "sky, wall", iter(["sky", "wall"])])
def test_any_series_of_words_is_a_background(quick: Segmenter, words: Any) -> None:
    assert quick.prepare(["cat"], words).bank.class_names.synonyms == (("sky", "wall"), ("cat",))


@pytest.mark.parametrize(
    "background", [None, 0, 1, np.False_, {"sky"}, {"sky": 1}, b"sky", "no", ["none"], "True", [1]]
)
def test_other_backgrounds_are_refused(quick: Segmenter, background: Any) -> None:
    with pytest.raises(ItaclipError, match=r"^background"):
        quick.prepare(["cat"], background)


@pytest.mark.parametrize(
    "definitions", [["a small animal"], "cat >=a small animal", {"cat": 1}, {1: "x"}, {"cat": None}]
)
def test_other_definitions_are_refused(quick: Segmenter, definitions: Any) -> None:
    with pytest.raises(ItaclipError, match=r"^definition"):
        quick.prepare(["cat"], definitions=definitions)


@pytest.mark.parametrize("second", [["cat"], [], "cat", "other.jpg", {"cat"}, 0, np.zeros((4, 4, 3), np.uint8)])
def test_a_second_argument_that_is_no_vocabulary(primed: Segmenter, second: Any) -> None:
    image = np.zeros((40, 50, 3), np.uint8)
    message = rf"vocabulary of type {type(second).__name__}: .*set_classes.*prepare"
    doors: list[Callable[[], Any]] = [
        lambda: primed(image, second),
        lambda: primed([image], vocabulary=second),
        lambda: list(primed.stream([image], 1, second)),
        lambda: segment_folder(primed, second, [], Path("never")),
        lambda: ImageSegmentationPipeline(primed, second),
    ]
    for door in doors:
        with pytest.raises(ItaclipError, match=message):
            door()
    assert not Path("never").exists()


@pytest.mark.parametrize("name", ["classes", "background", "definitions", "candidate_labels", "colors"])
def test_what_belongs_to_the_class_list_is_no_setting(primed: Segmenter, name: str) -> None:
    for door in (
        lambda: primed(np.zeros((40, 50, 3), np.uint8), **{name: ["cat"]}),
        lambda: Segmenter("demo", **{name: 0}),
    ):
        with pytest.raises(ItaclipError, match=rf"^{name}: belongs to the class list; pass it to set_classes"):
            door()


def test_a_pipeline_s_second_argument_is_a_model() -> None:
    with pytest.raises(ItaclipError, match=r"model = .*candidate_labels"):
        itaclip.pipeline("image-segmentation", ["cat", "dog"])  # type: ignore[arg-type]


@pytest.mark.parametrize("images", ["photo.jpg", Path("photo.jpg"), b"content", Image.new("RGB", (4, 4))])
def test_a_stream_is_no_single_image(quick: Segmenter, images: Any) -> None:
    with pytest.raises(ItaclipError, match="expected several images"):
        next(quick.stream(images))
    with pytest.raises(ItaclipError, match="batch = 0"):
        next(quick.stream([np.zeros((4, 4, 3), np.uint8)], batch=0))


# --- colours -----------------------------------------------------------------------


@pytest.mark.parametrize("color", ["#ff8000", (255, 128, 0), np.array([255, 128, 0], np.uint8), "rgb(255, 128, 0)"])
def test_colors_of_one_s_own(quick: Segmenter, photo: Path, tmp_path: Path, color: Any) -> None:
    plain = quick(photo, quick.prepare(["house", "tree"]))
    result = quick(photo, quick.prepare(["house", "tree"], colors={"house": color}))
    assert list(result.colors) == [plain.colors[0], (255, 128, 0), plain.colors[2]]
    paths = result.save(tmp_path)
    with Image.open(paths["mask"]) as mask:
        assert (np.asarray(mask.convert("RGB"))[result.mask("house")] == (255, 128, 0)).all()
        np.testing.assert_array_equal(np.asarray(mask), result.labels)
    assert (np.asarray(result.overlay()) != np.asarray(plain.overlay())).any()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("house=#ff8000", {"house": (255, 128, 0)}),
        (" house = orange ;a=b=rgb(1, 2, 3)", {"house": (255, 165, 0), "a=b": (1, 2, 3)}),
        ("background=#102030; a=b=red;", {"background": (16, 32, 48), "a=b": (255, 0, 0)}),
    ],
)
@pytest.mark.parametrize("saved", [False, True])
def test_colors_on_the_command_line(
    text: str, expected: dict[str, tuple[int, int, int]], saved: bool, photo: Path, tmp_path: Path
) -> None:
    segmenter = Segmenter("demo", "fast", pamr_steps=0)
    segmenter.set_classes(["house", "a=b"])
    classes = ["--model", "demo", "--quality", "fast", "--set", "pamr_steps=0", "--classes", "house; a=b"]
    if saved:
        segmenter.save_pretrained(tmp_path / "saved")
        classes = ["--model", str(tmp_path / "saved")]
    assert program(["segment", str(photo), *classes, "--colors", text, "--out", str(tmp_path / "out")]) == 0
    usual = dict(zip(segmenter.names, segmenter.vocabulary.colors if segmenter.vocabulary else (), strict=True))
    with Image.open(tmp_path / "out/masks/scene_002.png") as mask:
        palette = np.reshape(mask.getpalette()[:9], (3, 3)).tolist()
    assert [tuple(color) for color in palette] == list((usual | expected).values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#ff8000", "--colors '#ff8000': expected NAME=COLOR, such as cat=#ff8000"),
        ("hose=red", "color of 'hose': no class has this name. Did you mean 'house'"),
        ("house=reddish", "color of 'house' = 'reddish': expected three whole numbers"),
    ],
)
def test_bad_colors_on_the_command_line(text: str, message: str, photo: Path, tmp_path: Path) -> None:
    command = ["segment", str(photo), "--model", "demo", "--classes", "house", "--out", str(tmp_path / "out")]
    with pytest.raises(ItaclipError, match=re.escape(message)):
        program([*command, "--colors", text])


def test_runs_with_other_colors_never_mix(quick: Segmenter, photo: Path, tmp_path: Path) -> None:
    items = find_items([photo])
    segment_folder(quick, quick.prepare(["house"]), items, tmp_path)
    with pytest.raises(ItaclipError, match=r"results of another run \(different colors\)"):
        segment_folder(quick, quick.prepare(["house"], colors={"house": "red"}), items, tmp_path)
    assert segment_folder(quick, quick.prepare(["house"]), items, tmp_path).kept == 1


@pytest.mark.parametrize(
    ("colors", "message"),
    [
        ({"hose": "red"}, "no class has this name. Did you mean 'house'"),
        ({"house": "reddish"}, "expected three whole numbers"),
        ({"house": (255, 0)}, "expected three whole numbers"),
        ({"house": (0.5, 0.5, 0.5)}, "expected three whole numbers"),
        ({"house": (256, 0, 0)}, "expected three whole numbers"),
        ({"house": None}, "expected three whole numbers"),
        (["red"], "colors of type list: expected colours by class name"),
        ("red", "colors of type str"),
    ],
)
def test_bad_colors(quick: Segmenter, colors: Any, message: str) -> None:
    with pytest.raises(ItaclipError, match=message):
        quick.prepare(["house"], colors=colors)


# --- addresses ---------------------------------------------------------------------


ADDRESSES = ["https://example.org/a/photo.jpg?size=1", "s3://bucket/photo.jpg", "HTTP://example.org/x.png"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses_are_told_unharmed(primed: Segmenter, tmp_path: Path, address: str) -> None:
    image = np.zeros((40, 50, 3), np.uint8)
    target = address.rpartition("/")[0]
    doors: list[Callable[[], Any]] = [
        lambda: primed(address),
        lambda: primed([image, address]),
        lambda: primed(Path(address)),
        lambda: next(primed.stream([address])),
        lambda: itaclip.pipeline(model=primed)(Path(address)),
        lambda: find_items([address]),
        lambda: find_images([address]),
        lambda: load_second_encoder(f"dino-vitb8@{address}"),
        lambda: Segmenter(address),
        lambda: Segmenter.from_config(Path(address)),
        lambda: Segmenter.from_pretrained(address),
        lambda: read_class_names(address),
    ]
    for door in doors:
        with pytest.raises(ItaclipError) as caught:
            door()
        assert str(caught.value).lower().startswith(f"{address}: an address".lower())
    for write in (
        lambda: primed(image).save(target, "photo"),
        lambda: primed.save_pretrained(target),
        lambda: segment_folder(primed, primed.prepare(["house"]), [], Path(target)),
    ):
        with pytest.raises(ItaclipError, match="an address"):
            write()
    assert not Path(target).exists()


def test_other_names_with_colons(primed: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ItaclipError, match=r"^data:image/png;base64,A+\.\.\.: an address.*itaclip\.pipeline"):
        primed("data:image/png;base64," + "A" * 5000)
    with pytest.raises(ItaclipError, match=r"Write the path alone: /photos/a\.jpg"):
        primed("file:///photos/a.jpg")
    with pytest.raises(ItaclipError, match=r"^C:/photos/a\.jpg: no such file"):
        primed("C:/photos/a.jpg")
    Image.new("RGB", (40, 30), "green").save(tmp_path / "at 10:30.png")
    (tmp_path / "day:").mkdir()
    Image.new("RGB", (40, 30), "green").save(tmp_path / "day:/a.png")
    for name in ("at 10:30.png", "day:/a.png", Path("day:/a.png")):
        assert primed(name).labels.shape == (30, 40)
    assert primed("day:/a.png").save("day:", "b")["mask"].is_file()
