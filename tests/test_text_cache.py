"""Text features on disk: found again, never mixed up, and replaced when damaged."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import start_python

from itaclip.core.clip.openai import CLIP
from itaclip.core.text import TextCache, TextEncoder, build_text_bank, parse_class_names
from itaclip.core.text.bank import ensemble

WORDS = ["cat", "sofa", "a wall of bricks"]


class Counting(TextEncoder):
    """Counts the prompts that reach the tower."""

    encoded = 0

    def forward(self, prompts: Sequence[str]) -> Any:
        self.encoded += len(prompts)
        return super().forward(prompts)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_second_start_encodes_nothing(tiny_clip: CLIP, tmp_path: Path) -> None:
    plain = ensemble(TextEncoder(tiny_clip), WORDS)
    first = ensemble(TextEncoder(tiny_clip, TextCache(tmp_path)), WORDS)
    again = Counting(tiny_clip, TextCache(tmp_path))
    assert torch.equal(ensemble(again, WORDS), first)
    assert torch.equal(first, plain)
    assert again.encoded == 0
    assert len(files(tmp_path)) == len(WORDS)


def test_only_new_words_are_encoded(tiny_clip: CLIP, tmp_path: Path) -> None:
    encoder = Counting(tiny_clip, TextCache(tmp_path))
    ensemble(encoder, WORDS)
    before = encoder.encoded
    found = ensemble(encoder, ["dog", *WORDS, "dog"])
    assert encoder.encoded - before == 80  # one text in 80 templates
    torch.testing.assert_close(found, ensemble(TextEncoder(tiny_clip), ["dog", *WORDS, "dog"]))


def test_other_weights_never_share(tiny_clip: CLIP, tmp_path: Path, tiny_state: dict[str, torch.Tensor]) -> None:
    """A single changed weight in the text tower makes another model."""
    from itaclip.core.clip import load_clip

    cache = TextCache(tmp_path / "cache")
    ensemble(TextEncoder(tiny_clip, cache), WORDS)
    changed = dict(tiny_state) | {"ln_final.bias": tiny_state["ln_final.bias"].clone()}
    changed["ln_final.bias"][0] += 1
    torch.save(changed, tmp_path / "other.pt")
    other = Counting(load_clip(str(tmp_path / "other.pt")), cache)
    ensemble(other, WORDS)
    assert other.encoded == 80 * len(WORDS)


@pytest.mark.parametrize("damage", ["truncated", "bit flipped", "emptied", "another text's file", "no safetensors"])
def test_damaged_files_are_noticed_and_replaced(
    tiny_clip: CLIP, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = ensemble(TextEncoder(tiny_clip, TextCache(tmp_path)), WORDS)
    first, second, _ = files(tmp_path)
    content = first.read_bytes()
    first.write_bytes({
        "truncated": content[:-7],
        "bit flipped": content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
        "emptied": b"",
        "another text's file": second.read_bytes(),
        "no safetensors": b"\x80\x04pickle" * 40,
    }[damage])  # fmt: skip
    with caplog.at_level(logging.WARNING):
        torch.testing.assert_close(ensemble(TextEncoder(tiny_clip, TextCache(tmp_path)), WORDS), expected)
    assert str(first) in caplog.text
    assert "damaged" in caplog.text
    again = Counting(tiny_clip, TextCache(tmp_path))
    ensemble(again, WORDS)
    assert again.encoded == 0  # the file is intact again


def test_a_folder_that_cannot_be_written_costs_only_time(
    tiny_clip: CLIP, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    encoder = TextEncoder(tiny_clip, TextCache(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        found = ensemble(encoder, WORDS)
    assert torch.equal(found, ensemble(TextEncoder(tiny_clip), WORDS))
    assert caplog.text.count("cannot be cached") == 1


def test_several_processes_fill_one_folder(tiny_weights: Path, tiny_clip: CLIP, tmp_path: Path) -> None:
    program = (
        "import sys; from itaclip.core.clip import load_clip; from itaclip.core.text import TextCache, TextEncoder\n"
        "from itaclip.core.text.bank import ensemble\n"
        "ensemble(TextEncoder(load_clip(sys.argv[1]), TextCache(sys.argv[2])), sys.argv[3:])"
    )
    words = [*WORDS, *(f"thing {i}" for i in range(10))]
    running = [start_python("-c", program, tiny_weights, tmp_path, *words) for _ in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    encoder = Counting(tiny_clip, TextCache(tmp_path))
    torch.testing.assert_close(ensemble(encoder, words), ensemble(TextEncoder(tiny_clip), words))
    assert encoder.encoded == 0
    assert len(list(tmp_path.rglob("*"))) - len({f.parent for f in files(tmp_path)}) == len(words)  # no leftovers


def test_a_class_without_a_definition_stays_as_it_is(tiny_text: TextEncoder) -> None:
    classes = parse_class_names(["cat", "dog, hound"])
    plain = build_text_bank(tiny_text, classes).features
    mixed = build_text_bank(tiny_text, classes, [None, "an animal"], coefficient=0.3).features
    assert torch.equal(mixed[0], plain[0])
    assert not torch.isclose(mixed[1:], plain[1:]).all(dim=1).any()


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("itaclip.core.text.cache._MAX_IN_MEMORY", 3)
    cache = TextCache()
    for i in range(5):
        cache.put({str(i): torch.tensor([float(i)])})
        cache.get(["0"])  # in use all the time
    assert set(cache.get(list("01234"))) == {"0", "3", "4"}
