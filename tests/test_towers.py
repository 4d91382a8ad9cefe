"""Every family of image and text towers against open_clip's own forward passes, and read by every method."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import sentencepiece
import torch
import torch.nn.functional as F
from open_clip.model import resize_pos_embed
from torch import Tensor, nn
from tower_helpers import (
    DEPTH,
    FAMILIES,
    PATCH,
    SIDE,
    STATISTICS,
    TIMM,
    folder_of,
    randomise,
    their_model,
    tokenizer_files,
)
from transformers import XLMRobertaConfig

from itaclip import ItaclipError, Segmenter
from itaclip.core.clip import download as finding
from itaclip.core.clip import load_clip
from itaclip.core.clip.encoded import Needs
from itaclip.core.clip.loading import load_openai_clip
from itaclip.core.clip.tokenizer_source import TokenizerSource
from itaclip.core.clip.towers import MEAN, STD, as_tower
from itaclip.core.clip.towers.tower import resample
from itaclip.core.encoder import DenseEncoder
from itaclip.core.engines.calibration import calibration_windows
from itaclip.core.engines.select import on_engine
from itaclip.core.images import normalise
from itaclip.core.methods import ON_ANY_TOWER, get_method
from itaclip.core.methods.corrclip import region_tokens
from itaclip.core.pipeline import Pipeline
from itaclip.core.settings import Settings
from itaclip.core.text import TextBank, TextEncoder, parse_class_names
from itaclip.research.benchmark.methods import joined, random_windows

PROMPTS = ["a photo of a cat", "dog", "a small photo of the sofa .", "a photo of a photo of a photo of a wall ."]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("families")
    for family in FAMILIES:
        folder_of(family, root / family)
    return root


@pytest.fixture(scope="session")
def loaded(folders: Path) -> Callable[[str], Any]:
    """A family's model as this project loads it; each is loaded once."""
    models: dict[str, Any] = {}
    return lambda family: models.setdefault(family, load_clip(str(folders / family)))


def image(height: int = SIDE, width: int = SIDE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def as_theirs(rgb: np.ndarray, family: str) -> Tensor:
    """An image as open_clip's preprocessing would normalise it."""
    mean, std = (STATISTICS[family][i] if family in STATISTICS else (torch.tensor(clip).view(3, 1, 1) / 255)
                 for i, clip in ((0, MEAN), (1, STD)))  # fmt: skip
    return (torch.from_numpy(rgb).permute(2, 0, 1) / 255 - mean) / std


def bank_of(lines: list[str], width: int = 64) -> TextBank:
    classes = parse_class_names(lines)
    features = torch.randn(len(classes.queries), width, generator=torch.Generator().manual_seed(1))
    return TextBank(F.normalize(features, dim=-1), classes)


def method_of(name: str, **options: Any) -> Any:
    return get_method(name, blocks=DEPTH, **options)


def lasting(model: Any, family: str, pixels: Tensor) -> Tensor:
    """The last block's tokens, as open_clip's own modules compute them."""
    kept: list[Tensor] = []
    visual = model.visual
    last = visual.trunk.blocks[-1] if family in TIMM else visual.transformer.resblocks[-1]
    hook = last.register_forward_hook(lambda _module, _inputs, found: kept.append(found))
    visual(pixels)
    hook.remove()
    return kept[0]


# --- the towers are open_clip's ----------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_pooled_image_features_are_open_clips(family: str, loaded: Callable[[str], Any]) -> None:
    """From an image on: this proves embedding, positions, blocks, norms, head and normalisation."""
    rgb = [image(seed=0), image(seed=1)]
    encoder = DenseEncoder(loaded(family).visual, method_of("clip"))
    encoded = encoder.encode(torch.stack([normalise(one) for one in rgb]), Needs.of(outputs=[DEPTH]))
    theirs = their_model(family).encode_image(torch.stack([as_theirs(one, family) for one in rgb]), normalize=True)
    found = F.normalize(encoder.tower.pooled(encoded.output(DEPTH)), dim=-1)
    torch.testing.assert_close(found, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_text_features_are_open_clips(family: str, folders: Path, loaded: Callable[[str], Any]) -> None:
    tokens = open_clip.get_tokenizer(f"local-dir:{folders / family}")(PROMPTS)
    theirs = their_model(family).encode_text(tokens, normalize=True)
    torch.testing.assert_close(TextEncoder(loaded(family))(PROMPTS), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(SIDE, SIDE), (SIDE, 5 * PATCH)])
def test_the_ordinary_attention_gives_the_towers_ordinary_tokens(
    family: str, size: tuple[int, int], loaded: Callable[[str], Any]
) -> None:
    encoder = DenseEncoder(loaded(family).visual, method_of("clip"))
    pixels = torch.stack([normalise(image(*size))])
    # "clip" reads block L from its parts, the other way runs it as a whole
    whole = encoder.encode(pixels, Needs.of(outputs=[DEPTH]))
    torch.testing.assert_close(encoder(pixels), whole.to_joint_space(whole.output(DEPTH)), atol=1e-5, rtol=1e-5)
    if size == (SIDE, SIDE):
        theirs = lasting(their_model(family), family, as_theirs(image(), family)[None])
        torch.testing.assert_close(whole.output(DEPTH), theirs, atol=1e-4, rtol=1e-5)


def with_self_self(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scale = q.shape[-1] ** -0.5
    return ((q @ q.mT * scale).softmax(-1) + (k @ k.mT * scale).softmax(-1)) @ v


@pytest.mark.parametrize("family", ["custom", *TIMM])
def test_self_self_attention_is_the_librarys_with_other_similarities(
    family: str, loaded: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SCLIP, against open_clip's own forward pass in which the last block's attention is swapped."""
    model, ordinary, calls = their_model(family), F.scaled_dot_product_attention, []

    def swapped(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        calls.append(1)
        return with_self_self(q, k, v) if len(calls) == DEPTH else ordinary(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", swapped)
    expected = lasting(model, family, as_theirs(image(), family)[None])
    monkeypatch.undo()
    assert len(calls) >= DEPTH
    encoder = DenseEncoder(loaded(family).visual, method_of("sclip"))
    pixels = normalise(image())[None]
    tower = encoder.tower
    plain = tower.joint(tower.norm(expected))[:, tower.prefix :].unflatten(1, (SIDE // PATCH,) * 2)
    torch.testing.assert_close(encoder(pixels), plain, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("family", TIMM)
@pytest.mark.parametrize("size", [(96, 48), (48, 64)])
def test_other_sizes_take_positions_as_timm_does(
    family: str, size: tuple[int, int], loaded: Callable[[str], Any]
) -> None:
    model, rgb = their_model(family), image(*size)
    model.visual.trunk.set_input_size(size)
    expected = lasting(model, family, as_theirs(rgb, family)[None])
    encoder = DenseEncoder(loaded(family).visual, method_of("clip"))
    assert Settings().resolved_method(DEPTH, encoder.tower.resampling).positions == "antialias"
    found = encoder.encode(normalise(rgb)[None], Needs.of(outputs=[DEPTH]), "antialias").output(DEPTH)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("side", [3, 7])
def test_open_clips_own_way_with_positions_is_antialias(side: int, loaded: Callable[[str], Any]) -> None:
    table = loaded("openai").visual.positional_embedding
    visual = nn.Module()
    visual.grid_size = (side, side)
    holder = nn.Module()
    holder.visual = visual
    state = {"visual.positional_embedding": table.clone()}
    resize_pos_embed(state, holder)
    torch.testing.assert_close(resample(table, SIDE // PATCH, (side, side), "antialias"),
                               state["visual.positional_embedding"], atol=1e-6, rtol=0)  # fmt: skip


# --- in the pipeline ---------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_stays_close(family: str, loaded: Callable[[str], Any]) -> None:
    pixels = normalise(image())[None]
    exact = DenseEncoder(loaded(family).visual, method_of("itaclip"))(pixels)
    rounded = DenseEncoder(copy.deepcopy(loaded(family)).visual, method_of("itaclip")).lower("bf16")(pixels)
    assert rounded.dtype == torch.float32
    cosines = F.cosine_similarity(exact, rounded, dim=-1)
    assert cosines.min() > 0.995
    assert not torch.equal(exact, rounded)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_reads_every_family_alike_in_batches_and_singly(family: str, loaded: Callable[[str], Any]) -> None:
    encoder = DenseEncoder(loaded(family).visual, method_of("clip"))
    windows = random_windows(3, SIDE, encoder.channels, 4)
    for name in ON_ANY_TOWER:
        method = method_of(name)
        together = encoder.tokens(joined(windows).pixels, [(method, joined(windows))])[0]
        singly = torch.cat([encoder.tokens(w.pixels, [(method, w)])[0] for w in windows])
        side = SIDE // 8 if method.reads_features else SIDE // PATCH
        assert together.shape == (3, side, side, 4 if method.returns_logits else encoder.channels)
        assert together.isfinite().all()
        torch.testing.assert_close(together, singly, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["openai", "siglip", "eva02", "pe_without_class"])
def test_whole_images_become_labels(family: str, loaded: Callable[[str], Any], second_weights: str) -> None:
    model = loaded(family)
    bank = bank_of(["wall, background", "cat", "dog"], as_tower(model.visual).channels)
    settings = Settings(slide_crop=SIDE, slide_stride=SIDE // 2, second_encoder=second_weights)
    picture = normalise(image(80, 112))
    regions = {"felzenszwalb": [np.arange(80 * 112, dtype=np.int32).reshape(80, 112) // 2000]}
    for name in ("clip", "itaclip", "scclip", "corrclip", "ovstitcher"):
        pipeline = Pipeline(model, settings.changed(method=name))
        found = pipeline([picture], [(40, 56)], bank, regions)[0]
        assert found.labels.shape == (40, 56)
        assert found.scores.values.isfinite().all()


# --- towers without a class token --------------------------------------------


def test_region_tokens_without_a_class_token(loaded: Callable[[str], Any]) -> None:
    """Each begins as its region's mean and sees that region alone: written out, region by region."""
    tower = as_tower(loaded("siglip").visual)
    encoder = DenseEncoder(tower.visual, method_of("clip"))
    encoded = encoder.encode(normalise(image())[None], Needs.of(outputs=range(DEPTH), projections=range(1, DEPTH + 1)))
    regions = torch.tensor([[1] * 5 + [3] * 11])  # 0 and 2 are empty
    projections = [encoded.projections(n) for n in range(1, DEPTH + 1)]
    found = region_tokens(encoded.blocks, encoded.output(0), projections, regions, 4)
    assert found.isfinite().all()
    for region in (1, 3):
        inside = regions[0] == region
        x = encoded.output(0)[:, inside].mean(1, keepdim=True)
        for n, module in enumerate(tower.visual.trunk.blocks):
            tokens = module.norm1(torch.cat([x, encoded.output(n)[:, inside]], dim=1))
            q, k, v = module.attn.qkv(tokens).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
            map_ = (q[:, :, :1] @ k[:, :, 1:].mT / q.shape[-1] ** 0.5).softmax(-1)
            x = x + module.attn.proj((map_ @ v[:, :, 1:]).transpose(1, 2).flatten(2))
            x = x + module.mlp(module.norm2(x))
        torch.testing.assert_close(found[:, region], x[:, 0], atol=1e-4, rtol=1e-4)


def test_scclip_adds_the_mean_of_patches_where_there_is_no_class_token(loaded: Callable[[str], Any]) -> None:
    encoder = DenseEncoder(loaded("siglip").visual, method_of("scclip"))
    encoded = encoder.encode(normalise(image())[None], Needs.of(outputs=[3]))
    torch.testing.assert_close(encoded.summary(encoded.output(3)), encoded.output(3).mean(1, keepdim=True))
    pixels = normalise(image())[None]
    with_it, without = (encoder.tokens(pixels, [(m, random_windows(1, SIDE, 64, 3)[0])])[0]
                        for m in (method_of("scclip"), method_of("scclip", class_weight=0.0)))  # fmt: skip
    assert (with_it - without).abs().max() > 1e-3


# --- pooling heads -----------------------------------------------------------


@pytest.mark.parametrize("family", ["coca", "siglip", "pe", "pe_without_class"])
def test_a_window_of_equal_patches_pools_to_what_each_of_them_is_read_as(
    family: str, loaded: Callable[[str], Any]
) -> None:
    """Why "values" is the default: it is what the head says of a patch that it sees alone."""
    tower = as_tower(loaded(family).visual)
    patch = torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(0))
    pooled = tower.pooled(patch.expand(1, 9, 64))
    torch.testing.assert_close(tower.joint(tower.norm(patch))[:, 0], pooled, atol=1e-5, rtol=1e-5)


def test_the_reading_of_patches_is_a_setting(loaded: Callable[[str], Any]) -> None:
    model, picture = loaded("siglip"), normalise(image())
    bank = bank_of(["cat", "dog"])
    settings = Settings(method="clip", slide_crop=SIDE, slide_stride=SIDE, img_engineering=False)
    pipeline = Pipeline(model, settings)
    changed = [settings, *(settings.changed(patch_projection=r) for r in ("values", "values_linear", "tokens"))]
    found = {v: r.scores.values for _, v, r in pipeline.variants([picture], [(32, 32)], [(s, bank) for s in changed])}
    assert torch.equal(found[0], found[1])
    assert len({tuple(found[v].flatten().tolist()) for v in (1, 2, 3)}) == 3
    tokens = Pipeline(model, changed[3]).patch_logits([picture], bank)[0]
    features = their_model("siglip").visual.trunk.forward_features(as_theirs(image(), "siglip")[None])
    plain = F.normalize(features, dim=-1) @ bank.features.T
    torch.testing.assert_close(tokens.flatten(1, 2), plain, atol=1e-5, rtol=0)


def test_a_reading_that_a_tower_does_not_have(loaded: Callable[[str], Any]) -> None:
    with pytest.raises(ItaclipError, match="patch_projection = 'tokens': this model has no pooling head"):
        Pipeline(loaded("eva02"), Settings(patch_projection="tokens"))
    with pytest.raises(ItaclipError, match="patch_projection = 'tokens': this model's patches can be read as values"):
        Pipeline(loaded("coca"), Settings(patch_projection="tokens"))
    with pytest.raises(ItaclipError, match="patch_projection = 'keys': expected"):
        Settings(patch_projection="keys")  # type: ignore[arg-type]


def test_scores_of_a_sigmoid_model_follow_its_own_temperature(loaded: Callable[[str], Any]) -> None:
    model = copy.deepcopy(loaded("siglip"))
    bank = bank_of(["cat", "dog"])
    settings = Settings(method="clip", slide_crop=SIDE, slide_stride=SIDE, img_engineering=False, logit_scale=4.0)
    images, sizes = [normalise(image())], [(SIDE, SIDE)]
    for learned in (50.0, 120.0):
        model.logit_scale.fill_(np.log(learned))
        found = Pipeline(model, settings)(images, sizes, bank)[0].scores.values
        model.logit_bias.add_(3.0)  # is common to all queries
        assert torch.equal(Pipeline(model, settings)(images, sizes, bank)[0].scores.values, found)
        softmax_trained = copy.deepcopy(model)
        softmax_trained.logit_bias = None
        stated = settings.changed(logit_scale=4 * learned / 100)
        expected = Pipeline(softmax_trained, stated)(images, sizes, bank)[0].scores.values
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        assert (found - Pipeline(softmax_trained, settings)(images, sizes, bank)[0].scores.values).abs().max() > 1e-3


# --- loading -----------------------------------------------------------------


def test_a_text_tower_of_transformers(tmp_path: Path) -> None:
    """Its layout and its tokenizer lie in the model's folder, as the hub has them."""
    layout = XLMRobertaConfig(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                              intermediate_size=64, max_position_embeddings=40, pad_token_id=0)  # fmt: skip
    layout.save_pretrained(tmp_path)
    tokenizer_files(tmp_path)
    text = dict(hf_model_name=str(tmp_path), hf_model_pretrained=False, hf_tokenizer_name="somebody/words",
                hf_pooler_type="mean_pooler", hf_proj_type="mlp", context_length=16)  # fmt: skip
    config = FAMILIES["openai"] | {"text_cfg": text}
    torch.manual_seed(0)
    theirs = open_clip.model.CustomTextCLIP(**copy.deepcopy(config))
    randomise(theirs)
    theirs.eval().requires_grad_(False)
    config["text_cfg"]["hf_model_name"] = "somebody/encoder"
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    torch.save(theirs.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(PROMPTS)
    found = TextEncoder(load_clip(str(tmp_path)))(PROMPTS)
    torch.testing.assert_close(found, theirs.encode_text(tokens, normalize=True), atol=1e-5, rtol=0)


def test_a_text_tower_of_transformers_that_is_nowhere(monkeypatch: pytest.MonkeyPatch, tiny_weights: Path) -> None:
    monkeypatch.setattr(finding, "HF_HUB_OFFLINE", True)
    with pytest.raises(ItaclipError, match=r"xlm-roberta-base: the text tower's configuration could not be loaded"):
        load_clip("xlm-roberta-base-ViT-B-32", str(tiny_weights))


def test_prompts_that_are_too_long_are_told(loaded: Callable[[str], Any], caplog: pytest.LogCaptureFixture) -> None:
    TextEncoder(loaded("siglip"))(["cat " * 15, "cat " * 16, "dog"])
    assert caplog.text.count("longer than CLIP's 16 tokens") == 1


def test_another_tokenizer_is_another_encoder(folders: Path, tmp_path: Path) -> None:
    """Features that are kept on disk belong to weights and vocabulary."""
    folder = folder_of("siglip", tmp_path / "model")
    first = TextEncoder(load_clip(str(folder))).fingerprint
    assert first == TextEncoder(load_clip(str(folders / "siglip"))).fingerprint
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"cat": 6, "dog": 7', '"cat": 7, "dog": 6').replace(
        '"cat": 6,\n      "dog": 7', '"cat": 7,\n      "dog": 6'))  # fmt: skip
    assert TextEncoder(load_clip(str(folder))).fingerprint != first


def test_a_folder_of_open_clip_segments(folders: Path) -> None:
    segmenter = Segmenter(str(folders / "siglip"), pamr_steps=0, text_cache=False)
    assert (segmenter.short_side, segmenter.settings.slide_crop) == (SIDE * 3 // 2, SIDE)
    segmenter.set_classes(["cat", "dog"])
    assert segmenter(image(50, 70)).labels.shape == (50, 70)


@pytest.mark.parametrize("layout", ["file", "folder"])
def test_siglip_2_by_name_with_no_further_setting(
    layout: str, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real name and tag, with an image tower of few channels in the place of the real one."""
    config = FAMILIES["siglip"] | {
        "text_cfg": FAMILIES["siglip"]["text_cfg"] | {"hf_tokenizer_name": "timm/ViT-B-16-SigLIP2"}
    }
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: copy.deepcopy(config))
    monkeypatch.setenv("ITACLIP_WEIGHTS_DIR", str(tmp_path))
    (tmp_path / "ViT-B-16-SigLIP2").symlink_to(folders / "siglip")
    if layout == "file":
        weights = tmp_path / "ViT-B-16-SigLIP2-webli.safetensors"
        weights.write_bytes((folders / "siglip/open_clip_model.safetensors").read_bytes())
    segmenter = Segmenter("ViT-B-16-SigLIP2", pamr_steps=0, text_cache=False)
    segmenter.set_classes(["cat", "dog"])
    again = Segmenter(str(folders / "siglip"), pamr_steps=0, text_cache=False)
    again.set_classes(["cat", "dog"])
    assert np.array_equal(segmenter(image(50, 70)).scores.values, again(image(50, 70)).scores.values)


def test_a_named_architecture_with_weights_of_ones_own(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: copy.deepcopy(FAMILIES["pe"]))
    path = folders / "pe/open_clip_model.safetensors"
    for model in (load_clip("PE-Core-B-16", str(path)), load_clip(f"PE-Core-B-16:{path}")):
        assert model.visual.image_mean == (0.5, 0.5, 0.5)  # as the published weights have it
        assert torch.equal(model.visual.trunk.pos_embed, load_clip(str(folders / "pe")).visual.trunk.pos_embed)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("RN50", "RN50: a convolutional image tower"),
        ("convnext_base", "convnext_base: timm's convnext_base is not a plain vision transformer"),
        ("ViTamin-S", "timm's vitamin_small_224 is not a plain vision transformer"),
        ("swin_base_patch4_window7_224", "timm's swin_base_patch4_window7_224 is not a plain vision transformer"),
        ("MobileCLIP-B", "timm's vit_base_mci_224 is not a plain vision transformer"),
    ],
)
def test_convolutional_towers_are_refused_in_words(name: str, message: str, tiny_weights: Path) -> None:
    with pytest.raises(ItaclipError, match=message):
        load_clip(name, str(tiny_weights))


def test_weights_of_another_family_than_the_name_says(
    folders: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ItaclipError, match="weights of another family: open_clip's own image tower, where PE-Core-S"):
        load_clip("PE-Core-S-16-384", str(tiny_weights))
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: copy.deepcopy(FAMILIES["siglip"]))
    path = str(folders / "eva02/open_clip_model.safetensors")
    with pytest.raises(ItaclipError, match="family: timm's image tower with a class token, where ViT-B-16-SigLIP2"):
        load_clip("ViT-B-16-SigLIP2", path)
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes(Path(path).read_bytes())
    with pytest.raises(ItaclipError, match=r"not the weights of a CLIP ViT of OpenAI's layout.*ViT-B-16-SigLIP2:"):
        load_clip(str(alone))


@pytest.mark.parametrize("family", ["clipa", "siglip", "eva02", "coca"])
def test_a_file_of_any_family_is_read_with_the_configuration_beside_it(family: str, folders: Path) -> None:
    clip = load_clip(str(folders / family / "open_clip_model.safetensors"))
    whole = load_clip(str(folders / family))
    assert as_tower(clip.visual).conversion == as_tower(whole.visual).conversion
    assert clip.tokenizer_source == whole.tokenizer_source
    assert clip.facts == whole.facts
    assert all(torch.equal(a, b) for a, b in zip(clip.parameters(), whole.parameters(), strict=True))


def test_what_takes_a_model_apart_needs_openais_layout(folders: Path) -> None:
    assert load_openai_clip(str(folders / "openai")).visual.transformer.resblocks
    for family in ("layer_scale", "clipa", "custom", "coca", "siglip", "eva02"):
        with pytest.raises(ItaclipError, match=f"{family}: not a CLIP of OpenAI's layout"):
            load_openai_clip(str(folders / family))


def test_tags(tiny_weights: Path) -> None:
    with pytest.raises(ItaclipError, match=r"EVA02-B-16 has no pretrained tag 'openai'.*knows: merged2b_s8b_b131k"):
        load_clip("EVA02-B-16", "openai")
    with pytest.raises(ItaclipError, match="Did you mean 'webli'"):
        load_clip("ViT-B-16-SigLIP2:webly")
    with pytest.raises(ItaclipError, match=r"ViT-H-14-quickgelu: .*one of .*dfn5b.* such as ViT-H-14-quickgelu:"):
        load_clip("ViT-H-14-quickgelu")
    with pytest.raises(ItaclipError, match="names a tag, and pretrained = 'webli' another"):
        load_clip("ViT-B-16-SigLIP2:webli", "webli")


def test_a_missing_tokenizer_without_a_network(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("ITACLIP_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: copy.deepcopy(FAMILIES["siglip"]))
    clip = load_clip("ViT-B-16-SigLIP2", str(folders / "siglip/open_clip_model.safetensors"))
    with pytest.raises(ItaclipError) as caught:
        TextEncoder(clip)
    message = str(caught.value)
    assert "somebody/words: the tokenizer could not be loaded" in message
    assert "expected files: tokenizer_config.json" in message
    assert str(tmp_path / "words") in message


def test_damaged_folders(folders: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text("{}")
    with pytest.raises(ItaclipError, match=r"open_clip_config\.json: not the configuration of an open_clip model"):
        load_clip(str(folder))
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": FAMILIES["eva02"]}))
    with pytest.raises(ItaclipError, match=r"model: holds none of open_clip_model\.safetensors"):
        load_clip(str(folder))


def test_a_tokenizer_that_is_sentencepieces_model_alone(tmp_path: Path) -> None:
    sentences = ["a photo of a cat", "the small dog in the background", "wall and water and trees"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_prefix=str(tmp_path / "spiece"), vocab_size=30, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, num_threads=1, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    described = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "pad_token": "<pad>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(described | {"unk_token": "<unk>"}))
    tokenizer = TokenizerSource(str(tmp_path), 20, options=(("clean", "canonicalize"),)).load()
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    for text, row in zip(["a photo of a cat", "dog"], tokenizer(["A photo of a cat!", "Dog."]), strict=True):
        expected = [*theirs.encode(text), 1]
        assert row.tolist() == expected + [0] * (20 - len(expected))
        assert tokenizer.length(text) == len(expected)


def test_a_folders_tokenizer_with_code_of_its_own_is_not_run(folders: Path, tmp_path: Path) -> None:
    folder = folder_of("siglip", tmp_path / "model")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    path = folder / "tokenizer_config.json"
    described = json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["evil.Tok", None]},
                                                "tokenizer_class": "Tok"}  # fmt: skip
    path.write_text(json.dumps(described))
    with pytest.raises(ItaclipError, match=r"could not be loaded.*custom code"):
        TextEncoder(load_clip(str(folder)))
    assert not (tmp_path / "executed").exists()


# --- at their true sizes -----------------------------------------------------


@pytest.mark.vit_b_16
@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP2", "EVA02-B-16", "PE-Core-B-16", "ViT-H-14-CLIPA", "coca_ViT-B-32"])
def test_true_image_towers_are_open_clips(name: str, tmp_path: Path) -> None:
    """Texts are kept small: their size changes nothing of what is compared."""
    config = open_clip.get_model_config(name)
    config["text_cfg"] |= {"layers": 1, "vocab_size": 100, "width": 64, "heads": 1}
    coca = config.pop("multimodal_cfg", None)
    own = config.pop("custom_text", False) or config["text_cfg"].get("no_causal_mask")
    torch.manual_seed(0)
    config["vision_cfg"]["output_tokens"] = config["text_cfg"]["output_tokens"] = False
    theirs = (open_clip.model.CustomTextCLIP if own else open_clip.CLIP)(**copy.deepcopy(config))
    randomise(theirs)
    theirs.eval().requires_grad_(False)
    described = config | {"custom_text": own} | ({"multimodal_cfg": coca} if coca else {})
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": described}))
    torch.save(theirs.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    ours = load_clip(str(tmp_path))
    blocks = as_tower(ours.visual).depth
    encoder = DenseEncoder(ours.visual, get_method("itaclip", blocks=blocks))
    pixels = torch.randn(1, 3, encoder.image_size, encoder.image_size)
    found = encoder.tower.pooled(encoder.encode(pixels, Needs.of(outputs=[blocks])).output(blocks))
    expected = theirs.encode_image(pixels)
    torch.testing.assert_close(F.normalize(found, dim=-1), F.normalize(expected, dim=-1), atol=1e-5, rtol=0)
    assert encoder(pixels).isfinite().all()


@pytest.mark.parametrize("dtype", ["fp32", pytest.param("int8", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name == "eva02" else pytest.mark.vit_b_16) for name in FAMILIES]
)
def test_openvino_runs_every_family(family: str, dtype: str, loaded: Callable[[str], Any]) -> None:
    method = method_of("itaclip")
    plain = DenseEncoder(loaded(family).visual, method)
    other = DenseEncoder(loaded(family).visual, method)
    on_engine(other, Settings(engine="openvino", dtype=dtype))
    for side in (SIDE, SIDE + PATCH):
        pixels = calibration_windows("demo", (SIDE, side), Settings())[:3]
        found, expected = other(pixels), plain(pixels)
        if dtype == "fp32":
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        else:
            assert F.cosine_similarity(found, expected, dim=-1).mean() > 0.98
