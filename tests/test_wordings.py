"""`--vocabulary`, and the protocol that is stored with every score."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from comparison_helpers import small_config
from conftest import ROOT
from mmengine.config import Config

from itaclip.core.settings import Settings
from itaclip.core.text import ConfiguredClasses, read_class_names
from itaclip.core.text.class_names import plain_name
from itaclip.errors import ItaclipError
from itaclip.research.comparison.cells import make_cells
from itaclip.research.comparison.commands import compare_protocols
from itaclip.research.comparison.commands.eval_all import main as eval_all
from itaclip.research.evaluation.confusion import class_iou, confusion_matrix
from itaclip.research.evaluation.counts import IoUCounts
from itaclip.research.evaluation.fingerprint import (
    METHOD_AND_RUNNING,
    SETTINGS,
    TEXT_SETTINGS,
    differences,
    protocol_of,
)
from itaclip.research.evaluation.vocabulary import Wording, apply_wording, parse_wording
from itaclip.research.openmmlab.configuration import load_config

NAMES = (
    "voc",
    "voc20",
    "context",
    "context59",
    "coco_object",
    "coco_stuff",
    "cityscapes",
    "ade20k",
    "demo",
    "demo_things",
)


def words_of(config: Config) -> tuple[Any, Any]:
    return ConfiguredClasses.of(config.model, config.model.get("background", False)).read()


@pytest.fixture(scope="module")
def configs() -> dict[str, Config]:
    return {name: load_config(ROOT / f"configs/cfg_{name}.py") for name in NAMES}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("official", Wording()),
        ("plain+auto", Wording("plain", 0, True)),
        ("synonyms", Wording("synonyms")),
        ("distractors", Wording("distractors", 50)),
        ("distractors:7+auto", Wording("distractors", 7, True)),
    ],
)
def test_wordings_are_parsed(text: str, expected: Wording) -> None:
    assert parse_wording(text) == expected


@pytest.mark.parametrize("text", ["", "plane", "plain:3", "distractors:0", "distractors:x", "+auto", "plain+manual"])
def test_other_wordings_are_refused(text: str) -> None:
    with pytest.raises(ItaclipError, match=r"--vocabulary .*expected official\|plain\|synonyms\|distractors"):
        parse_wording(text)


@pytest.mark.parametrize("name", NAMES)
def test_wordings_of_every_data_set(name: str, configs: dict[str, Config], tmp_path: Path) -> None:
    official, texts = words_of(configs[name])
    background = bool(configs[name].model.get("background", False))
    others = {kind: configs[name].copy() for kind in ("plain", "synonyms", "distractors:100")}
    for kind, config in others.items():
        config.model = config.model.copy()
        if kind != "distractors:100":
            apply_wording(config, tmp_path, parse_wording(kind))
    plain, plain_texts = words_of(others["plain"])
    assert plain.names[background:] == official.names[background:]
    assert max(plain.queries_per_class) == 1
    assert not background or plain.names[0] == "background"
    assert plain_texts == texts
    synonyms, no_texts = words_of(others["synonyms"])
    assert len(synonyms) == len(official)
    assert no_texts is None
    taken = {plain_name(word) for word in official.queries}
    assert not taken & {plain_name(word) for word in synonyms.queries[background:]}
    many = others["distractors:100"]
    count = 100 - sum(plain_name(w) in taken for w in (ROOT / "configs/distractors.txt").read_text().splitlines())
    apply_wording(many, tmp_path, Wording("distractors", count))
    extended, more_texts = words_of(many)
    assert extended.synonyms[: len(official)] == official.synonyms
    assert len(extended) == len(official) + count
    assert more_texts == (None if texts is None else (*texts, *[None] * count))
    with pytest.raises(ItaclipError, match=f"distractors:101: at most {count} are shipped"):
        apply_wording(many, tmp_path, Wording("distractors", 101))
    assert words_of(configs[name])[0] == official  # a copy was changed


def test_no_distractor_is_a_synonym() -> None:
    shipped = {plain_name(word) for word in (ROOT / "configs/distractors.txt").read_text().splitlines()}
    for path in (ROOT / "llm_texts").glob("*_synonyms.txt"):
        assert not shipped & {plain_name(line.split(">=")[1]) for line in path.read_text().splitlines()}, path


def test_auto_needs_a_background(configs: dict[str, Config], tmp_path: Path) -> None:
    with pytest.raises(ItaclipError, match="this data set has no background"):
        apply_wording(configs["voc20"], tmp_path, Wording(auto=True))


def test_a_class_file_without_synonyms(tmp_path: Path) -> None:
    (tmp_path / "cls_mine.txt").write_text("cat\ndog\n")
    config = Config({"model": {"name_path": str(tmp_path / "cls_mine.txt"), "background": False}})
    with pytest.raises(ItaclipError, match=r"mine_synonyms\.txt does not exist. Write a line `name >=synonym`"):
        apply_wording(config, tmp_path, Wording("synonyms"))


def test_a_synonym_that_is_an_official_word(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "llm_texts").mkdir()
    (tmp_path / "configs/cls_mine.txt").write_text("cat, Feline\ndog\n")
    (tmp_path / "llm_texts/mine_synonyms.txt").write_text("cat >=feline\ndog >=hound\n")
    config = Config({"model": {"name_path": str(tmp_path / "configs/cls_mine.txt")}})
    with pytest.raises(ItaclipError, match=r"mine_synonyms\.txt, line 1: 'feline' is a word of"):
        apply_wording(config, tmp_path, Wording("synonyms"))


def test_distractors_are_errors_of_the_true_class_only() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.choice([0, 1, 2, 255], (20, 30)), rng.integers(0, 6, (20, 30))
    counts = IoUCounts(3)
    matrix = counts.add(torch.from_numpy(predicted), torch.from_numpy(truth))
    for k in range(3):
        both = ((truth == k) & (predicted == k)).sum()
        either = ((truth == k) | ((predicted == k) & (truth != 255))).sum()
        assert class_iou(matrix)[k].item() == pytest.approx(100 * both / either)
        assert counts.metrics().iou[k] == pytest.approx(100 * both / either)
    assert counts.metrics().pixels == (truth != 255).sum()


def test_class_255_counts_where_there_are_more_classes() -> None:
    truth = np.array([[255, 255, 300, 65535]])
    matrix = confusion_matrix(np.array([[255, 1, 300, 300]]), truth, 301)
    assert matrix[255, 255] == matrix[255, 1] == matrix[300, 300] == 1
    assert matrix.sum() == 3


# --- protocol ----------------------------------------------------------------


def described(**changes: Any) -> dict[str, Any]:
    pipeline = [dict(type="LoadImageFromFile"), dict(type="Resize", scale=changes.pop("scale", (2048, 336))),
                dict(type="PackSegInputs")]  # fmt: skip
    config = Config({"model": {}, "test_dataloader": {"dataset": {"pipeline": pipeline}}})
    metrics: Any = SimpleNamespace(labelled=changes.pop("labelled", [5, 6]))
    classes = read_class_names(ROOT / f"configs/cls_{changes.pop('names', 'voc20')}.txt")
    dataset = SimpleNamespace(metainfo={"classes": ("a", "b")}, reduce_zero_label=changes.pop("zero", False))
    return protocol_of(config, Settings(**changes), classes, dataset, metrics, 0, 4)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (dict(scale=(2048, 448)), ["resizing, steps"]),
        (dict(slide_stride=28), ["windows, slide_stride: 112 / 28"]),
        (
            dict(prob_thd=0.1, background=True),
            ["class file, background: False / True", "thresholds, prob_thd: 0.0 / 0.1"],
        ),
        (dict(names="voc21"), ["class file, classes: 20 / 21", "class file, queries", "class file, words"]),
        (dict(labelled=[5, 7]), ["label conversion, pixels per class"]),
        (dict(zero=True), ["label conversion, reduce_zero_label: False / True"]),
    ],
)
def test_a_protocol_tells_what_changed(changes: dict[str, Any], expected: list[str]) -> None:
    one, other = described(), described(**changes)
    assert one["fingerprint"] != other["fingerprint"]
    found = differences(one["parts"], other["parts"])
    assert len(found) == len(expected)
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True))


def test_every_setting_is_in_the_protocol_or_named_as_no_part_of_it() -> None:
    placed = [name for names in (*SETTINGS.values(), TEXT_SETTINGS, METHOD_AND_RUNNING) for name in names]
    assert sorted(placed) == sorted(field.name for field in fields(Settings))
    assert differences(described()["parts"], described(templates="tcl")["parts"]) != []


def test_method_weights_and_speed_are_no_part_of_a_protocol() -> None:
    assert described() == described(method="naclip", batch_crops=3, dtype="bf16", device="cpu")
    assert json.loads(json.dumps(described())) == described()  # as it is stored


def test_scores_are_stored_with_their_protocol(
    tmp_path: Path, tiny_weights: Path, voc_like: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config(
        tmp_path / "cfg_small.py", tiny_weights, voc_like([(40, 60)]), name_path=f"{tmp_path}/cls_small.txt",
        auxiliary_text_path=None,
    )  # fmt: skip
    names = [line.split(", ")[0] for line in (ROOT / "configs/cls_demo.txt").read_text().splitlines()]
    (tmp_path / "cls_small.txt").write_text("\n".join([names[0], f"{names[1]}, firmament", *names[2:]]) + "\n")
    given = ["--configs", str(config), "--methods", "clip", "--vocabularies", "plain", "distractors:2", "--out",
             str(tmp_path / "out")]  # fmt: skip
    assert eval_all(tmp_path, given) == 0
    assert "protocol" in capsys.readouterr().out
    content = json.loads((tmp_path / "out/results.json").read_text())
    assert [row["vocabulary"] for row in content["rows"]] == ["plain", "distractors:2"]
    plain, more = (content["protocols"][row["protocol"]] for row in content["rows"])
    assert differences(plain, more)[:2] == ["class file, classes: 29 / 31", "class file, queries: 29 / 32"]
    report = (tmp_path / "out/results.md").read_text()
    assert "## common, without PAMR, distractors:2 words" in report
    assert f"Protocols: DemoDataset {content['rows'][0]['protocol']}." in report
    folders = [tmp_path / "out/cells" / cell.name for cell in
               make_cells([str(config)], ["clip"], ["common"], "preset", ["plain", "distractors:2"])]  # fmt: skip
    assert compare_protocols.main([str(folders[0]), str(folders[0] / "metrics.json")]) == 0
    assert "The protocols are the same." in capsys.readouterr().out
    assert compare_protocols.main(list(map(str, folders))) == compare_protocols.DIFFERENT
    assert "distractors: 0 / 2" in capsys.readouterr().out


def test_results_without_a_protocol_are_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"mIoU": 1}')
    for path, message in ((tmp_path, "has no protocol"), (tmp_path / "x", "no such file")):
        with pytest.raises(ItaclipError, match=message):
            compare_protocols.main([str(path), str(path)])
