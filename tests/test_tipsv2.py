"""TIPSv2 against Transformers' own module, with random weights: none of the published ones could be had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from tower_helpers import randomise, tokenizer_files
from transformers import Tipsv2Config, Tipsv2Model

from itaclip import ItaclipError, Segmenter
from itaclip.core.clip import download as finding
from itaclip.core.clip import load_clip
from itaclip.core.clip.encoded import Needs
from itaclip.core.clip.tokenizer_source import TokenizerSource
from itaclip.core.encoder import DenseEncoder
from itaclip.core.images import normalise
from itaclip.core.methods import ON_ANY_TOWER, get_method
from itaclip.core.text import TextEncoder
from itaclip.core.text.templates import TCL
from itaclip.research.benchmark.methods import joined, random_windows

SIDE, PATCH, DEPTH, WIDTH = 56, 14, 6, 64
IMAGE: dict[str, Any] = dict(hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=2, image_size=SIDE,
                             patch_size=PATCH)  # fmt: skip
TEXT: dict[str, Any] = dict(vocab_size=100, hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=2,
                            num_attention_heads=2, max_position_embeddings=16)  # fmt: skip


def theirs(image: dict[str, Any] = IMAGE, text: dict[str, Any] = TEXT) -> Tipsv2Model:
    torch.manual_seed(0)
    model = Tipsv2Model(Tipsv2Config(vision_config=image, text_config=text))
    randomise(model)
    model.temperature.data.fill_(0.02)
    return model.eval().requires_grad_(False)


def folder_of(model: Tipsv2Model, where: Path) -> Path:
    model.save_pretrained(where)
    tokenizer_files(where)
    return where


@pytest.fixture(scope="module")
def library() -> Tipsv2Model:
    return theirs()


@pytest.fixture(scope="module")
def folder(library: Tipsv2Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(library, tmp_path_factory.mktemp("tipsv2") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load_clip(str(folder))


def picture(height: int = SIDE, width: int = SIDE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def unit_pixels(rgb: np.ndarray) -> Tensor:
    """As the library's processor leaves them: in [0, 1], without mean and deviation."""
    return torch.from_numpy(rgb).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("size", [(SIDE, SIDE), (SIDE, 6 * PATCH), (7 * PATCH, 3 * PATCH)])
def test_tokens_are_the_librarys(size: tuple[int, int], library: Tipsv2Model, model: Any) -> None:
    """From an image on: no normalisation, two tokens before the patches, positions, blocks and last norm."""
    encoder = DenseEncoder(model.visual, get_method("clip", blocks=DEPTH))
    pixels = normalise(picture(*size))[None]
    found = encoder.encode(pixels, Needs.of(outputs=[DEPTH]), "bilinear").output(DEPTH)
    expected = library.vision_model(unit_pixels(picture(*size)))
    torch.testing.assert_close(encoder.tower.norm(found), expected.last_hidden_state, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoder.tower.pooled(found), expected.pooler_output, atol=1e-5, rtol=1e-5)
    assert (encoder.tower.prefix, encoder.tower.resampling) == (2, "bilinear")


def test_texts_are_the_librarys_though_cut_behind_their_end(library: Tipsv2Model, model: Any) -> None:
    prompts = ["a photo of a cat", "dog", "A small photo of the SOFA ."]
    encoder = TextEncoder(model)
    tokens = encoder.tokenizer(prompts)
    assert tokens.shape == (3, 16)
    expected = library.get_text_features(tokens, attention_mask=(tokens != 0).long()).pooler_output
    torch.testing.assert_close(encoder(prompts), F.normalize(expected, dim=-1), atol=1e-5, rtol=0)
    assert torch.equal(encoder(["a photo of A CAT"]), encoder(["a photo of a cat"]))


def test_values_are_read_as_published(library: Tipsv2Model, model: Any) -> None:
    """The last block without attention: written out from the text of the notebook, on the library's modules."""
    x = library.vision_model.embeddings(unit_pixels(picture()))
    *first, last = library.vision_model.encoder.layer
    for block in first:
        x = block(x)
    x = x + last.layer_scale1(last.attention.o_proj(last.attention.v_proj(last.norm1(x))))
    x = x + last.layer_scale2(last.mlp(last.norm2(x)))
    expected = library.vision_model.layernorm(x)[:, 2:].unflatten(1, (4, 4))
    found = DenseEncoder(model.visual, get_method("maskclip", blocks=DEPTH))(normalise(picture())[None])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_every_method_reads_it_alike_in_batches_and_singly(model: Any) -> None:
    encoder = DenseEncoder(model.visual, get_method("clip", blocks=DEPTH))
    windows = random_windows(2, SIDE, WIDTH, 4)
    for name in ON_ANY_TOWER:
        method = get_method(name, blocks=DEPTH)
        together = encoder.tokens(joined(windows).pixels, [(method, joined(windows))])[0]
        singly = torch.cat([encoder.tokens(w.pixels, [(method, w)])[0] for w in windows])
        assert together.isfinite().all()
        torch.testing.assert_close(together, singly, atol=1e-4, rtol=1e-4)


def test_bfloat16_stays_close(folder: Path, model: Any) -> None:
    pixels = normalise(picture())[None]
    exact = DenseEncoder(model.visual, get_method("maskclip", blocks=DEPTH))(pixels)
    rounded = DenseEncoder(load_clip(str(folder)).visual, get_method("maskclip", blocks=DEPTH)).lower("bf16")(pixels)
    assert F.cosine_similarity(exact, rounded, dim=-1).min() > 0.995
    assert not torch.equal(exact, rounded)


def test_gated_feed_forward_networks_of_the_largest_model(tmp_path: Path) -> None:
    library = theirs(IMAGE | dict(num_hidden_layers=2, use_swiglu_ffn=True))
    model = load_clip(str(folder_of(library, tmp_path / "g")))
    encoder = DenseEncoder(model.visual, get_method("clip", blocks=2))
    found = encoder.encode(normalise(picture())[None], Needs.of(outputs=[2])).output(2)
    expected = library.vision_model(unit_pixels(picture())).pooler_output
    torch.testing.assert_close(encoder.tower.pooled(found), expected, atol=1e-5, rtol=1e-5)


# --- as a user has it --------------------------------------------------------


def test_a_folder_segments_and_templates_are_a_setting(folder: Path) -> None:
    segmenter = Segmenter(str(folder), "fast", pamr_steps=0, text_cache=False, method="maskclip", templates="tcl")
    assert (segmenter.short_side, segmenter.settings.slide_crop) == (SIDE * 3 // 2, SIDE)
    segmenter.set_classes(["cat", "dog"], background=False)
    assert segmenter(picture(50, 70)).labels.shape == (50, 70)
    assert segmenter.vocabulary is not None
    encoded = segmenter._encoder([template.replace("{}", "cat") for template in TCL])
    torch.testing.assert_close(segmenter.vocabulary.bank.features[0], F.normalize(encoded.mean(0), dim=0))
    with pytest.raises(ItaclipError, match="templates = 'imagenet': cannot change after loading"):
        segmenter(picture(50, 70), templates="imagenet")
    with pytest.raises(ItaclipError, match="templates = 'voc': expected one of imagenet, tcl"):
        Segmenter(str(folder), templates="voc")
    with pytest.raises(ItaclipError, match="not a CLIP of OpenAI's layout"):
        segmenter.save_pretrained(folder / "saved")


def test_names_and_folders(folder: Path, tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("ITACLIP_WEIGHTS_DIR", str(tmp_path))
    with pytest.raises(ItaclipError, match=r"google/tipsv2-b14: not on this machine.*\n.*expected folder: tipsv2-b14"):
        load_clip("tipsv2-b14")
    (tmp_path / "tipsv2-b14").symlink_to(folder)
    expected = dict(model.named_parameters())
    for found in (load_clip("tipsv2-b14"), load_clip(f"tipsv2-l14:{folder}"), load_clip("tipsv2-l14", str(folder)),
                  load_clip(str(folder / "model.safetensors"))):  # fmt: skip
        assert all(torch.equal(value, expected[name]) for name, value in found.named_parameters())
    assert found.logit_scale.exp().item() == pytest.approx(50)
    with pytest.raises(ItaclipError, match="names a folder, and pretrained = 'x' another"):
        load_clip(f"tipsv2-l14:{folder}", "x")
    with pytest.raises(ItaclipError, match=r"none: no such folder; tipsv2-l14 is read from a folder"):
        load_clip(f"tipsv2-l14:{tmp_path / 'none'}")
    with pytest.raises(ItaclipError, match=r"not a folder of tipsv2-l14: expected config\.json with the model type"):
        load_clip(f"tipsv2-l14:{tmp_path}")
    with pytest.raises(ItaclipError, match=r"quick_gelu = True: .*config\.json states the activation"):
        load_clip(str(folder), quick_gelu=True)


def test_weights_are_read_under_either_names_and_bad_ones_are_named(
    folder: Path, tmp_path: Path, library: Tipsv2Model, model: Any
) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ItaclipError, match=r"holds none of model\.safetensors"):
        load_clip(str(tmp_path))
    path = tmp_path / "model.safetensors"
    own = {key: value.contiguous() for key, value in library.state_dict().items()}
    published = load_file(folder / "model.safetensors")
    assert "vision_encoder.blocks.0.attn.qkv.weight" in published
    assert "vision_model.encoder.layer.0.attention.q_proj.weight" in own
    save_file(own, path)
    found = load_clip(str(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), model.parameters(), strict=True))
    changed = dict(published)
    del changed["vision_encoder.norm.weight"], changed["temperature"]
    save_file(changed, path)
    with pytest.raises(ItaclipError, match=r"model\.safetensors: 1 tensor missing: vision_model\.layernorm\.weight"):
        load_clip(str(tmp_path))
    save_file(published | {"text_encoder.ln_final.bias": torch.zeros(3)}, path)
    with pytest.raises(ItaclipError, match=r"of a wrong shape: text_model.final_layer_norm.bias \(3,\) instead of"):
        load_clip(str(tmp_path))
    save_file(published | {"head.weight": torch.zeros(3)}, path)
    with pytest.raises(ItaclipError, match=r"1 tensor unexpected: head\.weight"):
        load_clip(str(tmp_path))
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"temperature_init_value": -1.0}))
    with pytest.raises(ItaclipError, match=r"config\.json: not the configuration of a tipsv2"):
        load_clip(str(tmp_path))


def test_its_tokenizer_is_sentencepieces_model(tmp_path: Path) -> None:
    sentences = ["a photo of a cat", "the small dog in the background", "wall and water and trees"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_prefix=str(tmp_path / "tokenizer"), vocab_size=60, pad_id=0, unk_id=1,
        bos_id=-1, eos_id=-1, model_type="bpe", num_threads=1, minloglevel=2, normalization_rule_name="identity",
    )  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Tipsv2Tokenizer"}))
    tokenizer = TokenizerSource(str(tmp_path), 20, options=(("clean", "lower"),)).load()
    reference = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    for text, row in zip(["a photo of a cat", "dog"], tokenizer(["A photo of a CAT", "dog"]), strict=True):
        expected = reference.encode(text)
        assert row.tolist() == expected + [0] * (20 - len(expected))


@pytest.mark.vit_b_16
def test_the_smallest_model_at_its_true_size(tmp_path: Path) -> None:
    library = theirs({}, {})  # B/14's sizes are the library's defaults
    model = load_clip(str(folder_of(library, tmp_path / "b14")))
    encoder = DenseEncoder(model.visual, get_method("clip"))
    rgb = picture(448, 448)
    found = encoder.encode(normalise(rgb)[None], Needs.of(outputs=[12])).output(12)
    expected = library.vision_model(unit_pixels(rgb)).last_hidden_state
    difference = F.normalize(encoder.tower.norm(found), dim=-1) - F.normalize(expected, dim=-1)
    assert difference.abs().max() < 1e-5
    tokens = torch.randint(1, 32000, (2, 64), generator=torch.Generator().manual_seed(0))
    tokens[0, 9:] = 0
    texts = library.get_text_features(tokens, attention_mask=(tokens != 0).long()).pooler_output
    torch.testing.assert_close(model.text(tokens[:1, :9]), texts[:1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.text(tokens), texts, atol=1e-5, rtol=1e-5)
