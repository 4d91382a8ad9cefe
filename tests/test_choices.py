"""Choices between ways that compute the same are measured once per machine, shape and number of threads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from itaclip.core import choices
from itaclip.core.choices import choices_file, fastest, remembered
from itaclip.core.clip import blocks
from itaclip.core.engines import clear_engines

SHAPE = {"tokens": 5}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of its own, and no memory of other tests."""
    monkeypatch.setenv("ITACLIP_CACHE_DIR", str(tmp_path / "cache"))
    blocks.attention_on_cpu.cache_clear()
    yield tmp_path / "cache"
    blocks.attention_on_cpu.cache_clear()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes every call of a way take as many seconds as it returns; lists the calls."""
    calls: list[str] = []

    def timed(call: Callable[[], float]) -> float:
        calls.append(str(call()))
        return float(calls[-1])

    monkeypatch.setattr(choices, "_seconds", timed)
    return calls


def test_the_fastest_is_taken_and_remembered(clock: list[str]) -> None:
    for _ in range(2):
        assert fastest("sum", SHAPE, {"slow": lambda: 2.0, "quick": lambda: 0.5}) == "quick"
    assert clock == ["2.0", "0.5"]
    assert remembered() == [f"sum (tokens 5), {torch.get_num_threads()} threads: quick (slow 2e+03 ms, quick 500 ms)"]


def test_other_shapes_threads_processors_and_ways_are_measured_again(
    clock: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fastest("sum", SHAPE, {"one": lambda: 1.0, "two": lambda: 2.0})
    assert fastest("sum", {"tokens": 6}, {"one": lambda: 4.0, "two": lambda: 3.0}) == "two"
    assert fastest("sum", SHAPE, {"one": lambda: 4.0, "other": lambda: 3.0}) == "other"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert fastest("sum", SHAPE, {"one": lambda: 4.0, "two": lambda: 3.0}) == "two"
    monkeypatch.setattr(choices, "_processor", lambda: "another processor")
    assert fastest("sum", SHAPE, {"one": lambda: 1.0, "two": lambda: 3.0}) == "one"
    assert len(clock) == 10


@pytest.mark.parametrize("content", ["", "[]", '{"x": 1}', '{"x": {"taken": "one"}}', "\x00"])
def test_a_damaged_file_is_replaced(content: str, clock: list[str]) -> None:
    choices_file().parent.mkdir(parents=True)
    choices_file().write_text(content)
    assert remembered() == []
    assert fastest("sum", SHAPE, {"one": lambda: 1.0, "two": lambda: 2.0}) == "one"
    assert len(remembered()) == 1


def test_a_cache_that_cannot_be_written_costs_only_the_memory(
    clock: list[str], own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own_cache.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert fastest("sum", SHAPE, {"one": lambda: 1.0, "two": lambda: 2.0}) == "one"
    assert "could not be saved" in caplog.text


def test_clearing_the_cache_forgets_them(clock: list[str]) -> None:
    fastest("sum", SHAPE, {"one": lambda: 1.0, "two": lambda: 2.0})
    assert clear_engines() > 0
    assert remembered() == []


@pytest.mark.parametrize("taken", ["fused", "products"])
def test_attention_in_bfloat16_takes_what_was_measured(taken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"fused": 1.0, "products": 2.0} if taken == "fused" else {"fused": 2.0, "products": 1.0}
    left = iter(seconds.values())
    monkeypatch.setattr(choices, "_seconds", lambda call: (call(), next(left))[1])
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 9, 16, dtype=torch.bfloat16)
    found = blocks.attend(q, k, v)
    torch.testing.assert_close(found, blocks._WAYS[taken](q, k, v), atol=0, rtol=0)
    torch.testing.assert_close(blocks.attend(q[:1], k[:1], v[:1]), found[:1], atol=0, rtol=0)  # any batch, one choice
    (line,) = remembered()
    assert line.startswith("attention (dtype bf16, heads 4, tokens 9, channels 16)")
    assert f"threads: {taken} (" in line
