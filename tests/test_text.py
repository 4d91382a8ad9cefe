"""Class files, auxiliary texts, and the text bank."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import open_clip
import pytest
import torch

from itaclip.core.clip.open_clip_modules import as_open_clip
from itaclip.core.clip.openai import CLIP
from itaclip.core.clip.tokenizer import BytePairs
from itaclip.core.text import (
    TextCache,
    TextEncoder,
    build_text_bank,
    parse_class_names,
    read_auxiliary_texts,
    read_class_names,
)
from itaclip.core.text.bank import ensemble
from itaclip.core.text.templates import TEMPLATES
from itaclip.errors import ItaclipError

ROOT = Path(__file__).parent.parent
COUNTS = {"voc21": (21, 80), "voc20": (20, 20), "context60": (60, 75), "context59": (59, 59), "coco_stuff": (171, 183),
          "coco_object": (81, 119), "cityscapes": (19, 26), "ade20k": (150, 150), "demo": (29, 59)}  # fmt: skip
WITH_BACKGROUND = {"voc21", "context60", "coco_object", "demo"}


@pytest.mark.parametrize("name", COUNTS)
def test_shipped_class_files(name: str) -> None:
    classes = read_class_names(ROOT / f"configs/cls_{name}.txt", background=name in WITH_BACKGROUND)
    assert (len(classes), len(classes.queries)) == COUNTS[name]


def test_queries_know_their_class() -> None:
    classes = parse_class_names(["sky, wall", "cat", "cup, mug, beaker"])
    assert classes.queries == ("sky", "wall", "cat", "cup", "mug", "beaker")
    assert classes.query_to_class == (0, 0, 1, 2, 2, 2)
    assert classes.names == ("sky", "cat", "cup")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "contains no class"),
        ("cat\n\ndog\n", "line 2: blank"),
        ("cat\ndog\n\n", "line 3: blank"),
        ("cat\ndog, \n", "line 2: .* empty synonym"),
        ("cat, kitten\ndog\nkitten\n", "line 3: 'kitten' already occurs on line 1"),
        ("cat, cat\n", "line 1: 'cat' already occurs on line 1"),
    ],
)
def test_bad_class_files(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "names.txt"
    path.write_text(content)
    with pytest.raises(ItaclipError, match=rf"names\.txt.*{message}"):
        read_class_names(path)


def test_background_words_may_recur() -> None:
    lines = ["wall, bed", "cat", "bed"]
    assert len(parse_class_names(lines, background=True)) == 3
    with pytest.raises(ItaclipError, match="'bed' already occurs on line 1"):
        parse_class_names(lines)
    with pytest.raises(ItaclipError, match="'cat' already occurs on line 2"):
        parse_class_names(["wall", "cat", "cat"], background=True)


def test_unreadable_class_files(tmp_path: Path) -> None:
    with pytest.raises(ItaclipError, match="no such file"):
        read_class_names(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes("caf\xe9\n".encode("latin-1"))
    with pytest.raises(ItaclipError, match=r"latin\.txt: cannot be read as UTF-8"):
        read_class_names(tmp_path / "latin.txt")
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\n")
    assert read_class_names(tmp_path / "bom.txt").names == ("cat", "dog")


CLASSES = parse_class_names(["background", "cat, kitten", "traffic light", "cup"], "names.txt")


def texts(tmp_path: Path, content: str) -> tuple[str, ...]:
    path = tmp_path / "texts.txt"
    path.write_text(content)
    return read_auxiliary_texts(path, CLASSES, background=True)


def test_auxiliary_texts_are_taken_verbatim(tmp_path: Path) -> None:
    found = texts(tmp_path, "kitten >= a pet >=x \ntrafficlight >=lamps\ncup>=mug\n")
    assert found == (" a pet >=x ", "lamps", "mug")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cat >=a\ncup >=b\n", r"line 2: describes 'cup', but 'traffic light' of names\.txt is expected"),
        ("cat >=a\ntraffic light >=b\n", "has 2 of 3 lines; 'cup' is the first class"),
        ("cat >=a\ntraffic light >=b\ncup >=c\nhat >=d\n", "line 4: 'hat.*' is surplus"),
        ("background >=x\ncat >=a\ntraffic light >=b\ncup >=c\n", "line 1: describes 'background'.*without the back"),
        ("cat =a\n", "line 1: 'cat =a' has no ' >='"),
        ("cat >=a\n\ncup >=b\n", "line 2: '' has no ' >='"),
        ("cat >=\n", "line 1: the text of 'cat.*' is empty"),
    ],
)
def test_bad_auxiliary_texts(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ItaclipError, match=rf"texts\.txt.*{message}"):
        texts(tmp_path, content)


def test_other_wordings_are_accepted_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert texts(tmp_path, "cat >=a\nsemaphore >=b\ncup >=c\n") == ("a", "b", "c")
    assert "'semaphore', but 'traffic light'" in caplog.text


def test_text_encoder_equals_open_clips_tower(tiny_clip: CLIP, tiny_text: TextEncoder) -> None:
    prompts = ["a cat", "a photo of many very small dogs on a wall.", "x", "a cat"]
    theirs = as_open_clip(tiny_clip).encode_text(open_clip.tokenize(prompts), normalize=True)
    assert torch.allclose(tiny_text(prompts), theirs, atol=1e-5)


def test_many_prompts_keep_their_order(tiny_text: TextEncoder) -> None:
    prompts = [("word " * (i % 60)) + str(i) for i in range(150)]
    together = tiny_text(prompts)
    for i in (0, 59, 77, 149):
        assert torch.allclose(together[i], tiny_text([prompts[i]])[0], atol=1e-5)


def test_texts_longer_than_the_context_are_truncated_with_a_warning(
    tiny_text: TextEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        features = tiny_text(["word " * 200, "short"])
    assert torch.isfinite(features).all()
    assert caplog.text.count("longer than CLIP's 77 tokens") == 1


def test_mixing_follows_the_formula(tiny_text: TextEncoder) -> None:
    plain = build_text_bank(tiny_text, CLASSES).features
    aux = ("a furry pet", "a lamp", "a mug")
    descriptions = build_text_bank(tiny_text, parse_class_names(list(aux))).features
    mixed = build_text_bank(tiny_text, CLASSES, aux, coefficient=0.3, background=True).features
    assert torch.equal(mixed[0], plain[0])  # the background stays
    assert torch.allclose(mixed[1:3], 0.7 * plain[1:3] + 0.3 * descriptions[0], atol=1e-6)  # both synonyms
    assert torch.allclose(mixed[4], 0.7 * plain[4] + 0.3 * descriptions[2], atol=1e-6)
    assert (mixed[1:].norm(dim=-1) < 0.9999).all()  # not normalised again
    with pytest.raises(ItaclipError, match="2 auxiliary texts for 3 classes"):
        build_text_bank(tiny_text, CLASSES, aux[:2], background=True)


def test_texts_are_encoded_and_kept_block_by_block(tiny_clip: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"thing {i}" for i in range(7)]
    expected = ensemble(TextEncoder(tiny_clip), texts, ("{}", "a {}."))
    kept: list[int] = []
    encoder = TextEncoder(tiny_clip, TextCache())
    assert encoder.cache is not None
    monkeypatch.setattr("itaclip.core.text.bank._TEXTS_AT_ONCE", 3)
    monkeypatch.setattr(encoder.cache, "put", lambda features: kept.append(len(features)))
    torch.testing.assert_close(ensemble(encoder, texts, ("{}", "a {}.")), expected, atol=1e-6, rtol=0)
    assert kept == [3, 3, 1]


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_byte_pairs_are_open_clips(step: int) -> None:
    """Characters of all scripts (every one in the longer run), mixtures of them, and the shipped texts."""
    rng = random.Random(0)
    codes = [code for code in (*range(0x3000), *range(0x3000, 0x30000, step)) if not 0xD800 <= code < 0xE000]
    letters = [f"a{chr(code)}b {chr(code)}" for code in codes]
    alphabet = [chr(code) for code in (*range(32, 127), *range(0xA0, 0x250), *range(0x4E00, 0x4E40), 9, 10, 0x200D)]
    mixed = ["".join(rng.choices(alphabet, k=rng.randint(0, 60))) for _ in range(2000)]
    files = sorted((ROOT / "llm_texts").rglob("*.txt"))
    shipped = [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    special = ["a <end_of_text> b", "&<end_of_text>", "don't", "&amp;amp; \x1b[1m", "caf\u00c3\u00a9", "dog " * 90]
    assert shipped
    ours, theirs = BytePairs(), open_clip.SimpleTokenizer()
    for texts in (letters, mixed, shipped, special):
        assert torch.equal(ours(texts), theirs(texts))
    assert [ours.length(text) for text in mixed] == [len(theirs.encode(text)) + 2 for text in mixed]


def test_templates_are_open_clips() -> None:
    assert tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES) == TEMPLATES
