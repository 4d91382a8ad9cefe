"""Words of the background that are chosen by their text features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT

from itaclip.core.text import ConfiguredClasses, TextEncoder, parse_class_names, read_class_names
from itaclip.core.text.background import (
    MOST_CLASSES,
    MOST_WORDS,
    BackgroundChoice,
    choose_background,
    facility_location,
    read_lexicon,
)
from itaclip.core.text.class_names import plain_name
from itaclip.core.text.templates import TEMPLATES
from itaclip.errors import ItaclipError
from itaclip.vocabulary import CONTRAST_WORDS, make_vocabulary

LEXICON = ["wall", "sky, clouds", "sea", "mountain road", "cats", "Sea", " snow "]


class WordEncoder:
    """A stand-in for the text tower: the feature of a prompt is the one of its word, from a table."""

    cache = None
    fingerprint = "words"
    device = torch.device("cpu")

    def __init__(self, **features: list[float]) -> None:
        self.features = {
            name.replace("_", " "): torch.tensor(vector, dtype=torch.float32) for name, vector in features.items()
        }

    def __call__(self, prompts: list[str]) -> torch.Tensor:
        before, after = TEMPLATES[0].split("{}")
        words = [p.removeprefix(before).removesuffix(after) for p in prompts if p.startswith(before)]
        return torch.stack([F.normalize(self.features[word], dim=0) for word in words for _ in TEMPLATES])


def plain_choice(similarity: list[list[float]], count: int) -> list[int]:
    """The choice with loops over numbers, step by step as its docstring says."""
    words, chosen = range(len(similarity)), []
    while len(chosen) < min(count, len(similarity)):
        left = [c for c in words if c not in chosen]
        gain = {}
        for c in left:
            covered = [max([0.0, *(similarity[j][k] for k in chosen)]) for j in words]
            gain[c] = sum(max(0.0, similarity[c][j] - covered[j]) for j in words) / len(words)
        average = sum(gain.values()) / len(left)
        value = {c: gain[c] - 0.5 * max([0.0, *(similarity[c][k] for k in chosen)]) * average for c in left}
        chosen.append(max(left, key=lambda c: value[c]))
    return chosen


@pytest.mark.parametrize(("size", "count"), [(1, 64), (7, 64), (24, 9)])
def test_the_greedy_choice_is_the_plain_one(size: int, count: int) -> None:
    for seed in range(4):
        vectors = torch.randn(size, 6, generator=torch.Generator().manual_seed(seed))
        features = F.normalize(vectors, dim=1)
        similarity = (features @ features.T).double()
        assert facility_location(similarity, count) == plain_choice(similarity.tolist(), count)


def test_a_word_that_repeats_another_is_chosen_last() -> None:
    features = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]]), dim=1)
    assert facility_location(features @ features.T).index(2) == 1


def test_words_near_a_class_are_left_out() -> None:
    encoder: Any = WordEncoder(cat=[1, 0, 0], kitten=[1, 0.1, 0], cats=[0, 0, 1], wall=[0, 1, 0], sea=[0, 1, 1])
    classes = parse_class_names(["cat"])
    lexicon = ("kitten", "cats", "wall", "sea", *[f"word {i}" for i in range(6)])
    for i in range(6):
        encoder.features[f"word {i}"] = torch.tensor([0.0, 1.0, float(i)])
    choice = choose_background(encoder, classes, lexicon)
    assert choice.words is not None
    assert choice.words[0] == "background"
    assert set(choice.words[1:]) == {"wall", "sea", *[f"word {i}" for i in range(6)]}  # "cats" is the class's plural
    assert "stand for 2 of the 10 words" in choice.reason
    assert choose_background(encoder, classes, lexicon) == choice


def test_a_list_that_covers_the_lexicon_keeps_the_general_words() -> None:
    encoder: Any = WordEncoder(sea=[1, 0], ocean=[1, 0.1], wall=[0, 1], tree=[1, 1])
    choice = choose_background(encoder, parse_class_names(["sea"]), ("ocean", "wall", "tree"))
    assert choice.words is None
    assert "33%" in choice.reason


def test_a_long_list_keeps_the_general_words_without_encoding_any() -> None:
    encoder: Any = WordEncoder()  # knows no word, so that encoding one would fail
    choice = choose_background(encoder, parse_class_names([f"class {i}" for i in range(MOST_CLASSES + 1)]), ("wall",))
    assert choice.words is None
    assert "41 classes" in choice.reason


def test_a_model_without_text_features_chooses_nothing() -> None:
    encoder: Any = WordEncoder(cat=[], wall=[])
    with pytest.raises(ItaclipError, match="has no text features to choose words by"):
        choose_background(encoder, parse_class_names(["cat"]), ("wall",))


def test_the_shipped_lexicon_names_what_coco_stuff_and_ade20k_do() -> None:
    words = {plain_name(word) for word in read_lexicon()}
    assert len(words) == len(read_lexicon()) == 260
    for name in read_class_names(ROOT / "configs/cls_ade20k.txt").names:
        assert plain_name(name) in words or name == "tradename"
    known = 0
    for name in read_class_names(ROOT / "configs/cls_coco_stuff.txt").names:
        known += plain_name(name.removesuffix("-other").removesuffix("-stuff")) in words
    assert known >= 155  # the others are compounds, such as "wall-brick", which the lexicon has as "brick wall"


def test_lexicons_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("wall, tree\n\nsky\n Wall \n")
    assert read_lexicon(path) == ("wall", "tree", "sky")
    path.write_text(" ,\n")
    with pytest.raises(ItaclipError, match=r"words\.txt: contains no word"):
        read_lexicon(path)
    with pytest.raises(ItaclipError, match=r"none\.txt: no such file"):
        read_lexicon(tmp_path / "none.txt")


def test_auto_in_a_class_list(tiny_text: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = BackgroundChoice(("background", "wall"), "1 word chosen")
    asked = []

    def choose(encoder: Any, classes: Any, lexicon: Any) -> BackgroundChoice:
        asked.append((classes.names, lexicon))
        return chosen

    monkeypatch.setattr("itaclip.vocabulary.choose_background", choose)
    found = make_vocabulary(tiny_text, ["background", "cat"], "auto", lexicon=LEXICON)
    assert asked == [(("cat",), ("wall", "sky, clouds", "sea", "mountain road", "cats", "snow"))]
    assert found.background_words == ("background", "wall")
    assert (found.names, found.background, found.background_choice) == (("background", "cat"), True, "1 word chosen")
    chosen = replace(chosen, words=None, reason="too many classes")
    found = make_vocabulary(tiny_text, ["cat"], "AUTO", lexicon=LEXICON)
    assert found.background_words == CONTRAST_WORDS
    assert found.background_choice == "general words: too many classes"


def test_every_list_tells_where_its_background_comes_from(tiny_text: TextEncoder) -> None:
    choices = {background: make_vocabulary(tiny_text, ["cat"], background) for background in (True, False, "wall")}
    assert [v.background_choice for v in choices.values()] == ["general words", "none", "own words"]
    assert choices["wall"].background_words == ("wall",)
    assert choices[False].background_words == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(background=True, lexicon=["wall"]), "lexicon: .*only with background = 'auto'"),
        (dict(background="auto", lexicon=[]), "lexicon: contains no word"),
        (dict(background="auto", lexicon=[1]), "lexicon: 1: expected words as text"),
        (dict(background="auto", lexicon={"wall": 1}), "lexicon of type dict"),
        (dict(background=["auto"]), "background = 'auto': expected True, False"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str, tiny_text: TextEncoder) -> None:
    with pytest.raises(ItaclipError, match=message):
        make_vocabulary(tiny_text, ["cat"], **arguments)


def test_a_described_background_and_auto_contradict(tiny_text: TextEncoder) -> None:
    with pytest.raises(ItaclipError, match="describes the background as background, wall"):
        make_vocabulary(tiny_text, ["background, wall", "cat"], "auto", lexicon=["tree"])


def test_in_a_configuration(tiny_text: TextEncoder, tmp_path: Path) -> None:
    names, lexicon = tmp_path / "cls.txt", tmp_path / "lexicon.txt"
    names.write_text("background, wall\ncat\n")
    lexicon.write_text("tree\n")
    configured = ConfiguredClasses.of(
        {"name_path": names, "background_words": "auto", "lexicon": lexicon, "distractors": ["nebula"]}, True
    )
    classes, texts = configured.read()
    assert (classes.synonyms, texts) == ((("background", "wall"), ("cat",), ("nebula",)), None)
    found, choice = configured.with_background_words(tiny_text, classes)
    assert found.synonyms[1:] == classes.synonyms[1:]
    assert found.synonyms[0] in ((("background", "wall")), ("background", "tree"))
    assert ("1 words chosen" in choice) == ("tree" in found.synonyms[0])
    plain = replace(configured, background_words=None, lexicon=None)
    assert plain.with_background_words(tiny_text, classes) == (classes, "words of the class file")


@pytest.mark.parametrize(
    ("options", "background", "message"),
    [
        ({"background_words": "sky"}, True, "background_words = 'sky': expected None"),
        ({"background_words": "auto"}, False, "background = False"),
        ({"lexicon": "words.txt"}, True, "lexicon: .*only with background_words = 'auto'"),
    ],
)
def test_bad_configurations(options: dict[str, str], background: bool, message: str) -> None:
    with pytest.raises(ItaclipError, match=message):
        ConfiguredClasses.of({"name_path": "cls.txt"} | options, background)


def test_a_distractor_is_no_word_of_a_class(tmp_path: Path) -> None:
    path = tmp_path / "cls.txt"
    path.write_text("cat, kitten\n")
    for words in (["Kitten"], ["nebula", "nebula"]):
        with pytest.raises(ItaclipError, match="distractors: "):
            ConfiguredClasses(path, distractors=words).read()


def test_at_most_64_words_are_chosen() -> None:
    vectors = F.normalize(torch.randn(90, 5, generator=torch.Generator().manual_seed(1)), dim=1)
    assert len(set(facility_location(vectors @ vectors.T))) == MOST_WORDS
