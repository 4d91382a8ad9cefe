"""Recorded outputs of the published implementations, stage by stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from make_weights import make_state_dict
from processes import run_python

from itaclip.errors import ItaclipError
from itaclip.research.comparison.reference import compare

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", ["itaclip_plain", "itaclip_voc_like", "itaclip_stuff_like"])
def test_itaclip_matches_every_recorded_stage(name: str, tiny_weights: Path) -> None:
    stages = compare(GOLDEN / f"{name}.npz", tiny_weights)
    assert {s.name for s in stages} >= {"query_features", "crop_tokens", "crop_logits_s4", "fused_logits_s4", "pred"}
    assert [s for s in stages if not s.passed] == []


def test_training_free_family_matches_recorded_tokens_and_logits(tiny_weights: Path) -> None:
    stages = compare(GOLDEN / "training_free_seed0.npz", tiny_weights)
    assert len(stages) == 13 * 2 * 2
    assert [s for s in stages if not s.passed] == []


def test_stronger_methods_match_recorded_tokens_logits_and_choices(tiny_weights: Path) -> None:
    stages = compare(GOLDEN / "stronger_seed0.npz", tiny_weights)
    assert len(stages) == 20 * 2 + 4
    assert {s.name for s in stages} >= {"scclip/crop/outliers", "resclip/wide/patch_labels", "corrclip/wide/tokens"}
    assert [s for s in stages if not s.passed] == []


def test_ov_stitcher_matches_every_recorded_stage(tiny_weights: Path) -> None:
    stages = compare(GOLDEN / "ov_stitcher_seed0.npz", tiny_weights)
    assert {s.name for s in stages} == {
        *(f"{case}/{key}" for case in ("small", "uneven", "large") for key in ("merged", "tokens", "logits", "labels")),
        "uneven/dino_feats", "uneven/branches",
    }  # fmt: skip
    assert [s for s in stages if not s.passed] == []


@pytest.mark.parametrize(("key", "stage"), [("uneven/qkv", "uneven/dino_feats"), ("small/masks", "small/merged"),
                                            ("large/image", "large/tokens")])  # fmt: skip
def test_other_inputs_of_ov_stitcher_are_noticed(key: str, stage: str, tiny_weights: Path, tmp_path: Path) -> None:
    arrays = dict(np.load(GOLDEN / "ov_stitcher_seed0.npz"))
    arrays[key] = np.flip(arrays[key], -1) if key != "uneven/qkv" else arrays[key] * 1.5
    np.savez(tmp_path / "other.npz", **arrays)
    assert stage in {s.name for s in compare(tmp_path / "other.npz", tiny_weights) if not s.passed}


@pytest.mark.vit_b_16
def test_itaclip_matches_at_the_real_geometry(tmp_path: Path) -> None:
    path = tmp_path / "vit-b-16.pt"
    torch.save(make_state_dict("vit-b-16"), path)
    stages = compare(GOLDEN / "itaclip_vit_b_16.npz", path)
    assert len(stages) == 7
    assert [s for s in stages if not s.passed] == []


def test_a_wrong_weight_is_detected(tmp_path: Path, tiny_state: dict[str, torch.Tensor]) -> None:
    key = "visual.transformer.resblocks.6.attn.in_proj_bias"
    state = {**tiny_state, key: tiny_state[key] + 0.05}
    torch.save(state, tmp_path / "other.pt")
    stages = compare(GOLDEN / "itaclip_plain.npz", tmp_path / "other.pt")
    failed = {s.name for s in stages if not s.passed}
    assert "crop_tokens" in failed
    assert "query_features" not in failed


def test_check_reference_prints_and_exits(tiny_weights: Path) -> None:
    done = run_python(ROOT / "tools/check_reference.py", GOLDEN / "itaclip_plain.npz", "--weights", tiny_weights)
    assert done.returncode == 0, done.stderr
    assert "crop_tokens" in done.stdout


def test_an_unknown_recording_is_rejected(tmp_path: Path, tiny_weights: Path) -> None:
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ItaclipError, match="no recorded outputs"):
        compare(tmp_path / "other.npz", tiny_weights)
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(ItaclipError, match=r"broken\.npz"):
        compare(tmp_path / "broken.npz", tiny_weights)
