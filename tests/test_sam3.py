"""SAM 3 on a miniature with random weights: transformers' own forward pass, prompt by prompt, is the oracle."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import CLIPTextConfig, Sam3Config, Sam3Model, Sam3ViTConfig
from web_helpers import running_server

from itaclip import ItaclipError, Segmenter
from itaclip.core.concepts.fusion import class_maps, kept_prompts, prompt_map
from itaclip.core.concepts.loading import load_sam3
from itaclip.core.concepts.options import Sam3Options
from itaclip.core.concepts.pipeline import ConceptPipeline
from itaclip.core.concepts.sam3 import Sam3, convolved_after_doubling
from itaclip.core.images import normalise
from itaclip.core.resizing import fit
from itaclip.core.settings import Settings
from itaclip.research.benchmark.segmenters import sam3_seconds
from itaclip.research.comparison.cells import Cell, Options, arguments, run_cell
from itaclip.research.comparison.published import published_score
from itaclip.research.evaluation.protocol import apply_protocol
from itaclip.research.openmmlab.configuration import load_config

SIDE, SMALL = 56, 28
WORDS = ["cat", "sofa", "couch", "traffic light", "sky", "a very long description of a small wooden house"]
IMAGE = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8).repeat(6, 0).repeat(6, 1)


def miniature() -> Sam3Model:
    vision = {
        "backbone_config": Sam3ViTConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE,
            patch_size=14, window_size=2, global_attn_indexes=[1], pretrain_image_size=28,
        ),
        "fpn_hidden_size": 16,
    }  # fmt: skip
    small = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "num_layers": 2}
    text = CLIPTextConfig(
        hidden_size=16, intermediate_size=24, projection_dim=8, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32, vocab_size=49408,
    )  # fmt: skip
    config = Sam3Config(
        vision_config=vision, text_config=text, geometry_encoder_config=small, detr_encoder_config=small,
        detr_decoder_config=small | {"num_queries": 5},
        mask_decoder_config={"hidden_size": 16, "num_attention_heads": 2},
    )  # fmt: skip
    torch.manual_seed(0)
    model = Sam3Model(config)
    for name, weight in model.named_parameters():
        norm = weight.ndim == 1 and name.endswith("weight")
        weight.data.copy_(torch.randn_like(weight) * 0.2 + (1.0 if norm else 0.0))
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam3")
    miniature().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def sam3(folder: Path) -> Sam3:
    return load_sam3(str(folder))


@pytest.fixture(scope="module")
def segmenter(folder: Path) -> Segmenter:
    return Segmenter(f"sam3:{folder}", device="cpu")


def maps_plainly(sam3: Sam3, image: NDArray[np.uint8], words: list[str], confidence: float) -> Tensor:
    """Run the whole model for every prompt, and loop over its instances."""
    pixels = F.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None].float(), (SIDE, SIDE), mode="bilinear", antialias=True
    )
    found = []
    for word in words:
        tokens = sam3.tokenizer([word])
        mask = (torch.arange(32) <= tokens.argmax()).long()[None]
        with torch.no_grad():
            output = sam3.model(pixel_values=(pixels / 255 - 0.5) / 0.5, input_ids=tokens, attention_mask=mask)
        presence = output.presence_logits.sigmoid().item()
        of_word = output.semantic_seg[0, 0].sigmoid()
        for logit, instance in zip(output.pred_logits[0], output.pred_masks[0], strict=True):
            score = logit.sigmoid().item() * presence
            if score >= confidence:
                of_word = torch.maximum(of_word, instance.sigmoid() * score)
        found.append(of_word * presence)
    return torch.stack(found)


@pytest.mark.parametrize("confidence", [0.0, 0.2, 1.0])
def test_maps_are_those_of_the_whole_model_prompt_by_prompt(sam3: Sam3, confidence: float) -> None:
    encoded = sam3.encode_image(normalise(IMAGE))
    prompts = sam3.encode_prompts(WORDS)
    together = sam3.maps(encoded, prompts, confidence)
    expected = maps_plainly(sam3, IMAGE, WORDS, confidence)
    torch.testing.assert_close(together, expected, atol=1e-5, rtol=0)
    singly = torch.cat([sam3.maps(encoded, prompts[i : i + 1], confidence) for i in range(len(WORDS))])
    torch.testing.assert_close(singly, together, atol=1e-6, rtol=0)
    assert expected.amax((1, 2)).unique().numel() == len(WORDS)  # prompts differ


def test_the_preview_is_the_model_at_another_size(sam3: Sam3) -> None:
    encoded = sam3.encode_preview(normalise(IMAGE), SMALL)
    found = sam3.presence(encoded, sam3.encode_prompts(WORDS))
    config = copy.deepcopy(sam3.model.config)
    config.vision_config.backbone_config.image_size = SMALL
    small = Sam3Model(config).eval()
    small.load_state_dict(sam3.model.state_dict())
    pixels = F.interpolate(
        torch.from_numpy(IMAGE).permute(2, 0, 1)[None].float(), (SMALL, SMALL), mode="bilinear", antialias=True
    )
    for word, presence in zip(WORDS, found, strict=True):
        tokens = sam3.tokenizer([word])
        mask = (torch.arange(32) <= tokens.argmax()).long()[None]
        with torch.no_grad():
            output = small(pixel_values=pixels / 127.5 - 1, input_ids=tokens, attention_mask=mask)
        assert presence == pytest.approx(output.presence_logits.sigmoid().item(), abs=1e-5)
    # nothing of the model was changed, or copied
    shared = {weight.data_ptr() for weight in sam3.model.parameters()}
    assert all(weight.data_ptr() in shared for weight in sam3._previews[SMALL].parameters())
    with pytest.raises(ItaclipError, match="preview_side = 42: expected a multiple of 28"):
        sam3.encode_preview(normalise(IMAGE), 42)


@pytest.mark.parametrize("size", [(6, 10), (7, 10), (3, 5)])
def test_a_convolution_after_doubling(size: tuple[int, int]) -> None:
    x, weight = torch.randn(1, 4, 3, 5), torch.randn(6, 4, 3, 3)
    plain = F.conv2d(F.interpolate(x, size=size, mode="nearest"), weight, padding=1)
    torch.testing.assert_close(convolved_after_doubling(x, weight, size), plain, atol=1e-5, rtol=1e-5)


def test_fusion_on_numbers() -> None:
    semantic = torch.tensor([[0.0, -20.0]])  # 0.5, 0
    masks = torch.tensor([[[20.0, 20.0]], [[20.0, -20.0]]])
    found = prompt_map(semantic, masks, torch.tensor([0.4, 0.9]), torch.tensor(0.5))
    torch.testing.assert_close(found, torch.tensor([[0.45, 0.2]]))
    torch.testing.assert_close(prompt_map(semantic, masks[:0], torch.ones(0), torch.tensor(1.0)), semantic.sigmoid())


@pytest.mark.parametrize(
    ("share", "most", "expected"),
    [(0.4, 3, [1, 4]), (0.4, 1, [4]), (0.01, 2, [4]), (0.4, 5, [0, 1, 2, 3, 4]), (1.0, 4, [0, 1, 2, 4])],
)
def test_which_prompts_stay(share: float, most: int, expected: list[int]) -> None:
    presence = torch.tensor([0.3, 0.5, 0.2, 0.1, 0.9])
    assert kept_prompts(presence, share, most).tolist() == expected


def test_a_class_is_its_best_synonym_and_without_prompts_nothing() -> None:
    maps = torch.tensor([0.1, 0.7, 0.3])[:, None, None].expand(3, 2, 2)
    found = class_maps(maps, torch.tensor([0, 2, 3]), [1, 3, 2])
    assert found[:, 0, 0].tolist() == pytest.approx([0.1, 0.7, 0.0])


def test_names_in_and_label_map_out(segmenter: Segmenter, sam3: Sam3, tmp_path: Path) -> None:
    segmenter.set_classes(["cat", "sofa, couch", "traffic light"], background=False)
    result = segmenter(IMAGE)
    maps = maps_plainly(sam3, fit(IMAGE, 2048, SIDE), ["cat", "sofa", "couch", "traffic light"], 0.5)
    of_classes = torch.stack([maps[0], maps[1:3].amax(0), maps[3]])
    scores = F.interpolate(of_classes[None], (48, 60), mode="bilinear")[0]
    assert np.array_equal(result.labels, scores.argmax(0).numpy())
    assert result.names == ("cat", "sofa", "traffic light")
    # batches of any sizes, and threads' vocabularies
    other = IMAGE[:30]
    both = segmenter([other, IMAGE])
    assert np.array_equal(both[1].labels, result.labels)
    assert np.array_equal(both[0].labels, segmenter(other).labels)
    # below the threshold lies the background
    with_background = segmenter.prepare(["cat"], background=["wall"])
    assert (segmenter(IMAGE, with_background, prob_thd=1.0).labels == 0).all()
    # parts that follow the scores apply
    regions = segmenter(IMAGE, map_correction=True, pamr_steps=1, area_thd=0.01)
    assert regions.labels.shape == IMAGE.shape[:2]
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    assert next(segmenter.stream([tmp_path / "a.png"])).labels.shape == IMAGE.shape[:2]


def test_a_preview_leaves_out_prompts_and_no_preview_none(segmenter: Segmenter) -> None:
    segmenter.set_classes(WORDS, background=False)
    every = segmenter(IMAGE, scores="full", method_options={"preview": False})
    few = segmenter(
        IMAGE,
        scores="full",
        method_options={"preview_side": SMALL, "preview_most": 2, "preview_share": 0.4, "bucket": 3},
    )
    present = {name for name in few.names if few.score_map(name).any()}
    assert len(present) == 2
    for name in present:
        np.testing.assert_allclose(few.score_map(name), every.score_map(name), atol=1e-6)
    same = segmenter(IMAGE, method_options={"preview_most": len(WORDS), "bucket": 2})
    assert np.array_equal(same.labels, every.labels)


def test_reduced_precision_keeps_positions(segmenter: Segmenter, folder: Path) -> None:
    exact, rounded = segmenter, Segmenter(f"sam3:{folder}", device="cpu", dtype="bf16")
    results = []
    for one in (exact, rounded):
        one.set_classes(["cat", "sky"], background=False)
        results.append(one(IMAGE, scores="full").score_map("cat"))
    assert np.abs(results[0] - results[1]).max() < 0.05
    buffers = dict(rounded.pipeline.encoder.named_buffers())
    assert any(name.endswith("position_ids") for name in buffers)
    for name, buffer in exact.pipeline.encoder.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "naclip"}, "method = 'naclip': it reads a CLIP"),
        ({"engine": "openvino"}, "engine = 'openvino'"),
        ({"method_options": {"confidense": 0.4}}, "Did you mean 'confidence'"),
        ({"method_options": {"bucket": 0}}, "bucket = 0"),
        ({"method_options": {"preview_share": "all"}}, "method 'sam3': '<'"),
        ({"tolerance": 0.1}, "does not read windows one by one"),
    ],
)
def test_settings_that_sam3_does_not_have(sam3: Sam3, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ItaclipError, match=message):
        ConceptPipeline(sam3, Settings(**{"method": "sam3"} | settings))


def test_what_a_clip_and_a_loaded_sam3_refuse(segmenter: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(ItaclipError, match=r"a model of its own.*Segmenter\('sam3'\)"):
        Segmenter("demo", method="sam3")
    assert not Settings(method="sam3").reads_regions
    with pytest.raises(ItaclipError, match="takes class names alone"):
        segmenter.prepare(["cat"], definitions={"cat": "a small animal"})
    with pytest.raises(ItaclipError, match="gated"):
        segmenter.save_pretrained(tmp_path)
    with pytest.raises(ItaclipError, match="it has no windows"):
        segmenter.pipeline.plan(torch.zeros(3, 5, 5))
    with pytest.raises(ItaclipError, match="no windows and no views"):
        Segmenter("sam3", quality="fast")
    with pytest.raises(ItaclipError, match="belong to a CLIP"):
        Segmenter("sam3", quick_gelu=True)


def test_weights_that_are_missing_or_damaged(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ITACLIP_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ItaclipError, match=r"(?s)facebook/sam3: SAM 3 is not on this machine.*gated.*hf download"):
        Segmenter("sam3")
    with pytest.raises(ItaclipError, match="no such folder"):
        Segmenter(f"sam3:{tmp_path}/nothing")
    (tmp_path / "sam3").mkdir()
    for file in folder.iterdir():
        (tmp_path / "sam3" / file.name).write_bytes(file.read_bytes())
    assert Segmenter("sam3", device="cpu").patch_size == 14  # found among the weights
    weights = tmp_path / "sam3/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ItaclipError, match="not a readable SAM 3 model"):
        Segmenter("sam3")


def test_an_evaluation_and_a_cell_of_a_comparison(folder: Path, demo_root: Path, tmp_path: Path) -> None:
    weights, config = f"sam3:{folder}", str(ROOT / "configs/cfg_demo.py")
    overrides = (
        "model.device=cpu", "model.method_options.preview=False", "test_dataloader.dataset.pipeline.1.scale=(99,56)",
    )  # fmt: skip
    options = Options(weights=weights, data_roots=(("cfg_demo", str(demo_root)),), limit=1, overrides=overrides)
    found = run_cell(Cell(config, "sam3", "common", "preset"), options, tmp_path)
    assert found.metrics, found.error
    assert found.metrics["settings"]["prob_thd"] == 0.4
    # a CLIP's weights are not SAM 3's, nor the other way round
    for method, own, given in (("sam3", weights, True), ("naclip", weights, False), ("sam3", "demo", False)):
        line = arguments(Cell(config, method, "common", "preset"), Options(weights=own), tmp_path)
        assert ("--weights" in line) == given
    unprepared = run_cell(Cell(config, "sam3", "config", "preset"), options, tmp_path)
    assert "add --preset published or common" in str(unprepared.error)


def test_a_server_answers_with_sam3(folder: Path, demo_root: Path, tmp_path: Path) -> None:
    """The page and the interface for programs offer its own method alone."""
    photo = (demo_root / "JPEGImages/scene_003.jpg").read_bytes()
    options = ("--model", f"sam3:{folder}", "--quality", "balanced", "--api")
    with running_server(tmp_path, *options) as server, httpx.Client(base_url=server.address, timeout=60) as client:

        def asked(**fields: str) -> httpx.Response:
            given = {"classes": "bus; fence; house"} | fields
            return client.post("/v1/segment", files={"image": ("scene.jpg", photo)}, data=given)

        assert client.get("/v1/info").json()["methods"] == ["sam3"]
        answer = asked()
        assert answer.status_code == 200, answer.text
        assert [one["name"] for one in answer.json()["classes"]][1:] == ["bus", "fence", "house"]
        for refused in (asked(method="naclip"), asked(views="true")):
            assert refused.status_code in (400, 422), refused.text
            assert "sam3" in refused.text.lower() or "SAM 3" in refused.text
        assert client.get("/").status_code == 200


def test_presets(tmp_path: Path) -> None:
    config = load_config(ROOT / "configs/cfg_voc.py")
    assert "SegEarth-OV3" in str(apply_protocol(config, tmp_path, "sam3", "published"))
    assert (config.model.model_name, config.model.prob_thd, config.model.auxiliary_text_path) == ("sam3", 0.4, None)
    assert config.test_dataloader.dataset.pipeline[1].scale == (2048, 1008)
    assert published_score("sam3", "voc21", pamr=False) == (79.8, "ActiveSAM's repository at 41cad43, table 1")


def test_the_tools_run_a_miniature(
    sam3: Sam3, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = sam3_seconds(sam3, normalise(IMAGE), prompts=10, bucket=2, options=Sam3Options(preview_side=SMALL))
    assert found["kept"] == 2
    assert float(found["largest difference"]) < 1e-4
    assert {"with preview, times as fast", "prompt by prompt, s"} <= found.keys()
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    tool = importlib.import_module("check_weights")
    monkeypatch.setattr("sys.argv", ["check_weights.py", "--weights", f"sam3:{folder}"])
    assert tool.main() == 0
    assert "complete; maps differ" in capsys.readouterr().out
