"""dino.txt and VIP on random weights in the shapes of the published files, against plain implementations."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.models.eva import Eva
from torch import Tensor, nn
from tower_helpers import randomise

from itaclip import ItaclipError, Segmenter
from itaclip.core.clip import load_clip
from itaclip.core.clip.encoded import Needs
from itaclip.core.encoder import DenseEncoder
from itaclip.core.images import normalise
from itaclip.core.methods import ON_ANY_TOWER, get_method
from itaclip.core.pipeline import Pipeline
from itaclip.core.settings import Settings
from itaclip.core.text import TextEncoder
from itaclip.research.benchmark.methods import joined, random_windows

WIDTH, HEADS, DEPTH, PATCH, PREFIX, WORDS = 128, 2, 3, 16, 5, 49408
TRUNK: dict[str, Any] = dict(
    img_size=64, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, num_classes=0, num_reg_tokens=4,
    qkv_bias=False, init_values=1.0, rope_type="dinov3", rope_temperature=100, rope_rotate_half=True,
    use_rot_pos_emb=True, use_abs_pos_emb=False, use_fc_norm=False, dynamic_img_size=True,
    norm_layer=partial(nn.LayerNorm, eps=1e-5),
)  # fmt: skip


def linear(name: str, given: int, made: int, bias: bool = True) -> dict[str, Tensor]:
    found = {f"{name}.weight": torch.randn(made, given) * given**-0.5}
    return found | ({f"{name}.bias": 0.1 * torch.randn(made)} if bias else {})


def norm(name: str, width: int) -> dict[str, Tensor]:
    return {f"{name}.weight": 1 + 0.1 * torch.randn(width), f"{name}.bias": 0.1 * torch.randn(width)}


def head_file() -> dict[str, Tensor]:
    """Vision head of two blocks and text tower of two, under the names of the file for torch.hub."""
    torch.manual_seed(1)
    state = {"logit_scale": torch.tensor(50.0).log()} | norm("visual_model.head.ln_final", WIDTH)
    for number in range(2):
        block = f"visual_model.head.blocks.{number}"
        state |= norm(f"{block}.norm1", WIDTH) | norm(f"{block}.norm2", WIDTH)
        state |= linear(f"{block}.attn.qkv", WIDTH, 3 * WIDTH, False) | linear(f"{block}.attn.proj", WIDTH, WIDTH)
        state |= {f"{block}.ls{i}.gamma": 0.5 + 0.1 * torch.randn(WIDTH) for i in (1, 2)}
        state |= linear(f"{block}.mlp.w1", WIDTH, 96) | linear(f"{block}.mlp.w2", WIDTH, 96)
        state |= linear(f"{block}.mlp.w3", 96, WIDTH)
        block = f"text_model.backbone.blocks.{number}"
        state |= norm(f"{block}.attention_norm", 64) | norm(f"{block}.ffn_norm", 64)
        state |= linear(f"{block}.attention.qkv", 64, 192, False) | linear(f"{block}.attention.proj", 64, 64)
        state |= linear(f"{block}.feed_forward.fc1", 64, 80) | linear(f"{block}.feed_forward.fc2", 80, 64)
    state |= {"text_model.backbone.token_embedding.weight": 0.1 * torch.randn(WORDS, 64),
              "text_model.backbone.positional_embedding": 0.1 * torch.randn(20, 64)}  # fmt: skip
    return state | norm("text_model.backbone.ln_final", 64) | linear("text_model.head.linear_projection", 64, 2 * WIDTH,
                                                                     False)  # fmt: skip


@pytest.fixture(scope="module")
def trunk() -> Eva:
    torch.manual_seed(0)
    model = Eva(**TRUNK)
    randomise(model)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return head_file()


@pytest.fixture(scope="module")
def folder(trunk: Eva, state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dinotxt")
    torch.save(trunk.state_dict(), folder / "dinov3_vitl16_pretrain.pth")
    torch.save(state, folder / "dinov3_vitl16_dinotxt_vision_head_and_text_encoder.pth")
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load_clip(f"dinotxt-l16:{folder}")


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def library_pixels(rgb: np.ndarray) -> Tensor:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return ((torch.from_numpy(rgb).permute(2, 0, 1) / 255 - mean) / std)[None]


def normed(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def mapped(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


@pytest.mark.parametrize("size", [(64, 64), (48, 96)])
def test_patches_are_the_backbones(size: tuple[int, int], trunk: Eva, model: Any) -> None:
    rgb = picture(*size)
    encoder = DenseEncoder(model.visual, get_method("clip", blocks=DEPTH))
    expected = trunk.forward_features(library_pixels(rgb))
    found = encoder.encode(normalise(rgb)[None], Needs.of(outputs=[DEPTH])).output(DEPTH)
    torch.testing.assert_close(encoder.tower.norm(found), expected, atol=1e-4, rtol=1e-4)
    patches = encoder(normalise(rgb)[None]).flatten(1, 2)
    torch.testing.assert_close(patches, expected[:, PREFIX:], atol=1e-4, rtol=1e-4)
    pooled = model.encode_image(library_pixels(rgb))  # the half that comes from patches
    torch.testing.assert_close(encoder.tower.pooled(found), pooled, atol=1e-4, rtol=1e-4)


def test_texts_are_the_half_that_patches_meet(state: dict[str, Tensor], model: Any) -> None:
    """Causal blocks, a norm and a projection, written out; its second half."""
    encoder = TextEncoder(model)
    prompts = ["a photo of a cat", "dog"]
    tokens = encoder.tokenizer(prompts)
    assert tokens.shape == (2, 20)
    text = "text_model.backbone"
    x = state[f"{text}.token_embedding.weight"][tokens] + state[f"{text}.positional_embedding"]
    for block in (f"{text}.blocks.0", f"{text}.blocks.1"):
        qkv = mapped(state, f"{block}.attention.qkv", normed(state, f"{block}.attention_norm", x))
        scores = qkv[..., :64] @ qkv[..., 64:128].mT / 8 + torch.full((20, 20), -torch.inf).triu(1)
        x = x + mapped(state, f"{block}.attention.proj", scores.softmax(-1) @ qkv[..., 128:])
        hidden = F.gelu(mapped(state, f"{block}.feed_forward.fc1", normed(state, f"{block}.ffn_norm", x)))
        x = x + mapped(state, f"{block}.feed_forward.fc2", hidden)
    ends = normed(state, f"{text}.ln_final", x)[[0, 1], tokens.argmax(1)]
    expected = mapped(state, "text_model.head.linear_projection", ends)[:, WIDTH:]
    torch.testing.assert_close(encoder(prompts), F.normalize(expected, dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.encode_text(tokens), expected, atol=1e-4, rtol=1e-4)
    assert model.logit_scale.exp().item() == pytest.approx(50, rel=1e-4)


def plain_vip(trunk: Eva, state: dict[str, Tensor], rgb: np.ndarray) -> Tensor:
    """From the text: the backbone's cosines in the place of the attention of both blocks of the head."""
    x = trunk.forward_features(library_pixels(rgb))[0, PREFIX:]
    cosines = F.cosine_similarity(x[:, None], x[None], dim=-1)
    scores = 0.5 * (cosines - 1.5 * cosines.mean())
    for i, row in enumerate(scores):
        row[(row <= 0) & (torch.arange(len(row)) != i)] = -torch.inf
    for block in ("visual_model.head.blocks.0", "visual_model.head.blocks.1"):
        values = mapped(state, f"{block}.attn.qkv", normed(state, f"{block}.norm1", x))[:, 2 * WIDTH :]
        x = x + state[f"{block}.ls1.gamma"] * mapped(state, f"{block}.attn.proj", scores.softmax(-1) @ values)
        inner = normed(state, f"{block}.norm2", x)
        gated = F.silu(mapped(state, f"{block}.mlp.w1", inner)) * mapped(state, f"{block}.mlp.w2", inner)
        x = x + state[f"{block}.ls2.gamma"] * mapped(state, f"{block}.mlp.w3", gated)
    return normed(state, "visual_model.head.ln_final", x)


def test_vip_is_the_plain_implementation(trunk: Eva, state: dict[str, Tensor], model: Any) -> None:
    rgb = picture(64, 96)
    found = DenseEncoder(model.visual, get_method("vip", blocks=DEPTH))(normalise(rgb)[None])
    torch.testing.assert_close(found[0].flatten(0, 1), plain_vip(trunk, state, rgb), atol=1e-4, rtol=1e-4)


def test_an_image_of_one_colour_stays_finite(model: Any) -> None:
    """The published code gives NaN where a patch resembles none."""
    encoder = DenseEncoder(model.visual, get_method("vip", blocks=DEPTH))
    assert encoder(torch.zeros(1, 3, 64, 64)).isfinite().all()


def test_every_method_reads_it_alike_in_batches_and_singly(model: Any) -> None:
    encoder = DenseEncoder(model.visual, get_method("clip", blocks=DEPTH))
    windows = random_windows(2, 64, WIDTH, 4)
    for name in (*ON_ANY_TOWER, "vip"):
        method = get_method(name, blocks=DEPTH, **({"depth": 2} if name.startswith("gem") else {}))
        together = encoder.tokens(joined(windows).pixels, [(method, joined(windows))])[0]
        singly = torch.cat([encoder.tokens(w.pixels, [(method, w)])[0] for w in windows])
        assert together.isfinite().all(), name
        torch.testing.assert_close(together, singly, atol=1e-4, rtol=1e-4)


def test_a_folder_segments(folder: Path) -> None:
    segmenter = Segmenter(f"dinotxt-l16:{folder}", "fast", pamr_steps=0, text_cache=False, method="vip", slide_crop=64,
                          slide_stride=32, short_side=64)  # fmt: skip
    segmenter.set_classes(["cat", "dog"], background=False)
    assert segmenter(picture(50, 70)).labels.shape == (50, 70)


def test_other_models_have_no_vision_head(tiny_clip: Any) -> None:
    with pytest.raises(ItaclipError, match=r"reads a vision head, which only dino\.txt has"):
        Pipeline(tiny_clip, Settings(method="vip"))


def test_what_does_not_fit_is_named(
    folder: Path, state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ITACLIP_WEIGHTS_DIR", str(tmp_path / "weights"))
    with pytest.raises(ItaclipError, match=r"dinotxt-l16: expected two files: .*Meta hands them out after an applic"):
        load_clip("dinotxt-l16")
    path = tmp_path / "dinov3_vitl16_dinotxt_vision_head_and_text_encoder.pth"
    (tmp_path / "trunk.pth").symlink_to(folder / "dinov3_vitl16_pretrain.pth")

    def refused(tensors: dict[str, Tensor], message: str) -> None:
        torch.save(tensors, path)
        with pytest.raises(ItaclipError, match=message):
            load_clip(f"dinotxt-l16:{tmp_path}")

    def without(name: str) -> dict[str, Tensor]:
        return {key: value for key, value in state.items() if key != name}

    refused(without("visual_model.head.ln_final.bias"), r"1 tensor missing: visual_model\.head\.ln_final\.bias")
    refused(without("visual_model.head.blocks.0.mlp.w1.weight"), r"missing: visual_model\.head\.blocks\.0\.mlp\.w1")
    refused(without("text_model.head.linear_projection.weight"), r"missing: text_model, renamed: text_projection")
    refused(state | {"visual_model.head.more": torch.zeros(1)}, r"1 tensor unexpected: visual_model\.head\.more")
    with pytest.raises(ItaclipError, match=r"quick_gelu = True: dinotxt-l16 has GELU"):
        load_clip(f"dinotxt-l16:{folder}", quick_gelu=True)
