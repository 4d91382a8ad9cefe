"""`tools/ablate.py`: variants in one run give the results of separate evaluations, sharing their work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from comparison_helpers import small_config
from conftest import ROOT
from PIL import Image

from itaclip.core.clip.towers.openai import OpenAITower
from itaclip.core.settings import Settings
from itaclip.core.text import TextEncoder
from itaclip.errors import ItaclipError
from itaclip.research.comparison.ablation import Ablation
from itaclip.research.comparison.commands.ablate import main
from itaclip.research.comparison.variants import GROUPS, METHODS_AND_PARTS, STITCHER_PARTS, make_variants
from itaclip.research.evaluation.command import SOME_SKIPPED
from itaclip.research.evaluation.command import main as evaluate
from itaclip.research.evaluation.setup import build_dataset
from itaclip.research.openmmlab.configuration import load_config


@pytest.fixture
def config(tmp_path: Path, tiny_weights: Path, voc_like: Callable[..., Path]) -> Path:
    root = voc_like([(40, 60), (64, 64), (50, 33)])
    texts = str(ROOT / "llm_texts/demo_definitions.txt")
    own = dict(img_engineering=True, slide_stride=48, blur_kernel=5, def_coefficient=0.3, prob_thd=0.0, logit_scale=100)
    return small_config(tmp_path / "cfg_small.py", tiny_weights, root, auxiliary_text_path=texts, **own)


CHANGES = [
    {},
    {"attention": "vv"},
    {"method": "gem"},
    {"residual": False, "feed_forward": True},
    {"middle_layers": (3,)},
    {"img_engineering": False},
    {"img_eng_coefficient": 0.2},
    {"def_coefficient": 1.0},
    {"pamr_steps": 2, "pamr_stride": (1, 3)},
    {"prob_thd": 0.1, "area_thd": 0.2},
    {"slide_stride": 30, "padding": "centre"},
    {"blur_sigma": 1.0},
]


@pytest.mark.slow
def test_shared_results_equal_separate_evaluations(config: Path, tmp_path: Path) -> None:
    """`eval.py` builds a separate model for every variant and shares nothing."""
    loaded = load_config(config)
    ablation = Ablation(loaded)
    settings = [ablation.base.changed(**change) for change in CHANGES]
    outcomes = ablation.run(build_dataset(loaded), settings, batch_size=2)
    found = []
    for change, outcome in zip(CHANGES, outcomes, strict=True):
        options = [f"model.{key}={value}" for key, value in change.items()]
        evaluate(
            ["--config", str(config), "--work-dir", str(tmp_path), *(["--cfg-options", *options] if options else [])]
        )
        alone = json.loads((tmp_path / "metrics.json").read_text())
        assert outcome.images == alone["images"] == 3
        metrics = outcome.counts.metrics()
        assert metrics.mean_iou == pytest.approx(alone["mIoU"], abs=0.02), change
        assert metrics.all_accuracy == pytest.approx(alone["aAcc"], abs=0.05), change
        found.append(metrics.mean_iou)
    assert len({round(score, 4) for score in found}) == len(CHANGES)  # the variants differ


def test_shared_work_is_done_once(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes, prompts = [], []
    embed, encode = OpenAITower.embed, TextEncoder.forward

    def count_passes(self: OpenAITower, pixels: object, grid: object, rule: object) -> object:
        passes.append(rule)
        return embed(self, pixels, grid, rule)  # type: ignore[arg-type]

    def count_prompts(self: TextEncoder, asked: list[str]) -> object:
        prompts.extend(asked)
        return encode(self, asked)

    monkeypatch.setattr(OpenAITower, "embed", count_passes)
    monkeypatch.setattr(TextEncoder, "forward", count_prompts)
    loaded = load_config(config)
    ablation, dataset = Ablation(loaded), build_dataset(loaded)
    ablation.run(dataset, [ablation.base])
    alone, asked = len(passes), len(prompts)
    variants = make_variants(ablation.base, ablation.blocks, texts=True)
    assert {variant.group for variant in variants} == set(GROUPS) - {METHODS_AND_PARTS, STITCHER_PARTS}
    ablation.run(dataset, [variant.settings for variant in variants])
    assert len(passes) == 2 * alone  # 40 variants without an additional pass of the first blocks
    assert len(prompts) == asked == len(set(prompts))


def test_notes_on_masks_are_shown(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(load_config(config).test_dataloader.dataset.data_root)
    (root / "SegmentationClass/image_1.png").unlink()
    assert main(["--config", str(config), "--out", str(tmp_path / "out"), "--only", "residual"]) == SOME_SKIPPED
    assert "1 of 3 masks are missing: image_1.png" in capsys.readouterr().out


def test_command_writes_table_json_and_plot(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "ablation"
    status = main(["--config", str(config), "--out", str(out), "--only", "pamr", "attention", "--measure-savings",
                   "--limit", "1"])  # fmt: skip
    assert status == 0
    content = json.loads((out / "ablation.json").read_text())
    assert [row["variant"] for row in content["rows"] if row["ablation"] == "PAMR"] == ["off", "on"]
    configured = [row["variant"] for row in content["rows"] if row["configured"]]
    assert configured == ["off", "qq+kk"]
    assert content["savings"]["largest_difference"] < 0.02
    assert min(content["savings"][f"{kind}_seconds"] for kind in ("separate", "shared")) > 0
    assert "| attention | qq+kk * |" in (out / "ablation.md").read_text()
    with Image.open(out / "ablation.png") as picture:
        assert picture.width > 500
    assert "PAMR" in capsys.readouterr().out


def test_published_ablations_match_their_data_set(config: Path) -> None:
    from itaclip.research.comparison.published import published_ablation

    names = {(v.group, v.name) for v in make_variants(Settings(background=True), 12, texts=True)}
    for group in ("attention", "feed-forward network", "PAMR"):
        for known, name in names:
            assert known != group or published_ablation(group, name, "voc21") is not None
    assert published_ablation("attention", "qq+kk", "voc21") == 67.9
    assert published_ablation("attention", "qq+kk", "demo") is None


@pytest.mark.parametrize(
    ("base", "texts", "group", "message"),
    [(Settings(), True, "pamir", "ablation 'pamir'"), (Settings(), False, "auxiliary text", "needs auxiliary texts"),
     (Settings(), True, "area threshold", "needs a background class")],
)  # fmt: skip
def test_ablations_that_do_not_apply_are_rejected(base: Settings, texts: bool, group: str, message: str) -> None:
    with pytest.raises(ItaclipError, match=message):
        make_variants(base, 12, texts, [group])
    assert "area threshold" not in {v.group for v in make_variants(base, 12, texts)}


def test_parts_of_ov_stitcher_are_switched_off_one_by_one(
    tmp_path: Path, tiny_weights: Path, voc_like: Callable[..., Path], second_weights: str
) -> None:
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps({"cat": ["a cat"], "sky": ["the sky at night"]}))
    path = small_config(tmp_path / "cfg_small.py", tiny_weights, voc_like([(40, 60), (64, 64)]), method="ovstitcher",
                        second_encoder=second_weights, map_correction=True, class_prompts=str(prompts),
                        slide_stride=48)  # fmt: skip
    assert main(["--config", str(path), "--only", STITCHER_PARTS, "--out", str(tmp_path / "out")]) == 0
    rows = json.loads((tmp_path / "out/ablation.json").read_text())["rows"]
    assert [row["variant"] for row in rows] == ["all", "no stitched features", "no stitched spatial branch", "neither",
                                                "no class-biased prompts", "no map correction"]  # fmt: skip
    with pytest.raises(ItaclipError, match="needs the method ovstitcher"):
        make_variants(Settings(), 12, texts=True, groups=[STITCHER_PARTS])
    assert STITCHER_PARTS not in {variant.group for variant in make_variants(Settings(), 12, texts=True)}
