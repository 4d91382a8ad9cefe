"""`tools/eval_all.py`: cells run once, a failure does not stop the others, every report is written."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comparison_helpers import small_config
from conftest import ROOT

from itaclip.core.concepts.options import CONCEPTS
from itaclip.core.methods import METHODS
from itaclip.errors import ItaclipError
from itaclip.research.comparison import cells as cells_module
from itaclip.research.comparison.cells import make_cells
from itaclip.research.comparison.commands.eval_all import SOME_FAILED, main
from itaclip.research.comparison.published import ALL, TABLES, published_score

LAUNCHER = ROOT / "tools/dist_test.sh"


@pytest.fixture
def config(tmp_path: Path, tiny_weights: Path, voc_like: Callable[..., Path]) -> Path:
    return small_config(tmp_path / "cfg_small.py", tiny_weights, voc_like([(40, 60), (64, 64)]))


def compare(config: Path, *more: str) -> int:
    return main(LAUNCHER, ["--configs", str(config), "--out", str(config.parent / "out"), *more])


def results(config: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((config.parent / "out/results.json").read_text())["rows"]
    return rows


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The evaluated methods, in order."""
    ran: list[str] = []
    evaluate = cells_module.command.main

    def count(arguments: list[str]) -> int:
        ran.append(arguments[arguments.index("--method") + 1])
        return evaluate(arguments)

    monkeypatch.setattr(cells_module.command, "main", count)
    return ran


def test_finished_cells_are_not_run_again(
    config: Path, counted: list[str], capsys: pytest.CaptureFixture[str], tiny_weights: Path
) -> None:
    assert compare(config, "--methods", "clip", "naclip") == 0
    first = results(config)
    assert compare(config, "--methods", "clip", "naclip", "kk") == 0
    assert counted == ["clip", "naclip", "kk"]
    assert "kept from an earlier run" in capsys.readouterr().out
    assert results(config)[:2] == first
    compare(config, "--methods", "clip", "--cfg-options", "model.logit_scale=33")  # other settings
    compare(config, "--methods", "clip", "--limit", "1")
    assert counted[3:] == ["clip", "clip"]
    assert results(config)[0]["images"] == 1
    words = config.parent / "cls_demo.txt"  # other words under the same name
    words.write_text((ROOT / "configs/cls_demo.txt").read_text())
    named = ("--methods", "clip", "--cfg-options", f"model.name_path={words}")
    compare(config, *named)
    words.write_text(words.read_text().replace("taxi", "taxi cab"))
    compare(config, *named)
    compare(config, *named)
    assert counted[5:] == ["clip", "clip"]


def test_a_broken_result_is_computed_again(config: Path, counted: list[str]) -> None:
    compare(config, "--methods", "clip")
    (kept,) = (config.parent / "out/cells").glob("*.json")
    kept.write_text("{")
    assert compare(config, "--methods", "clip") == 0
    assert counted == ["clip", "clip"]
    assert json.loads(kept.read_text())["cell"]["method"] == "clip"


def test_a_failed_cell_does_not_stop_the_others(
    config: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = cells_module.command.main

    def fail(arguments: list[str]) -> int:
        if "sclip" in arguments:
            raise RuntimeError("out of memory")
        return evaluate(arguments)

    monkeypatch.setattr(cells_module.command, "main", fail)
    nowhere = small_config(
        config.parent / "cfg_nowhere.py", tiny_weights, config.parent / "nowhere", "CityscapesDataset"
    )
    status = main(LAUNCHER, ["--configs", str(nowhere), str(config), "--out", str(config.parent / "out"),
                             "--methods", "sclip", "clip"])  # fmt: skip
    assert status == SOME_FAILED
    rows = results(config)
    assert [bool(row["error"]) for row in rows] == [True, True, True, False]
    assert rows[2]["error"] == "RuntimeError: out of memory"
    assert "does not exist" in rows[1]["error"]
    assert "failed" in capsys.readouterr().out
    report = (config.parent / "out/results.md").read_text()
    assert "## Failed" in report
    assert "out of memory" in report
    monkeypatch.setattr(cells_module.command, "main", evaluate)
    assert compare(config, "--methods", "sclip", "clip") == 0  # failures are tried again


def test_nothing_published_is_a_failed_cell(config: Path) -> None:
    assert compare(config, "--methods", "sclip", "--presets", "published") == SOME_FAILED
    assert "has no published settings" in results(config)[0]["error"]


def test_results_with_unreadable_images_are_not_final(config: Path, counted: list[str]) -> None:
    (config.parent / "voc/JPEGImages/image_1.jpg").write_bytes(b"no image")
    for _ in range(2):
        assert compare(config, "--methods", "clip") == SOME_FAILED
    assert counted == ["clip", "clip"]
    assert results(config)[0]["skipped"] == 1


def test_a_plan_file_runs_with_and_without_pamr(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = config.parent / "plan.json"
    plan.write_text(json.dumps({"configs": [str(config)], "methods": ["clip", "naclip"], "pamr": "both", "limit": 1}))
    assert main(LAUNCHER, ["--plan", str(plan), "--out", str(config.parent / "out"), "--methods", "clip"]) == 0
    rows = results(config)
    assert [(row["method"], row["pamr"]) for row in rows] == [("clip", False), ("clip", True)]
    with (config.parent / "out/results.csv").open() as file:
        assert [row["mIoU"] for row in csv.DictReader(file)] == [str(row["mIoU"]) for row in rows]
    report = (config.parent / "out/results.md").read_text()
    assert "## common, without PAMR" in report
    assert f"| clip | {rows[1]['mIoU']:.2f} |" in report
    assert importlib.util.find_spec("openpyxl") or "openpyxl is not installed" in capsys.readouterr().out


def test_report_path_can_be_chosen(config: Path, tmp_path: Path) -> None:
    compare(config, "--methods", "clip", "--limit", "1", "--report", str(tmp_path / "docs/results.v1"))
    content = json.loads((tmp_path / "docs/results.v1.json").read_text())
    assert content["rows"][0]["method"] == "clip"
    assert content["versions"]["torch"]
    assert (tmp_path / "docs/results.v1.md").is_file()


def test_eval_accepts_method_preset_and_pamr(config: Path, tmp_path: Path) -> None:
    given = ["--config", str(config), "--work-dir", str(tmp_path), "--limit", "1", "--method", "naclip", "--preset",
             "common", "--pamr", "on", "--cfg-options", "model.logit_scale=33"]  # fmt: skip
    assert cells_module.command.main(given) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    settings = metrics["settings"]
    assert (settings["method"], settings["slide_crop"], settings["pamr_steps"]) == ("naclip", 112, 10)
    assert settings["logit_scale"] == 33  # --cfg-options override the plan
    assert (metrics["run"]["preset"], metrics["run"]["preset_source"]) == ("common", "this project")


def test_spreadsheet(config: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    compare(config, "--methods", "clip", "--limit", "1")
    sheet = openpyxl.load_workbook(config.parent / "out/results.xlsx").active
    assert sheet.max_row == 2


def test_several_processes_go_through_the_launcher(config: Path, tmp_path: Path) -> None:
    fake = tmp_path / "launch.sh"
    fake.write_text('echo "$@" > "$(dirname "$0")/asked"; echo "error: no GPU" >&2; exit 2\n')
    given = ["--configs", str(config), "--out", str(tmp_path / "out"), "--methods", "clip", "--processes", "2"]
    assert main(fake, given) == SOME_FAILED
    assert (tmp_path / "asked").read_text().startswith(f"{config} 2 --method clip --work-dir")
    assert results(config)[0]["error"] == "2 processes exited with status 2: error: no GPU"


@pytest.mark.parametrize(
    ("content", "message"),
    [({}, r"configs = \[\]: expected"),
     ({"configs": ["a.py"], "method": ["clip"]}, "unknown entry 'method'.*'methods'"),
     ({"configs": ["a.py"], "methods": ["clop"]}, r"methods = \['clop'\]: expected some of clip"),
     ({"configs": ["a.py"], "pamr": "maybe"}, "pamr = 'maybe': expected on, off, both or preset")],
)  # fmt: skip
def test_bad_plans_are_rejected(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(ItaclipError, match=message):
        main(LAUNCHER, ["--plan", str(tmp_path / "plan.json"), "--out", str(tmp_path)])


def test_cells_of_equally_named_configurations_differ() -> None:
    names = [cell.name for cell in make_cells(["a/cfg.py", "b/cfg.py"], ["clip", "sclip"], ["common"], "both")]
    assert len(set(names)) == 8


# --- published tables --------------------------------------------------------


def test_published_tables_agree_with_their_printed_averages() -> None:
    printed = {"PEARL": 43.2, "CASS": 44.4, "Trident": 45.8, "OV-Stitcher": 50.7, "CorrCLIP": 48.7, "ResCLIP": 41.4}
    for row in TABLES:
        assert all(0 < score < 100 for score in row.scores.values())
        assert row.source
        assert row.method is None or row.method in {*METHODS, *CONCEPTS}
        if row.label in printed and len(row.scores) == 8 and row.backbone == "OpenAI ViT-B/16":
            assert sum(row.scores.values()) / 8 == pytest.approx(printed[row.label], abs=0.06)


def test_published_scores_distinguish_refinement() -> None:
    assert published_score("itaclip", "voc21", pamr=True) == (67.9, "ITACLIP's README and paper")
    assert published_score("itaclip", "voc21", pamr=False) == (65.6, "ITACLIP's paper, ablation of PAMR")
    assert published_score("naclip", "ade20k", pamr=True) == (19.05, "NACLIP's README (September 2024)")
    assert published_score("naclip", "ade20k", pamr=False) == (17.4, "OV-Stitcher (arXiv 2604.08110), table 1")
    assert published_score("maskclip", "voc20", pamr=False) == (
        74.9,
        "ClearCLIP's README, its own implementation (ViT-B)",
    )
    assert published_score("kk", "voc21", pamr=False) is None
    assert all(set(row.scores) <= set(ALL) for row in TABLES)
