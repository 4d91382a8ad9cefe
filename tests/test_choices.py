"""Choices between ways that compute the same are measured once per machine, shape and number of threads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import start_python

from itaclip import ItaclipError, Segmenter
from itaclip.core import choices
from itaclip.core.choices import Agreement, Turns, choices_file, fastest, follow, recording, remembered
from itaclip.core.clip import blocks
from itaclip.core.engines import clear_engines

SHAPE = {"tokens": 5}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of its own, and no memory of other tests."""
    monkeypatch.setenv("ITACLIP_CACHE_DIR", str(tmp_path / "cache"))
    choices._answers().clear()
    yield tmp_path / "cache"
    choices._answers().clear()
    choices._followed().clear()


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
    with caplog.at_level(logging.INFO):
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


@pytest.mark.parametrize(("least", "taken"), [(0.5, "rough"), (0.9, "fair"), (0.99, "exact")])
def test_the_fastest_that_agrees(least: float, taken: str, clock: list[str]) -> None:
    ways = {"fair": lambda: 2.0, "rough": lambda: 1.0, "slow": lambda: 9.0, "exact": lambda: 3.0}
    shares = {"rough": 0.6, "fair": 0.95, "slow": 1.0}
    compared: list[str] = []
    agreement = Agreement(least, lambda way: (compared.append(way), shares[way])[1])
    assert fastest("precision", SHAPE, ways, agreement) == taken
    assert compared == ["rough", "fair"][: 1 + (least > 0.6)]  # from the fastest on; the last one is the reference
    (line,) = remembered()
    assert "rough 1e+03 ms, 60.00% equal" in line
    assert ("95.00% equal" in line) == (least > 0.6)


def test_where_no_other_agrees_the_reference_is_taken_however_slow(clock: list[str]) -> None:
    ways = {"rough": lambda: 1.0, "exact": lambda: 30.0, "slowest": lambda: 40.0}
    assert fastest("precision", SHAPE, ways, Agreement(1.0, lambda way: 0.99)) == "slowest"


def test_a_later_way_has_to_gain(clock: list[str]) -> None:
    ways = {"1": lambda: 1.0, "2": lambda: 0.97, "4": lambda: 0.93}
    assert fastest("streams", SHAPE, ways, gain=0.05) == "1"
    assert fastest("streams", {"tokens": 6}, ways | {"4": lambda: 0.9}, gain=0.05) == "4"
    assert fastest("streams", {"tokens": 7}, ways) == "4"


def test_a_run_is_followed_instead_of_measured(clock: list[str]) -> None:
    ways: dict[str, Callable[[], float]] = {"one": lambda: 1.0, "two": lambda: 2.0}
    records: dict[str, str] = {}
    with recording(records):
        assert fastest("sum", SHAPE, ways) == "one"
    assert fastest("other", SHAPE, ways) == "one"
    assert records == {"sum (tokens 5)": "one"}
    follow({"sum (tokens 5)": "two"})
    again: dict[str, str] = {}
    with recording(again):
        assert fastest("sum", SHAPE, ways) == "two"
    assert again == {"sum (tokens 5)": "two"}
    assert len(clock) == 4
    with pytest.raises(ItaclipError, match="this run took two, which this machine does not have \\(one, three\\)"):
        fastest("sum", SHAPE, {"one": lambda: 1.0, "three": lambda: 1.0})


def test_what_is_chosen_only_to_measure_is_not_recorded(clock: list[str]) -> None:
    def outer() -> float:
        fastest("inner", SHAPE, {"one": lambda: 1.0, "two": lambda: 2.0})
        return 1.0

    records: dict[str, str] = {}
    with recording(records):
        fastest("outer", SHAPE, {"only": outer})
    assert records == {"outer (tokens 5)": "only"}
    assert len(remembered()) == 2


def test_processes_that_ask_together_get_one_answer(tmp_path: Path) -> None:
    """Each would prefer another way; whoever comes first measures, and the others take its answer."""
    program = """
import sys, time
from itaclip.core import choices
choices._seconds = lambda call: call()
own, log = sys.argv[1:]
def way(name):
    with open(log, "a") as file: file.write(own + "\\n")
    time.sleep(0.5)
    return 1.0 if name == own else 2.0
print(choices.fastest("sum", {"tokens": 5}, {name: (lambda name=name: way(name)) for name in "abc"}))
"""
    log = tmp_path / "log"
    running = [start_python("-c", program, own, str(log)) for own in "abc"]
    answers = {process.communicate(timeout=60)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(answers) == 1
    assert log.read_text().split() == [*answers] * 3


def test_ways_take_turns_while_the_work_is_done() -> None:
    took = {"1": 1.02, "2": 1.0, "4": 1.5}
    turns = Turns("windows per batch", SHAPE, list(took))
    assert turns.taken is None
    order = []
    for number in range(12):
        way = turns.next()
        order.append(way)
        turns.add(way, took[way] + (9.0 if number < 3 else 0.0))  # the first time of each includes preparation
    assert order == ["1", "2", "4"] * 4
    assert turns.taken == turns.next() == "1"  # nearly as fast as the fastest, and smaller
    assert Turns("windows per batch", SHAPE, list(took)).taken == "1"  # remembered
    assert Turns("windows per batch", {"tokens": 6}, list(took)).taken is None
    assert Turns("windows per batch", {"tokens": 6}, ["3"]).next() == "3"


def test_turns_take_a_larger_batch_that_pays() -> None:
    turns = Turns("windows per batch", SHAPE, ["1", "2"])
    for _ in range(8):
        turns.add(turns.next(), 1.0 if turns.next() == "1" else 0.9)
    assert turns.taken == "2"


def test_batches_are_chosen_while_images_are_segmented(demo_root: Path) -> None:
    segmenter = Segmenter("demo", "fast", pamr_steps=0, slide_stride=28)
    vocabulary = segmenter.prepare(["car", "cloud", "tree"])
    photo = demo_root / "JPEGImages/scene_002.jpg"
    expected = segmenter(photo, vocabulary, batch_crops=3).labels
    assert remembered() == []  # a number that is set is no choice
    for _ in range(40):
        np.testing.assert_array_equal(segmenter(photo, vocabulary).labels, expected)
        if remembered():
            break
    (line,) = remembered()
    assert line.startswith("windows per batch (model ")
    assert "engine torch, precision fp32, window " in line
    again = Segmenter("demo", "fast", pamr_steps=0, slide_stride=28)
    np.testing.assert_array_equal(again(photo, vocabulary).labels, expected)
    assert remembered() == [line]
