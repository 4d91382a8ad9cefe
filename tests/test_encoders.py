"""Second encoders: the same features as from timm and transformers, from every kind of file."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from gpu_helpers import Copies, needs_pretending
from safetensors.torch import save_file
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    ViTConfig,
    ViTModel,
)

from itaclip.core.clip.towers import MEAN, STD
from itaclip.core.second_encoders import NAMES, SecondEncoder, load_second_encoder, loading
from itaclip.core.second_encoders.encoder import IMAGENET_MEAN, IMAGENET_STD
from itaclip.errors import ItaclipError
from itaclip.research.benchmark.pretended import on_gpu, pretended_gpu

SMALL: dict[str, Any] = {
    "img_size": 64, "patch_size": 8, "embed_dim": 128, "depth": 3, "num_heads": 2, "num_classes": 0,
    "dynamic_img_size": True,
}  # fmt: skip


def shaken(model: nn.Module) -> nn.Module:
    """Random weights, large enough for every part to matter."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data.copy_(torch.randn_like(parameter) * 0.1 + (0.5 if parameter.ndim == 1 else 0))
    return model.eval()


def dino() -> nn.Module:
    return shaken(VisionTransformer(**SMALL))


def dinov2() -> nn.Module:
    return shaken(VisionTransformer(**SMALL, reg_tokens=4, no_embed_class=True, init_values=1.0))


def dinov3(qkv_bias: bool = False) -> nn.Module:
    return shaken(
        Eva(**SMALL, num_reg_tokens=4, qkv_bias=qkv_bias, init_values=1.0, rope_type="dinov3", rope_temperature=100,
            rope_rotate_half=True, use_rot_pos_emb=True, use_abs_pos_emb=False, use_fc_norm=False,
            norm_layer=partial(nn.LayerNorm, eps=1e-5))
    )  # fmt: skip


def eva02() -> nn.Module:
    """A model with separate key, query and value matrices and rotary positions."""
    small = {**SMALL, "qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True, "use_rot_pos_emb": True}
    return shaken(Eva(**small, ref_feat_shape=(8, 8), global_pool="token"))


KINDS: dict[str, Callable[[], nn.Module]] = {
    "dino": dino, "dinov2": dinov2, "dinov3": dinov3, "dinov3_biases": lambda: dinov3(True), "eva02": eva02,
}  # fmt: skip


def clip_pixels(*shape: int) -> tuple[Tensor, Tensor]:
    """The same images normalised for CLIP and for DINO."""
    rgb = torch.rand(*shape, generator=torch.Generator().manual_seed(1)) * 255
    mean, std, own_mean, own_std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD, IMAGENET_MEAN, IMAGENET_STD))
    return (rgb - mean) / std, (rgb / 255 - own_mean) / own_std


def oracle(model: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens from timm's forward pass, and q + k from hooks; B x N x C, patches only."""
    seen: dict[str, Tensor] = {}
    attention = model.blocks[-1].attn
    hook = attention.register_forward_pre_hook(lambda _, arguments: seen.update(x=arguments[0]))
    with torch.no_grad():
        tokens = model.forward_features(pixels)
        hook.remove()
        if attention.qkv is None:
            both = attention.q_proj(seen["x"]) + attention.k_proj(seen["x"])
        else:
            joint = seen["x"] @ attention.qkv.weight.T
            if attention.qkv.bias is not None:
                joint = joint + attention.qkv.bias
            if getattr(attention, "q_bias", None) is not None:
                joint = joint + torch.cat([attention.q_bias, torch.zeros_like(attention.q_bias), attention.v_bias])
            query, key, _ = joint.split(model.embed_dim, dim=-1)
            both = query + key
    return tokens[:, model.num_prefix_tokens :], both[:, model.num_prefix_tokens :]


def rows(features: Tensor | None) -> Tensor:
    assert features is not None
    assert features.dtype == torch.float32
    return features.flatten(2).transpose(1, 2)


@pytest.mark.parametrize("size", [(64, 64), (48, 104), (112, 80)])
@pytest.mark.parametrize("kind", KINDS)
def test_features_are_timms(kind: str, size: tuple[int, int]) -> None:
    model = KINDS[kind]()
    given, own = clip_pixels(2, 3, *size)
    tokens, query_key = oracle(model, own)
    features = SecondEncoder(model, kind)(given)
    assert features.tokens is not None
    assert features.tokens.shape == (2, 128, size[0] // 8, size[1] // 8)
    assert torch.allclose(rows(features.tokens), tokens, atol=1e-5)
    assert torch.allclose(rows(features.query_key), query_key, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_only_requested_features_are_computed(kind: str) -> None:
    encoder = SecondEncoder(KINDS[kind](), kind)
    pixels, _ = clip_pixels(1, 3, 64, 64)
    both = encoder(pixels)
    calls: list[str] = []
    encoder.model.blocks[-1].mlp.register_forward_hook(lambda *_: calls.append("last block"))
    only = encoder(pixels, wants=["query_key"])
    assert (only.tokens, calls) == (None, [])
    assert torch.equal(rows(only.query_key), rows(both.query_key))
    tokens = encoder(pixels, wants=["tokens"])
    assert tokens.query_key is None
    assert torch.equal(rows(tokens.tokens), rows(both.tokens))


@pytest.mark.parametrize("kind", KINDS)
def test_batches_equal_single_images(kind: str) -> None:
    encoder = SecondEncoder(KINDS[kind](), kind)
    pixels, _ = clip_pixels(3, 3, 64, 96)
    batch = encoder(pixels)
    for n in range(3):
        single = encoder(pixels[n : n + 1])
        assert torch.allclose(rows(batch.tokens)[n], rows(single.tokens)[0], atol=1e-5)
        assert torch.allclose(rows(batch.query_key)[n], rows(single.query_key)[0], atol=1e-5)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_close(kind: str, dtype: str) -> None:
    pixels, _ = clip_pixels(1, 3, 64, 96)
    full, half = (SecondEncoder(KINDS[kind](), kind, dtype=d)(pixels) for d in ("fp32", dtype))
    for a, b in ((full.tokens, half.tokens), (full.query_key, half.query_key)):
        assert torch.cosine_similarity(rows(a), rows(b), dim=-1).min() > 0.999


def test_rotary_periods_stay_exact_in_half_precision() -> None:
    exact = dinov3().rope.periods.clone()  # type: ignore[union-attr, operator]
    assert torch.equal(SecondEncoder(dinov3(), "x", dtype="bf16").model.rope.rope.periods, exact)


def test_fingerprint_follows_weights_and_dtype() -> None:
    one, same = SecondEncoder(dino(), "a"), SecondEncoder(dino(), "b")
    assert one.fingerprint == same.fingerprint
    other = dino()
    next(other.parameters()).data += 1e-3
    prints = {
        one.fingerprint,
        SecondEncoder(other, "a").fingerprint,
        SecondEncoder(dino(), "a", dtype="bf16").fingerprint,
    }
    assert len(prints) == 3


# --- files -------------------------------------------------------------------


def same_features(encoder: SecondEncoder, model: nn.Module, atol: float = 1e-5) -> bool:
    given, own = clip_pixels(1, 3, 64, 80)
    tokens, query_key = oracle(model, own)
    features = encoder(given)
    return all(
        torch.allclose(rows(a), b, atol=atol) for a, b in ((features.tokens, tokens), (features.query_key, query_key))
    )


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("kind", ["dino", "dinov2", "dinov3", "dinov3_biases"])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_timms_layout_from_a_file(kind: str, suffix: str, tmp_path: Path) -> None:
    model, path = KINDS[kind](), tmp_path / f"weights.{suffix}"
    save_file(state_of(model), path) if suffix == "safetensors" else torch.save(state_of(model), path)
    assert same_features(load_second_encoder(str(path)), model)


def test_the_layout_in_the_metadata_wins(tmp_path: Path) -> None:
    model = shaken(VisionTransformer(**{**SMALL, "num_heads": 4}))
    told = {"architecture": json.dumps({k: v for k, v in {**SMALL, "num_heads": 4}.items() if k != "num_classes"})}
    save_file(state_of(model), tmp_path / "four_heads.safetensors", metadata=told)
    assert same_features(load_second_encoder(str(tmp_path / "four_heads.safetensors")), model)
    save_file(state_of(model), tmp_path / "untold.safetensors")  # inferred as two heads of 64 channels
    assert not same_features(load_second_encoder(str(tmp_path / "untold.safetensors")), model)


@pytest.mark.parametrize("nested", ["teacher", "state_dict", None])
def test_the_original_dino_checkpoint(nested: str | None, tmp_path: Path) -> None:
    model = dino()
    state = {f"module.backbone.{key}" if nested else key: value for key, value in state_of(model).items()}
    state[("module." if nested else "") + "head.mlp.0.weight"] = torch.zeros(3)
    torch.save({nested: state, "epoch": 3} if nested else state, tmp_path / "dino.pth")
    assert same_features(load_second_encoder(str(tmp_path / "dino.pth")), model)


def test_the_original_dinov2_layout(tmp_path: Path) -> None:
    model = dinov2()
    state = state_of(model)
    class_position = torch.randn(1, 1, 128)
    state["register_tokens"] = state.pop("reg_token")
    state["pos_embed"] = torch.cat([class_position, state["pos_embed"]], dim=1)
    state["cls_token"] = state["cls_token"] - class_position
    state["mask_token"] = torch.zeros(1, 128)
    state = {key.replace("blocks.", "blocks.0."): value for key, value in state.items()}  # in chunks, as in training
    torch.save(state, tmp_path / "dinov2.pth")
    assert same_features(load_second_encoder(str(tmp_path / "dinov2.pth")), model)


def test_the_original_dinov3_layout(tmp_path: Path) -> None:
    model = dinov3(True)
    state = {}
    for key, value in state_of(model).items():
        if key.endswith("v_bias"):
            continue
        if key.endswith("q_bias"):
            other = model.state_dict()[key.replace("q_bias", "v_bias")]
            state[key.replace("q_bias", "qkv.bias")] = torch.cat([value, torch.full_like(value, 7.0), other])
            state[key.replace("q_bias", "qkv.bias_mask")] = torch.zeros(384)
            continue
        key = key.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
        state["storage_tokens" if key == "reg_token" else key] = value
    state["mask_token"] = torch.zeros(1, 128)
    state["rope_embed.periods"] = torch.zeros(16)
    torch.save(state, tmp_path / "dinov3.pth")
    assert same_features(load_second_encoder(str(tmp_path / "dinov3.pth")), model)


def test_a_named_architecture_with_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = timm.create_model("deit_tiny_patch16_224", num_classes=0, img_size=160, dynamic_img_size=True)
    torch.save(state_of(model), tmp_path / "w.pth")
    monkeypatch.setitem(NAMES, "tiny", "deit_tiny_patch16_224")
    for name, weights in ((f"tiny@{tmp_path / 'w.pth'}", None), ("deit_tiny_patch16_224", tmp_path / "w.pth")):
        encoder = load_second_encoder(name, weights=weights)
        assert encoder.patch_size == 16
        assert same_features(encoder, model.eval())


def test_a_named_model_is_found_in_the_weights_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the weights folder, under the published file name."""
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224.dino", pretrained=False, dynamic_img_size=True)
    torch.save(model.state_dict(), tmp_path / "dino_deitsmall16_pretrain.pth")
    monkeypatch.setenv("ITACLIP_WEIGHTS_DIR", str(tmp_path))
    assert same_features(load_second_encoder("dino-vits16"), model.eval())


FOLDERS = {
    "dinov2": (Dinov2Config, Dinov2Model, {"mlp_ratio": 2}),
    "registers": (Dinov2WithRegistersConfig, Dinov2WithRegistersModel, {"mlp_ratio": 2}),
    "dinov3": (DINOv3ViTConfig, DINOv3ViTModel, {"num_register_tokens": 4, "intermediate_size": 256}),
    "vit": (ViTConfig, ViTModel, {"intermediate_size": 256}),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_hugging_face_folders(kind: str, tmp_path: Path) -> None:
    config, model, more = FOLDERS[kind]
    theirs: Any = shaken(
        model(config(hidden_size=128, num_hidden_layers=2, num_attention_heads=4, image_size=64, patch_size=16, **more))
    )
    theirs.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    rgb = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    seen: dict[str, Tensor] = {}
    query, key = (
        next(m for n, m in reversed(list(theirs.named_modules())) if n.endswith(endings))
        for endings in (("q_proj", "attention.query"), ("k_proj", "attention.key"))
    )
    query.register_forward_hook(lambda *a: seen.update(query=a[2]))
    key.register_forward_hook(lambda *a: seen.update(key=a[2]))
    with torch.no_grad():
        expected = theirs(pixel_values=(rgb - 0.5) / 0.5).last_hidden_state
    pixels = (rgb * 255 - mean) / std
    features = load_second_encoder(str(tmp_path))(pixels)
    by_file = load_second_encoder(str(tmp_path / "model.safetensors"))(pixels)
    assert torch.equal(rows(by_file.tokens), rows(features.tokens))
    prefix = expected.shape[1] - 16
    assert torch.allclose(rows(features.tokens), expected[:, prefix:], atol=1e-5)
    assert torch.allclose(rows(features.query_key), (seen["query"] + seen["key"])[:, prefix:], atol=1e-5)


@pytest.mark.parametrize("width", [1152, 1280, 1408])
def test_heads_that_a_file_alone_cannot_tell(width: int, tmp_path: Path) -> None:
    state = state_of(dino()) | {"patch_embed.proj.weight": torch.zeros(width, 3, 16, 16)}
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(ItaclipError, match=rf"models {width} channels wide have heads of .* NAME@FILE"):
        load_second_encoder(str(tmp_path / "x.pth"))


def test_heads_that_are_assumed_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(state_of(dino()), tmp_path / "x.pth")
    load_second_encoder(str(tmp_path / "x.pth"))
    assert "x.pth does not state its number of heads. Taken: 2 of 64 channels" in caplog.text


# --- bad input ---------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 3, 64, 65), (1, 3, 60, 64), (1, 3, 0, 64), (3, 64, 64), (1, 4, 64, 64)])
def test_wrong_pixels(shape: tuple[int, ...]) -> None:
    with pytest.raises(ItaclipError, match=r"multiple of the patch size 8|expected batch x 3"):
        SecondEncoder(dino(), "dino")(torch.zeros(shape))


def test_wrong_settings() -> None:
    encoder = SecondEncoder(dino(), "dino")
    with pytest.raises(ItaclipError, match="'values'"):
        encoder(torch.zeros(1, 3, 64, 64), wants=["values"])
    with pytest.raises(ItaclipError, match="int8"):
        SecondEncoder(dino(), "dino", dtype="int8")
    with pytest.raises(ItaclipError, match="ResNet is not a plain vision transformer"):
        SecondEncoder(timm.create_model("resnet18", num_classes=0), "resnet")


def test_unknown_names() -> None:
    with pytest.raises(ItaclipError, match="Did you mean 'dino-vitb8'"):
        load_second_encoder("dino-vitb8x")
    with pytest.raises(ItaclipError, match="no such weight file"):
        load_second_encoder("./missing.pth")
    with pytest.raises(ItaclipError, match="no such weight file"):
        load_second_encoder("dino-vitb8@missing.pth")
    with pytest.raises(ItaclipError, match="has no pretrained weights"):
        load_second_encoder("vit_base_patch16_plus_240")
    with pytest.raises(ItaclipError, match="Invalid pretrained tag"):
        load_second_encoder("vit_tiny_patch16_224.nothing")


def test_every_short_name_is_one_of_timms_with_weights() -> None:
    for name in NAMES.values():
        assert timm.is_model(name)
        assert timm.get_pretrained_cfg(name).hf_hub_id


@pytest.mark.parametrize("name", ["dino-vitb8", "dinov3-vitb16"])
def test_without_a_network_the_error_says_what_to_do(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ITACLIP_WEIGHTS_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "try_to_load_from_cache", lambda *_: None)

    def unreachable(_: str) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(loading, "require_network", unreachable)
    with pytest.raises(ItaclipError) as caught:
        load_second_encoder(name)
    message = str(caught.value)
    assert f"{NAMES[name]}.safetensors" in message
    assert str(tmp_path / "mine") in message
    assert f"{name}@PATH" in message
    assert ("dino_vitbase8_pretrain.pth" if name == "dino-vitb8" else "https://huggingface.co/timm/vit_base") in message


def test_a_missing_bundled_encoder_is_reported() -> None:
    path = Path(loading.__file__).with_name("demo_dino.safetensors")
    if path.is_file():
        assert load_second_encoder("demo").patch_size > 0
    else:
        with pytest.raises(ItaclipError, match=r"demo_dino\.safetensors"):
            load_second_encoder("demo")


class _Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_a_malicious_pickle_is_rejected_and_not_run(tmp_path: Path) -> None:
    torch.save({"teacher": _Bomb(tmp_path / "executed")}, tmp_path / "evil.pth")
    with pytest.raises(ItaclipError, match=r"evil\.pth: refused"):
        load_second_encoder(str(tmp_path / "evil.pth"))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_files(suffix: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"broken.{suffix}"
    save_file(state_of(dino()), path) if suffix == "safetensors" else torch.save(state_of(dino()), path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ItaclipError, match=r"broken\."):
        load_second_encoder(str(path))


def test_foreign_weights(tmp_path: Path, tiny_state: dict[str, Tensor]) -> None:
    def broken(**changes: Tensor | None) -> str:
        state = {k: v for k, v in {**state_of(dino()), **changes}.items() if v is not None}
        torch.save(state, tmp_path / "x.pth")
        return str(tmp_path / "x.pth")

    torch.save(tiny_state, tmp_path / "clip.pt")
    with pytest.raises(ItaclipError, match="not a vision transformer"):
        load_second_encoder(str(tmp_path / "clip.pt"))
    with pytest.raises(ItaclipError, match=r"missing: blocks\.1\.attn\.proj\.bias"):
        load_second_encoder(broken(**{"blocks.1.attn.proj.bias": None}))
    with pytest.raises(ItaclipError, match="unexpected: extra"):
        load_second_encoder(broken(extra=torch.zeros(1)))
    with pytest.raises(ItaclipError, match=r"of a wrong shape: blocks\.2\.norm1\.weight \(5,\) instead of \(128,\)"):
        load_second_encoder(broken(**{"blocks.2.norm1.weight": torch.zeros(5)}))
    with pytest.raises(ItaclipError, match="pos_embed has 50 patches"):
        load_second_encoder(broken(pos_embed=torch.zeros(1, 51, 128)))
    with pytest.raises(ItaclipError, match=r"x\.pth: .* of a wrong shape"):
        load_second_encoder(f"dino-vits16@{broken()}")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ItaclipError, match="expected a state dict"):
        load_second_encoder(str(tmp_path / "list.pth"))
    for text, reason in (("{", "not JSON"), ("[1]", "expected an object"), ('{"depth": "x"}', "cannot build")):
        save_file(state_of(dino()), tmp_path / "told.safetensors", metadata={"architecture": text})
        with pytest.raises(ItaclipError, match=reason):
            load_second_encoder(str(tmp_path / "told.safetensors"))


def test_foreign_folders(tmp_path: Path) -> None:
    with pytest.raises(ItaclipError, match=r"config\.json is missing"):
        load_second_encoder(str(tmp_path))
    for config, reason in (
        ("nothing", "not valid JSON"), ('{"model_type": "clip"}', "'clip': expected one of"),
        ('{"model_type": "dinov2"}', r"contains no model\.safetensors"),
    ):  # fmt: skip
        (tmp_path / "config.json").write_text(config)
        with pytest.raises(ItaclipError, match=reason):
            load_second_encoder(str(tmp_path))
    save_file(state_of(dino()), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "dinov2", "use_swiglu_ffn": true}')
    with pytest.raises(ItaclipError, match="GELU"):
        load_second_encoder(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "dinov2"}')
    with pytest.raises(ItaclipError, match="num_attention_heads"):
        load_second_encoder(str(tmp_path))
    usual = {"model_type": "dinov2", "num_attention_heads": 2, "layer_norm_eps": 1e-6}
    for changes, reason in (
        ({"num_attention_heads": 5}, "num_attention_heads = 5 does not divide the width of 128"),
        ({"hidden_size": 64}, "states hidden_size 64, the tensors have 128"),
        ({"num_hidden_layers": 9}, r"states num_hidden_layers 9, the tensors have \d"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(usual | changes))
        with pytest.raises(ItaclipError, match=reason):
            load_second_encoder(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "dinov2"}')
    with pytest.raises(ItaclipError, match="num_attention_heads"):
        load_second_encoder(str(tmp_path))


# --- GPUs --------------------------------------------------------------------


@needs_pretending
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_waits_for_the_host(kind: str, dtype: str) -> None:
    encoder = SecondEncoder(KINDS[kind](), kind, dtype=dtype)
    with pretended_gpu(), Copies() as copies:
        pixels = torch.empty(2, 3, 64, 96, device="cuda")
        on_gpu(encoder)(pixels)
        copies.found.clear()  # rotary tables are computed once per grid
        features = encoder(pixels)
        assert features.tokens is not None
        assert features.tokens.device.type == "cuda"
        assert copies.found == []
