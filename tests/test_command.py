"""The command line: help, exit codes, plain and JSON output, and errors in a line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from processes import run_python

from itaclip.apps.command.main import COMMANDS, main
from itaclip.errors import ItaclipError
from itaclip.formats.configuration import read_model
from itaclip.research.openmmlab.configuration import change_config, load_config

QUICK = ("--model", "demo", "--quality", "fast", "--set", "pamr_steps=0")


def itaclip(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_python("-m", "itaclip", *arguments)


def test_help_names_every_command() -> None:
    found = itaclip("--help")
    assert found.returncode == 0
    for name, text in COMMANDS.items():
        assert f"  {name:9}{text}" in found.stdout
    assert "Exit status: 0 done, 1 done but some files failed, 2 bad input" in found.stdout


@pytest.mark.parametrize("name", ["segment", "label", "eval", "demo", "models", "env"])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert "--" in capsys.readouterr().out


def test_a_wrong_word_is_told_in_a_line() -> None:
    found = itaclip("segmnt")
    assert found.returncode == 2
    commands = "segment, label, raster, export, eval, demo, serve, models, env"
    assert found.stderr == f"error: no command 'segmnt'. Did you mean 'segment'? Commands: {commands}.\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--classes", " ; "), "class list is empty"),
        (("--classes", "cat; cat"), "'cat' already occurs on line 1"),
        (("--classes", "cat", "--classes-file", "f"), "give only one of them"),
        ((), "no classes: give --classes"),
        (("--classes-file", "missing.txt"), "missing.txt: no such file"),
        (("--classes", "cat", "--batch", "0"), "--batch 0: expected 1 or more"),
        (("--classes", "cat", "--set", "pamr"), "--set 'pamr': expected KEY=VALUE"),
        (("--classes", "cat", "--set", "pamr_stp=1"), "Did you mean 'pamr_steps'"),
        (("--classes", "cat", "--set", "prob_thd=7"), r"prob_thd = 7: expected in \[0, 1\]"),
        (("--classes", "cat", "--definitions", "defs.txt"), "line 1: 'a cat' has no ' >='"),
        (("--classes", "cat", "--model", "no.pt"), "no.pt"),
        (("--config", "CONFIG", "--quality", "fast"), "--quality: the configuration sets"),
        (("--config", "CONFIG", "--background", "no"), "give --classes too"),
        (("--classes", "cat", "--device", "tpu9"), "device 'tpu9' is not available"),
    ],
)
def test_bad_options(
    options: tuple[str, ...], message: str, tmp_path: Path, demo_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("defs.txt").write_text("a cat\n")
    options = tuple(str(ROOT / "configs/cfg_demo.py") if word == "CONFIG" else word for word in options)
    model = () if "--model" in options else ("--model", "demo")
    with pytest.raises(ItaclipError, match=message):
        main(["segment", str(demo_root / "JPEGImages"), "--out", "out", *model, *options])
    assert not Path("out").exists()


def test_configurations_are_listed_and_read_by_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["eval", "--list"])
    assert stopped.value.code == 0
    *shown, files = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in shown} == {p.stem.removeprefix("cfg_") for p in ROOT.glob("configs/cfg_*.py")}
    described = "voc ITACLIP on Pascal VOC 2012 with background (VOC21): 1,449 images, 21 classes."
    assert described in [" ".join(line.split()) for line in shown]
    assert files == f"Files: {ROOT / 'configs'}"
    assert read_model("coco_stuff").short_side == 448
    with pytest.raises(ItaclipError, match=r"cfg_voc.py: no such configuration file\. Did you mean 'voc'\?"):
        read_model("configs/cfg_voc.py")  # there is none in this folder


def test_other_weights_take_neither_tag_nor_activation_of_a_configuration(tmp_path: Path) -> None:
    file = tmp_path / "cfg.py"
    file.write_text(f"""
_base_ = "{ROOT}/configs/cfg_demo.py"
model = dict(model_name="ViT-B-16", pretrained="laion2b_s34b_b88k", quick_gelu=False)
""")
    assert read_model(file).weights == ("ViT-B-16", "laion2b_s34b_b88k", False)
    assert read_model(file, "mine.pt").weights == ("mine.pt", None, None)
    assert load_config(file, weights="mine.pt").model.get("pretrained") is None
    config = load_config(file)
    change_config(config, {"model.quick_gelu": True}, weights="mine.pt")
    assert (config.model.model_name, config.model.quick_gelu) == ("mine.pt", True)
    assert "pretrained" not in config.model


def test_segment_reports_and_sets_its_status(demo_root: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("car, taxi\nhouse\n\ncloud\n")
    (tmp_path / "definitions.txt").write_text("taxi >=a vehicle with four wheels\n")
    (tmp_path / "bad.jpg").write_text("nothing")
    found = itaclip(
        "segment", demo_root / "JPEGImages/scene_002.jpg", tmp_path / "bad.jpg", "--out", tmp_path / "out", *QUICK,
        "--classes-file", tmp_path / "words.txt", "--definitions", tmp_path / "definitions.txt",
        "--background", "cardboard box, blank billboard", "--json",
    )  # fmt: skip
    assert found.returncode == 1, found.stderr
    summary = json.loads(found.stdout)
    assert summary["classes"] == ["background", "car", "house", "cloud"]
    assert summary["background_words"] == ["cardboard box", "blank billboard"]
    assert summary["background_choice"] == "own words"
    assert "background: own words (cardboard box, blank billboard)" in " ".join(found.stderr.split())
    assert summary["done"] == 1
    assert [Path(name).name for name in summary["failed"]] == ["bad.jpg"]
    assert "failed: " in found.stderr
    assert "\x1b" not in found.stdout + found.stderr  # no colours where there is no terminal
    key = json.loads((tmp_path / "out/run.json").read_text())
    assert key["classes"][0] == ["cardboard box", "blank billboard"]
    assert key["definitions"] == ["a vehicle with four wheels", None, None]


def test_demo_is_mostly_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path), "--images", "1"]) == 0
    printed = capsys.readouterr().out
    assert float(printed.split(": ")[1].split("%")[0]) > 90
    assert len(list((tmp_path / "results/overlays").iterdir())) == 1
    with pytest.raises(ItaclipError, match="--images 0: expected 1 to 48"):
        main(["demo", "--images", "0"])


def test_env_reports_and_checks_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["self_check"]["passed"]
    assert report["versions"]["torch"].startswith("2.")
    assert report["weights"]["demo"] == "bundled"
    assert main(["env", "--no-check"]) == 0
    assert "text cache" in capsys.readouterr().out
