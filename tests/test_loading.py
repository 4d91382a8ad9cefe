"""Weights from every format, and what is wrong with them said plainly."""

from __future__ import annotations

import hashlib
import http.server
import json
import pickle
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

from itaclip.core.clip import download as finding
from itaclip.core.clip import load_clip
from itaclip.core.clip import open_clip_models as registry
from itaclip.core.clip.encoded import Needs
from itaclip.core.clip.names import OPENAI_NAMES, OPENAI_WEIGHTS
from itaclip.core.clip.open_clip_modules import as_open_clip
from itaclip.core.clip.openai import CLIP, QuickGELU
from itaclip.core.encoder import DenseEncoder
from itaclip.core.methods import LastBlock, attention, get_method
from itaclip.errors import ItaclipError

State = dict[str, torch.Tensor]


def activation(clip: CLIP) -> type:
    return type(clip.visual.transformer.resblocks[0].mlp.gelu)


def same_weights(a: CLIP, b: CLIP) -> bool:
    other = dict(b.named_parameters())
    return all(torch.equal(v, other[k]) for k, v in a.named_parameters() if k != "logit_scale")


def test_torchscript_state_dict_and_safetensors_agree(
    tiny_clip: CLIP, tiny_torchscript: Path, tiny_state: State, tmp_path: Path
) -> None:
    torch.save(tiny_state, tmp_path / "tiny.pt")
    assert same_weights(tiny_clip, load_clip(str(tmp_path / "tiny.pt")))
    save_file({k: v.contiguous() for k, v in tiny_state.items()}, tmp_path / "tiny.safetensors")
    assert same_weights(tiny_clip, load_clip(str(tiny_torchscript)))
    assert same_weights(tiny_clip, load_clip(str(tmp_path / "tiny.safetensors")))


def test_torchscript_reading_equals_torch_jit(tiny_torchscript: Path) -> None:
    theirs = torch.jit.load(str(tiny_torchscript)).state_dict()
    ours = dict(load_clip(str(tiny_torchscript)).named_parameters())
    for key, value in ours.items():
        assert torch.equal(value, theirs[key].float())


def test_our_encoder_with_plain_settings_is_open_clips_image_tower(tiny_clip: CLIP) -> None:
    """The class token after the ordinary blocks is what open_clip calls the image feature."""
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    encoder = DenseEncoder(tiny_clip.visual, get_method("clip"))
    blocks = encoder.depth
    encoded = encoder.encode(pixels, Needs.of(outputs=[blocks]))
    pooled = encoded.joint(encoded.norm(encoded.output(blocks)[:, 0]))
    assert torch.allclose(pooled, as_open_clip(tiny_clip).encode_image(pixels), atol=1e-4)


@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
def test_hugging_face_folder_gives_the_same_features(tmp_path: Path, hidden_act: str) -> None:
    part = {"num_hidden_layers": 2, "intermediate_size": 512, "hidden_act": hidden_act}
    config = CLIPConfig(
        text_config={**part, "hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 1,
                     "eos_token_id": 49407, "bos_token_id": 49406},
        vision_config={**part, "hidden_size": 128, "num_attention_heads": 2, "image_size": 64, "patch_size": 16},
        projection_dim=32,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = CLIPModel(config).eval()
    theirs.save_pretrained(tmp_path / "hf")
    ours = load_clip(str(tmp_path / "hf"))
    in_open_clip = as_open_clip(ours)
    assert (activation(ours) is QuickGELU) == (hidden_act == "quick_gelu")
    pixels = torch.randn(2, 3, 64, 64)
    tokens = torch.randint(1, 4000, (2, 77))
    tokens[:, 9] = 49407
    tokens[:, 10:] = 0
    with torch.no_grad():
        image = theirs.visual_projection(theirs.vision_model(pixel_values=pixels).pooler_output)
        hidden = theirs.text_model(input_ids=tokens).last_hidden_state[:, 9]
        text = theirs.text_projection(hidden)
    assert torch.allclose(in_open_clip.encode_image(pixels), image, atol=1e-4)
    assert torch.allclose(in_open_clip.encode_text(tokens), text, atol=1e-4)


def test_quick_gelu_follows_the_weights(tiny_torchscript: Path, tiny_state: State, tmp_path: Path) -> None:
    assert activation(load_clip(str(tiny_torchscript))) is QuickGELU  # OpenAI's archives always
    plain = {k: v.contiguous() for k, v in tiny_state.items()}
    save_file(plain, tmp_path / "gelu.safetensors", metadata={"quick_gelu": "false"})
    assert activation(load_clip(str(tmp_path / "gelu.safetensors"))) is torch.nn.GELU
    save_file(plain, tmp_path / "quick.safetensors", metadata={"quick_gelu": "true"})
    assert activation(load_clip(str(tmp_path / "quick.safetensors"))) is QuickGELU
    assert activation(load_clip(str(tmp_path / "quick.safetensors"), quick_gelu=False)) is torch.nn.GELU
    # and it is not only a label: features differ
    pixels = torch.randn(1, 3, 224, 224)
    a, b = (as_open_clip(load_clip(str(tmp_path / f"{n}.safetensors"))).encode_image(pixels) for n in ("gelu", "quick"))
    assert (a - b).abs().max() > 1e-2


@pytest.mark.parametrize(("tag", "quick"), [("openai", True), ("laion2b_s34b_b79k", False)])
def test_quick_gelu_follows_the_tag_of_a_named_model(
    tag: str, quick: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ViT-B-32` of OpenAI and of LAION share an architecture name, not an activation."""
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    vision = {"image_size": 64, "layers": 1, "width": 64, "patch_size": 32}
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}
    torch.manual_seed(0)
    save_file({k: v.contiguous() for k, v in open_clip.CLIP(**config).state_dict().items()}, tmp_path / "w.safetensors")
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: config)
    monkeypatch.setattr(registry, "fetch", lambda *_: tmp_path / "w.safetensors")
    assert (activation(load_clip("ViT-B-32", tag)) is QuickGELU) == quick


def test_loading_draws_no_random_numbers(tiny_weights: Path) -> None:
    """So that what a seed gives does not depend on how many models were loaded before."""
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load_clip(str(tiny_weights))
    assert torch.equal(torch.rand(3), expected)


def test_weights_lie_frozen_in_float32(tiny_torchscript: Path) -> None:
    clip = load_clip(str(tiny_torchscript))
    assert {p.dtype for p in clip.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in clip.parameters())
    assert not clip.training


# --- bad input ---------------------------------------------------------------


def test_without_a_network_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ITACLIP_WEIGHTS_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(finding, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(finding, "in_hub_cache", lambda _: None)
    with pytest.raises(ItaclipError) as caught:
        load_clip("ViT-B/16")
    message = str(caught.value)
    assert "ViT-B-16.pt" in message
    assert str(tmp_path / "mine") in message
    assert "https://openaipublic.azureedge.net/clip/models/5806e77c" in message
    assert "sha256:        5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f" in message


def test_a_file_under_the_expected_name_with_another_checksum_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ITACLIP_WEIGHTS_DIR", str(tmp_path))
    (tmp_path / "ViT-B-16.pt").write_bytes(b"half a download")
    with pytest.raises(ItaclipError, match=r"ViT-B-16\.pt: its sha256 is not 5806e77c"):
        load_clip("ViT-B/16")


def test_a_file_with_the_right_checksum_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_torchscript: Path, tiny_clip: CLIP
) -> None:
    """The real address with the checksum of a stand-in."""
    content = tiny_torchscript.read_bytes()
    (tmp_path / "ViT-B-16.pt").write_bytes(content)
    monkeypatch.setenv("ITACLIP_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setattr(finding, "_checksum", lambda _: hashlib.sha256(content).hexdigest())
    assert same_weights(tiny_clip, load_clip("ViT-B/16"))


def test_addresses_of_openai_are_open_clips() -> None:
    for name, known in OPENAI_WEIGHTS.items():
        registered = open_clip.pretrained.get_pretrained_cfg(name, "openai")
        assert known == {key: registered[key] for key in known}
    assert set(OPENAI_WEIGHTS) == set(OPENAI_NAMES.values())


@pytest.fixture
def weight_server(tmp_path: Path, tiny_torchscript: Path) -> Iterator[tuple[str, list[str]]]:
    """A real server on this machine with one weight file; also the paths asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            content = tiny_torchscript.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/openaipublic", asked
    server.shutdown()


def test_downloads_are_checked_cached_and_not_repeated(
    weight_server: tuple[str, list[str]], tiny_torchscript: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, asked = weight_server
    good = hashlib.sha256(tiny_torchscript.read_bytes()).hexdigest()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for proxy in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    fetch = finding.fetch
    path = fetch("tiny", "test", {"url": f"{address}/{good}/tiny.pt"})
    assert path.read_bytes() == tiny_torchscript.read_bytes()
    assert fetch("tiny", "test", {"url": f"{address}/{good}/tiny.pt"}) == path
    assert len(asked) == 1
    with pytest.raises(ItaclipError, match="checksum does not"):
        fetch("other", "test", {"url": f"{address}/{'0' * 64}/other.pt"})


def test_unknown_names_get_a_hint() -> None:
    with pytest.raises(ItaclipError, match="Did you mean 'ViT-B/16'"):
        load_clip("VIT-B/16")
    with pytest.raises(ItaclipError, match="openai"):
        load_clip("ViT-B/16", "opnai")


def test_missing_file() -> None:
    with pytest.raises(ItaclipError, match=r"/nowhere/x\.pt: no such weight file"):
        load_clip("/nowhere/x.pt")


@pytest.mark.parametrize("kind", ["pt", "jit", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_files(kind: str, share: float, tmp_path: Path, tiny_torchscript: Path, tiny_state: State) -> None:
    source = {"pt": tmp_path / "whole.pt", "jit": tiny_torchscript, "safetensors": tmp_path / "whole.safetensors"}[kind]
    if kind == "pt":
        torch.save(tiny_state, source)
    if kind == "safetensors":
        save_file({k: v.contiguous() for k, v in tiny_state.items()}, source)
    content = source.read_bytes()
    broken = tmp_path / f"broken.{kind}"
    broken.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ItaclipError, match=r"broken\."):
        load_clip(str(broken) if kind != "jit" else str(broken.rename(tmp_path / "broken.pt")))


class _Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    target = tmp_path / "executed"
    torch.save({"visual.proj": _Bomb(target)}, tmp_path / "evil.pt")
    with pytest.raises(ItaclipError, match=r"evil\.pt: refused"):
        load_clip(str(tmp_path / "evil.pt"))
    with zipfile.ZipFile(tmp_path / "evil_jit.pt", "w") as archive:  # dressed as TorchScript
        archive.writestr("x/data.pkl", pickle.dumps(_Bomb(target), protocol=2))
        archive.writestr("x/constants.pkl", b"")
    with pytest.raises(ItaclipError, match=r"evil_jit\.pt: refused"):
        load_clip(str(tmp_path / "evil_jit.pt"))
    assert not target.exists()


def test_wrong_geometry(tmp_path: Path, tiny_state: State) -> None:
    def broken(**changes: torch.Tensor | None) -> str:
        state = {k: v for k, v in {**tiny_state, **changes}.items() if v is not None}
        torch.save(state, tmp_path / "x.pt")
        return str(tmp_path / "x.pt")

    with pytest.raises(ItaclipError, match=r"wrong geometry.*\(100, 128\)"):
        load_clip(broken(**{"visual.positional_embedding": torch.zeros(100, 128)}))
    with pytest.raises(ItaclipError, match=r"1 tensor of a wrong shape: visual\.transformer.*instead of \(512, 128\)"):
        load_clip(broken(**{"visual.transformer.resblocks.3.mlp.c_fc.weight": torch.zeros(100, 128)}))
    with pytest.raises(ItaclipError, match=r"missing: visual\.ln_post\.weight"):
        load_clip(broken(**{"visual.ln_post.weight": None}))
    with pytest.raises(ItaclipError, match="unexpected: extra"):
        load_clip(broken(extra=torch.zeros(1)))
    with pytest.raises(ItaclipError, match="not the weights of a CLIP ViT"):
        load_clip(broken(**{"visual.proj": None}))
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ItaclipError, match="holds no state dict"):
        load_clip(str(tmp_path / "list.pt"))


def test_hugging_face_folder_problems(tmp_path: Path) -> None:
    with pytest.raises(ItaclipError, match=r"config\.json, which is missing"):
        load_clip(str(tmp_path))
    described = {"vision_config": {}, "text_config": {}, "model_type": "siglip"}
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(ItaclipError, match=r"'siglip' in transformers' layout.*open_clip_config\.json"):
        load_clip(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": {"hidden_act": "relu"}, "text_config": {}}))
    with pytest.raises(ItaclipError, match="hidden_act"):
        load_clip(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": {}, "text_config": {}}))
    with pytest.raises(ItaclipError, match=r"neither model\.safetensors"):
        load_clip(str(tmp_path))


def test_middle_layers_beyond_the_model_are_refused(tiny_clip: CLIP) -> None:
    with pytest.raises(ItaclipError, match=r"middle_layers \[7, 12\]: \[12\] are not among 1\.\.11"):
        DenseEncoder(
            tiny_clip.visual, LastBlock(attention=attention.self_self, feed_forward=False, middle_layers=(7, 12))
        )
    with pytest.raises(ItaclipError, match="not a multiple of the patch size 16"):
        DenseEncoder(tiny_clip.visual, get_method("itaclip"))(torch.zeros(1, 3, 224, 225))


def test_recorded_real_embeddings_have_the_documented_shape() -> None:
    folder = Path(__file__).parent.parent / "tools/real_text_embeddings"
    voc, stuff = (np.load(folder / n).astype(np.float32) for n in ("voc12_single.npy", "coco_single.npy"))
    assert (voc.shape, stuff.shape) == ((20, 512), (171, 512))
    assert np.allclose(np.linalg.norm(voc, axis=1), 1, atol=1e-3)
    # "bus" is class 5 of VOC without background and of COCO-Stuff: the same prompt, the same row
    assert float(voc[5] @ stuff[5]) > 0.9999
