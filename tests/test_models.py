"""The list of models by name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import open_clip
import pytest

from itaclip import ItaclipError
from itaclip.apps.command.main import main
from itaclip.core.clip import families
from itaclip.core.clip.loading import load_clip
from itaclip.core.clip.model_list import IMAGENET, TRUE_SIZE, models, other_models
from itaclip.core.clip.open_clip_modules import build
from itaclip.core.clip.towers import as_tower
from itaclip.core.clip.towers.libraries import refusal


def test_the_list_names_every_set_of_weights_that_open_clip_has() -> None:
    found = {(m.name, m.tag): m for m in models()}
    assert set(found) == set(open_clip.list_pretrained())
    siglip = found["ViT-B-16-SigLIP2", "webli"]
    assert (siglip.family, siglip.image, siglip.patch, siglip.channels, siglip.tested) == (
        "SigLIP", 224, 16, 768, "true size")  # fmt: skip
    assert (found["PE-Core-L-14-336", "meta"].imagenet, found["EVA02-L-14", "merged2b_s4b_b131k"].tested) == (
        83.5, "family")  # fmt: skip
    assert found["convnext_base", "laion400m_s13b_b51k"].family.startswith("refused")


def test_models_that_are_not_relatives_of_clip(capsys: pytest.CaptureFixture[str]) -> None:
    found = {m.name: m for m in other_models()}
    assert set(found) == set(families.NAMES)
    assert (found["tipsv2-l14"].image, found["tipsv2-l14"].patch, found["tipsv2-l14"].channels) == (448, 14, 1024)
    assert main(["models", "tipsv2", "b14"]) == 0
    assert "tipsv2-b14  TIPSv2" in capsys.readouterr().out


def test_published_figures_and_tests_are_of_models_that_exist() -> None:
    found = {(m.name, m.tag): m for m in models()}
    assert set(IMAGENET) <= set(found)
    assert set(TRUE_SIZE) <= {m.name for m in found.values()}


@pytest.mark.parametrize("name", ["RN50:openai", "convnext_base:laion400m_s13b_b51k", "ViTamin-S:datacomp1b"])
def test_what_the_list_says_is_refused_is_refused(name: str) -> None:
    assert next(m for m in models() if f"{m.name}:{m.tag}" == name).tested == ""
    with pytest.raises(ItaclipError, match="no patch tokens"):
        load_clip(name)


@pytest.mark.vit_b_16
@pytest.mark.parametrize("name", open_clip.list_models())
def test_every_architecture_is_built_or_refused_as_the_list_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without weights; texts are kept small."""
    config = open_clip.get_model_config(name)
    reason = refusal(config["vision_cfg"])
    config["text_cfg"] = {"layers": 1, "width": 64, "heads": 1, "vocab_size": 10}
    if reason:
        with pytest.raises(ItaclipError, match=re.escape(reason)):
            build(config, False, name)
    else:
        tower = as_tower(build(config, False, name).visual)
        assert tower.channels == config["embed_dim"]
        assert tower.image_size <= config["vision_cfg"]["image_size"] < tower.image_size + tower.patch_size


def test_weights_on_this_machine_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ITACLIP_WEIGHTS_DIR", str(tmp_path))
    (tmp_path / "ViT-B-16-SigLIP2-webli.safetensors").touch()
    (tmp_path / "PE-Core-B-16").mkdir()
    (tmp_path / "PE-Core-B-16/open_clip_model.safetensors").touch()
    assert main(["models", "--json", "--here"]) == 0
    found = {row["name"]: row["weights"] for row in json.loads(capsys.readouterr().out)}
    assert found["ViT-B-16-SigLIP2"] == str(tmp_path / "ViT-B-16-SigLIP2-webli.safetensors")
    assert found["PE-Core-B-16"] == str(tmp_path / "PE-Core-B-16/open_clip_model.safetensors")
    assert "EVA02-B-16" not in found


def test_words_narrow_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "siglip2", "L-16"]) == 0
    printed = capsys.readouterr().out
    assert "ViT-L-16-SigLIP2-384:webli" in printed
    assert "ViT-B-16" not in printed
    assert "open_clip 3.3.0" in printed
    with pytest.raises(ItaclipError, match="no model has 'siglip9' in its name"):
        main(["models", "siglip9"])
