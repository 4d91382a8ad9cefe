"""Every shipped text file against its class file, and the program that checks text files."""

from __future__ import annotations

from pathlib import Path

import pytest
from preparation_helpers import ROOT, fails_clearly, lines, run_script

from itaclip.core.text.auxiliary import SEPARATOR
from itaclip.core.text.class_names import read_class_names
from itaclip.core.text.class_prompts import read_class_prompts
from itaclip.errors import ItaclipError
from itaclip.research.texts.answers import DEFINITION, SYNONYM, TASKS, Task
from itaclip.research.texts.commands.check_texts import check_prompts, check_texts, main, shipped
from itaclip.research.texts.generation import WITH_BACKGROUND

BENCHMARKS = {"ade20k": 150, "cityscapes": 19, "coco_object": 81, "coco_stuff": 171, "context59": 59, "context60": 60,
              "voc20": 20, "voc21": 21}  # fmt: skip


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark(name: str, task: Task) -> None:
    background = name in WITH_BACKGROUND
    names, texts = ROOT / f"configs/cls_{name}.txt", ROOT / f"llm_texts/{name}_{task.name}s.txt"
    assert not check_texts(names, texts, background, task)
    assert texts.read_text().isascii()
    assert len(lines(texts)) == BENCHMARKS[name] - background
    first = read_class_names(names, background).names[background:]
    assert [line.partition(f" {SEPARATOR}")[0] for line in lines(texts)] == list(first)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_word_has_sentences_of_its_own(name: str) -> None:
    background = name in WITH_BACKGROUND
    names, prompts = ROOT / f"configs/cls_{name}.txt", ROOT / f"llm_texts/{name}_prompts.json"
    found = read_class_prompts(prompts, read_class_names(names, background)) or {}
    sentences = [sentence for word in found.values() for sentence in word]
    assert len(set(sentences)) == len(sentences) == 5 * len(found)
    assert "".join(sentences).isascii()
    remarks = check_prompts(names, prompts, background)
    nameless = "background" in read_class_names(names, background).queries
    assert list(remarks.kinds) == ["word without sentences"] * nameless
    assert len(found) == len(set(read_class_names(names, background).queries)) - nameless


def test_everything_shipped_is_covered() -> None:
    files = {texts.name for _, texts, _ in shipped(ROOT)}
    assert {f"{name}_{task.name}s.txt" for name in BENCHMARKS for task in TASKS} <= files
    assert {f"{name}_prompts.json" for name in BENCHMARKS} <= files
    assert main(ROOT, []) == 0


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "names.txt").write_text("background\ncat\ndog\n")
    (tmp_path / "my_synonyms.txt").write_text("cat >=feline\ndog >=hound\n")
    return tmp_path


def arguments(own: Path) -> list[str]:
    return ["--names", str(own / "names.txt"), "--texts", str(own / "my_synonyms.txt"), "--background"]


def test_own_files(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(ROOT, arguments(own)) == 0
    (own / "my_synonyms.txt").write_text("cat >=feline\n")
    assert main(ROOT, arguments(own)) == 1
    assert "has 1 of 2 lines" in capsys.readouterr().out


def test_remarks_are_not_errors(own: Path) -> None:
    (own / "my_synonyms.txt").write_text("cat >=Sure, here is a word: feline\ndog >=dog\n")
    assert main(ROOT, arguments(own)) == 0
    remarks = check_texts(own / "names.txt", own / "my_synonyms.txt", True, SYNONYM)
    assert list(remarks.kinds) == ["synonym that begins with a preamble", "synonym that only repeats the name"]
    assert len(check_texts(own / "names.txt", own / "my_synonyms.txt", True, DEFINITION).kinds) == 2
    assert not check_texts(own / "names.txt", own / "my_synonyms.txt", True, None)


def test_program(own: Path) -> None:
    fails_clearly(run_script("tools/check_texts.py", "--names", own / "names.txt"), "go together")
    with pytest.raises(ItaclipError, match="go together"):
        main(ROOT, ["--background"])
