"""Class-biased prompts: read as published, encoded beside the templates, in every way of giving classes."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from preparation_helpers import ROOT
from test_text import CLASSES

from itaclip import ItaclipError, Segmenter
from itaclip.core.text import TextCache, TextEncoder, build_text_bank, parse_class_names, read_class_prompts
from itaclip.core.text.templates import TEMPLATES
from itaclip.research.openmmlab import ITACLIPSegmentor
from itaclip.research.texts.commands.check_texts import check_prompts, main

SENTENCES = {"cat": ["a cat asleep on a sofa", "a striped cat in the sun"], "cup": ["a cup of tea on a saucer"]}


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(SENTENCES))
    return path


def expected(encoder: TextEncoder, word: str) -> torch.Tensor:
    """Unit features of all prompts, one by one, their mean, unit."""
    texts = [template.replace("{}", word) for template in TEMPLATES] + SENTENCES.get(word, [])
    return F.normalize(torch.stack([encoder([text])[0] for text in texts]).mean(0), dim=0)


def alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-5)


def test_sentences_count_like_templates(tiny_text: TextEncoder, prompts: Path) -> None:
    found = read_class_prompts(prompts, CLASSES)
    bank, plain = build_text_bank(tiny_text, CLASSES, prompts=found), build_text_bank(tiny_text, CLASSES)
    for number, word in enumerate(CLASSES.queries):
        torch.testing.assert_close(bank.features[number], expected(tiny_text, word), atol=1e-5, rtol=0)
        assert alike(bank.features[number], plain.features[number]) == (word not in SENTENCES)


def test_the_cache_tells_sentences_apart(tiny_text: TextEncoder, tmp_path: Path) -> None:
    tiny_text.cache = TextCache(tmp_path)
    try:
        others = {"cat": ["a cat on a wall", "a cat in a tree"]}
        kinds: list[Any] = [None, SENTENCES, {"cat": SENTENCES["cat"][:1]}, others, {"cat": SENTENCES["cat"][::-1]}]
        first = [build_text_bank(tiny_text, CLASSES, prompts=kind).features[1] for kind in kinds]
        tiny_text.cache = TextCache(tmp_path)  # from the disk
        again = [build_text_bank(tiny_text, CLASSES, prompts=kind).features[1] for kind in kinds]
    finally:
        tiny_text.cache = None
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({tuple(features.tolist()[:4]) for features in first[:4]}) == 4


@pytest.mark.parametrize(("written", "word"), [("Traffic-Light", "traffic light"), ("CAT", "cat"), (" cat ", "cat")])
def test_words_are_compared_without_case_spaces_and_hyphens(written: str, word: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps({written: ["a sentence"]}), encoding="utf-8-sig")
    classes = parse_class_names(["cat, kitten", "traffic light"])
    assert read_class_prompts(path, classes) == {word: ("a sentence",)}
    assert read_class_prompts(None, classes) is None


def test_entries_of_other_words_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"cat": ["a cat"], "kittem": ["a kittem"]}))
    classes = parse_class_names(["cat, kitten", "cup"])
    with caplog.at_level(logging.WARNING):
        assert read_class_prompts(path, classes) == {"cat": ("a cat",)}
    assert "entries that belong to no class" in caplog.text
    assert "kittem. Did you mean 'kitten'" in caplog.text
    others = parse_class_names(["horse", "kitten"])
    path.write_text(json.dumps({"kittem": ["a kittem"]}))
    with pytest.raises(ItaclipError, match=r"no entry is a word of class list \(horse, kitten.*Did you mean 'kitten'"):
        read_class_prompts(path, others)
    assert read_class_prompts(path, others, needed=False) == {}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"cat": []}', "'cat' has no sentence; add some, or leave it out"),
        ('{"cat": "a cat"}', "'cat' has 'a cat'; expected a list of sentences"),
        ('{"cat": {"a": 1}}', "expected a list of sentences"),
        ('{"cat": ["a cat", " "]}', "sentence 2 of 'cat'"),
        ('{"cat": [3]}', "sentence 1 of 'cat' is '3'"),
        ('{"cat": ["a"], "Cat": ["b"]}', "'Cat' occurs twice"),
        ('{"cat": ["a"], "cat": ["b"]}', "'cat' occurs twice"),
        ('[["cat", ["a"]]]', "expected one JSON object"),
        ('{"cat": ["a"]', "not valid JSON"),
        ("{}", "no entry is a word of"),
    ],
)
def test_bad_files_are_reported(content: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(content)
    with pytest.raises(ItaclipError, match=rf"p\.json: .*{reason}"):
        read_class_prompts(path, parse_class_names(["cat", "cup"]))
    with pytest.raises(ItaclipError, match="no such file"):
        read_class_prompts(tmp_path / "none.json", parse_class_names(["cat", "cup"]))


def test_the_segmentor_reads_them(tiny_weights: Path, class_file: Path, prompts: Path) -> None:
    options: dict[str, Any] = dict(model_name=str(tiny_weights), name_path=class_file, text_cache=False, device="cpu",
                                   background=True)  # fmt: skip
    plain = ITACLIPSegmentor(**options).text_features
    biased = ITACLIPSegmentor(**options, class_prompts=str(prompts)).text_features
    changed = [not alike(a, b) for a, b in zip(plain, biased, strict=True)]
    assert changed == [False, False, True, False, True]  # background, wall, cat, kitten, cup


def test_segmenters_read_them_and_keep_them(prompts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    segmenter = Segmenter("demo", "fast", text_cache=False, class_prompts=str(prompts), pamr_steps=0)
    plain = Segmenter("demo", "fast", text_cache=False, pamr_steps=0)
    for one in (segmenter, plain):
        one.set_classes(["cat", "horse"])
    assert segmenter.vocabulary is not None
    assert plain.vocabulary is not None
    banks = segmenter.vocabulary.bank.features, plain.vocabulary.bank.features
    assert [alike(a, b) for a, b in zip(*banks, strict=True)] == [
        word != "cat" for word in segmenter.vocabulary.bank.class_names.queries
    ]
    segmenter.prepare(["stripes"])  # a list with none of the words is no mistake
    with pytest.raises(ItaclipError, match="class_prompts = None: cannot change after loading"):
        segmenter(np.zeros((40, 40, 3), np.uint8), class_prompts=None)
    segmenter.save_pretrained(tmp_path / "saved")
    prompts.unlink()
    again = Segmenter.from_pretrained(tmp_path / "saved", text_cache=False)
    features = again.prepare(["cat", "horse"]).bank.features
    assert alike(features, segmenter.vocabulary.bank.features)


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names, path = tmp_path / "names.txt", tmp_path / "own_prompts.json"
    names.write_text("background, wall\ncat\ncup\n")
    path.write_text(json.dumps({**SENTENCES, "wall": ["a brick wall", "Sure, here is a wall", "a building"]}))
    remarks = check_prompts(names, path, background=True)
    assert sorted(remarks.kinds) == ["sentence that begins with a preamble", "sentence that does not contain the word",
                                     "word without sentences"]  # fmt: skip
    assert main(ROOT, ["--names", str(names), "--texts", str(path), "--background"]) == 0
    path.write_text("{}")
    assert main(ROOT, ["--names", str(names), "--texts", str(path), "--background"]) == 1
    assert "no entry is a word" in capsys.readouterr().out
