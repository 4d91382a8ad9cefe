"""What tensors do not show: read from the file, from the configuration beside it or from the name, or warned of."""

from __future__ import annotations

import copy
import importlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

from itaclip import ItaclipError, Segmenter
from itaclip.core.clip import architectures, load_clip
from itaclip.core.clip.facts import Stated
from itaclip.core.clip.loading import _from_file as from_file
from itaclip.core.clip.open_clip_modules import as_open_clip
from itaclip.core.clip.openai import CLIP
from itaclip.core.clip.tokenizer import BytePairs
from itaclip.core.clip.weights import WeightFile
from itaclip.core.text import TextEncoder

SIDE, PATCH = 32, 16

# width and heads of the image tower, of the text tower, hidden factor, activation, epsilon
SHAPES = {
    "heads of 80": ((160, 2), (64, 1), 4, "gelu", 1e-5),
    "heads of 16": ((128, 8), (96, 3), 4, "quick_gelu", 1e-5),
    "heads of 88, wide inside": ((176, 2), (80, 5), 5, "gelu", 1e-3),
}


def in_transformers(folder: Path, shape: str, **options: Any) -> CLIPModel:
    """A random CLIP of Transformers, saved in a folder."""
    (width, heads), (text_width, text_heads), factor, activation, eps = SHAPES[shape]
    part = {"num_hidden_layers": 2, "hidden_act": activation, "layer_norm_eps": eps}
    config = CLIPConfig(
        vision_config={**part, "hidden_size": width, "num_attention_heads": heads, "image_size": SIDE,
                       "patch_size": PATCH, "intermediate_size": factor * width},
        text_config={**part, "hidden_size": text_width, "num_attention_heads": text_heads,
                     "intermediate_size": factor * text_width, "eos_token_id": 49407, "bos_token_id": 49406},
        projection_dim=48,
    )  # fmt: skip
    torch.manual_seed(len(shape))
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    model.save_pretrained(folder, **options)
    return model


def configured(folder: Path, change: Callable[[dict[str, Any]], None], name: str = "config.json") -> None:
    """Change a configuration on disk."""
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def assert_same_features(clip: CLIP, theirs: CLIPModel) -> None:
    ours, generator = as_open_clip(clip), torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=generator)
    tokens = torch.randint(1, 4000, (2, 77), generator=generator)
    tokens[:, 9], tokens[:, 10:] = 49407, 0
    with torch.no_grad():
        image = theirs.visual_projection(theirs.vision_model(pixel_values=pixels).pooler_output)
        text = theirs.text_projection(theirs.text_model(input_ids=tokens).last_hidden_state[:, 9])
        found = ours.encode_image(pixels, normalize=True), ours.encode_text(tokens, normalize=True)
    torch.testing.assert_close(found[0], torch.nn.functional.normalize(image, dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1], torch.nn.functional.normalize(text, dim=-1), atol=1e-5, rtol=0)


def facts_of(clip: Any) -> dict[str, str]:
    return {fact.name: f"{fact.value} | {'assumed' if fact.assumed else fact.source}" for fact in clip.facts}


# --- Transformers ------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("given", ["folder", "file", "index", "part"])
def test_a_model_of_transformers_is_itself_however_it_is_named(shape: str, given: str, tmp_path: Path) -> None:
    in_parts = given in ("index", "part")
    theirs = in_transformers(tmp_path, shape, **({"max_shard_size": "5MB"} if in_parts else {}))
    parts = sorted(path.name for path in tmp_path.glob("*-of-*"))
    assert bool(parts) == in_parts
    name = {"folder": "", "file": "model.safetensors", "index": "model.safetensors.index.json"}.get(given)
    clip = load_clip(str(tmp_path / (parts[0] if name is None else name)))
    assert_same_features(clip, theirs)
    assert clip.visual.transformer.resblocks[0].attn.num_heads == SHAPES[shape][0][1]
    assert facts_of(clip)["heads of the image tower"].endswith(str(tmp_path / "config.json"))


def test_a_pickle_of_transformers_is_read_with_its_configuration(tmp_path: Path) -> None:
    theirs = in_transformers(tmp_path, "heads of 80")
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    for given in (tmp_path, tmp_path / "pytorch_model.bin"):
        assert_same_features(load_clip(str(given)), theirs)


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("vision", "hidden_size", 320, r"width of the image tower 320, the tensors have 160"),
        ("vision", "num_hidden_layers", 3, r"blocks of the image tower 3, the tensors have 2"),
        ("vision", "patch_size", 8, r"patch size 8, the tensors have 16"),
        ("vision", "image_size", 64, r"patches per image 16, the tensors have 4"),
        ("vision", "intermediate_size", 512, r"hidden width of the image tower 512, the tensors have 640"),
        ("vision", "num_attention_heads", 3, r"3 heads do not divide the image tower's width of 160"),
        ("vision", "image_size", [32, 48], r"image_size = \[32, 48\]: only squares"),
        ("vision", "hidden_size", "160", r"vision_config\.hidden_size = '160': expected a positive whole number"),
        ("text", "num_attention_heads", 7, r"7 heads do not divide the text tower's width of 64"),
        ("text", "max_position_embeddings", 64, r"context length 64, the tensors have 77"),
        ("text", "vocab_size", 50000, r"a vocabulary of 50000 tokens is not CLIP's"),
        ("text", "num_hidden_layers", 12, r"blocks of the text tower 12, the tensors have 2"),
        ("text", "layer_norm_eps", "small", r"layer_norm_eps = 'small'"),
        ("text", "eos_token_id", 7, r"eos_token_id = 7; only texts that end with the highest token \(49407\)"),
    ],
)
@pytest.mark.parametrize("given", ["folder", "file"])
def test_a_configuration_that_contradicts_the_tensors(
    part: str, key: str, value: Any, message: str, given: str, small: Path, tmp_path: Path
) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((small / name).read_bytes())
    configured(tmp_path, lambda config: config[f"{part}_config"].update({key: value}))
    with pytest.raises(ItaclipError, match=message) as caught:
        load_clip(str(tmp_path if given == "folder" else tmp_path / "model.safetensors"))
    assert str(tmp_path / "config.json") in str(caught.value)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of Transformers that tests copy or only read."""
    folder = tmp_path_factory.mktemp("transformers")
    in_transformers(folder, "heads of 80")
    return folder


@pytest.mark.parametrize(
    ("name", "content", "mean"),
    [
        ("preprocessor_config.json", {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}, 0.5),
        ("processor_config.json", {"image_processor": {"image_mean": [0.4] * 3, "image_std": [0.2] * 3}}, 0.4),
        ("preprocessor_config.json", {"do_normalize": False}, 0.0),
    ],
)
def test_preprocessing_beside_the_weights(
    name: str, content: dict[str, Any], mean: float, small: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).symlink_to(small / file)  # as in the hub's cache
    (tmp_path / name).write_text(json.dumps(content))
    clip = load_clip(str(tmp_path / "model.safetensors"))
    assert tuple(clip.visual.image_mean) == (mean,) * 3
    assert facts_of(clip)["normalisation"].endswith(str(tmp_path / name))
    assert not caplog.records


def test_preprocessing_that_is_missing_or_wrong(small: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_clip(str(small))
    assert "does not state its normalisation" in caplog.text
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).symlink_to(small / file)
    for content, message in (
        ({"image_mean": [0.5], "image_std": [0.5] * 3}, r"image_mean = \[0\.5\]: expected one number per RGB channel"),
        ({"image_mean": [120, 110, 100], "image_std": [60] * 3}, r"image_mean = \[120, 110, 100\]"),
        ({"image_mean": [0.5] * 3, "image_std": [0, 0, 0]}, r"image_std = \[0, 0, 0\]"),
        ({"rescale_factor": 1.0}, "do_rescale or rescale_factor"),
    ):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
        with pytest.raises(ItaclipError, match=r"preprocessor_config\.json: " + message):
            load_clip(str(tmp_path))


def test_a_vocabulary_beside_the_weights(small: Path, tmp_path: Path) -> None:
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).symlink_to(small / file)
    usual = BytePairs.merged() | {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    (tmp_path / "vocab.json").write_text(json.dumps(usual))
    assert load_clip(str(tmp_path)).tokenizer_source.name is None
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": usual}}))
    assert load_clip(str(tmp_path)).tokenizer_source.name is None
    exchanged = usual | {"cat</w>": usual["dog</w>"], "dog</w>": usual["cat</w>"]}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": exchanged}}))
    assert load_clip(str(tmp_path)).tokenizer_source.name == str(tmp_path)


def test_parts_that_are_missing(tmp_path: Path) -> None:
    in_transformers(tmp_path, "heads of 16", max_shard_size="5MB")
    index, first = tmp_path / "model.safetensors.index.json", sorted(tmp_path.glob("*-of-*"))[0]
    content = first.read_bytes()
    first.unlink()
    with pytest.raises(ItaclipError, match=rf"index\.json: lists the part '{first.name}', which is no file"):
        load_clip(str(tmp_path))
    first.write_bytes(content)
    listed = index.read_text()
    index.write_text(listed.replace(first.name, f"../{tmp_path.name}/{first.name}"))
    with pytest.raises(ItaclipError, match="which is no file of its folder"):
        load_clip(str(tmp_path))
    index.write_text(json.dumps({"weight_map": json.loads(listed)["weight_map"] | {"more": first.name}}))
    with pytest.raises(ItaclipError, match="1 tensor listed but in none of its parts: more"):
        load_clip(str(tmp_path))
    index.unlink()
    with pytest.raises(ItaclipError, match=r"one of \d+ parts of a model; model\.safetensors\.index\.json.*is missing"):
        load_clip(str(first))


# --- open_clip ---------------------------------------------------------------

CONFIGS: dict[str, dict[str, Any]] = {
    "heads of 80": dict(width=160, head_width=80),
    "heads of 32": dict(width=128, head_width=32),
    "heads of 88, wide inside": dict(width=176, head_width=88, mlp_ratio=4.5),
}
TEXT = dict(width=64, heads=4, layers=1, context_length=20)


def in_open_clip(folder: Path, shape: str, quick_gelu: bool, file: str) -> Any:
    """A random CLIP of open_clip, saved with its configuration."""
    vision = dict(layers=2, patch_size=PATCH, image_size=SIDE) | CONFIGS[shape]
    config = dict(embed_dim=48, quick_gelu=quick_gelu, vision_cfg=vision, text_cfg=dict(TEXT))
    torch.manual_seed(len(shape))
    model = open_clip.CLIP(**copy.deepcopy(config)).eval().requires_grad_(False)
    described = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / file) if file.endswith("safetensors") else torch.save(state, folder / file)
    return model


@pytest.mark.parametrize("shape", CONFIGS)
@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin", "epoch_3.pt"])
def test_a_file_of_open_clip_is_read_with_the_configuration_beside_it(
    shape: str, quick_gelu: bool, file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = in_open_clip(tmp_path, shape, quick_gelu, file)
    clip = load_clip(str(tmp_path / file))
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    tokens = open_clip.SimpleTokenizer(context_length=20)(["a photo of a cat", "dog"])
    ours = as_open_clip(clip)
    torch.testing.assert_close(ours.encode_image(pixels), theirs.encode_image(pixels), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.encode_text(tokens), theirs.encode_text(tokens), atol=1e-5, rtol=1e-5)
    assert clip.quick_gelu == quick_gelu
    assert list(clip.visual.image_std) == [0.25] * 3
    assert all(fact.source == str(tmp_path / "open_clip_config.json") for fact in clip.facts)
    assert not caplog.records


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("vision_cfg", "width", 320, r"width of the image tower 320, the tensors have 160"),
        ("vision_cfg", "layers", 12, r"blocks of the image tower 12, the tensors have 2"),
        ("vision_cfg", "patch_size", 32, r"patch size 32, the tensors have 16"),
        ("vision_cfg", "image_size", 48, r"patches per image 9, the tensors have 4"),
        ("vision_cfg", "head_width", 64, r"head_width = 64 does not divide the width of 160"),
        ("vision_cfg", "image_size", [32, 64], r"image_size = \[32, 64\]: only squares"),
        ("vision_cfg", "width", None, r"vision_cfg\.width = None: expected a positive whole number"),
        ("text_cfg", "heads", 5, r"5 heads do not divide the text tower's width of 64"),
        ("text_cfg", "context_length", 77, r"context length 77, the tensors have 20"),
        ("text_cfg", "vocab_size", 1000, r"vocabulary 1000, the tensors have 49408"),
    ],
)
def test_a_configuration_of_open_clip_that_contradicts_the_tensors(
    part: str, key: str, value: Any, message: str, tmp_path: Path
) -> None:
    file = "open_clip_model.safetensors"
    in_open_clip(tmp_path, "heads of 80", False, file)
    configured(tmp_path, lambda c: c["model_cfg"][part].update({key: value}), "open_clip_config.json")
    for given in (tmp_path, tmp_path / file):
        with pytest.raises(ItaclipError, match=message) as caught:
            load_clip(str(given))
        assert str(tmp_path / "open_clip_config.json") in str(caught.value)


def test_an_archive_beside_somebody_elses_configuration_stays_openais(tmp_path: Path, tiny_torchscript: Path) -> None:
    in_open_clip(tmp_path, "heads of 80", False, "open_clip_model.safetensors")
    (tmp_path / "ViT.pt").write_bytes(tiny_torchscript.read_bytes())
    clip = load_clip(str(tmp_path / "ViT.pt"))
    assert clip.quick_gelu
    assert facts_of(clip)["activation"] == "QuickGELU | OpenAI's archive"


# --- files alone -------------------------------------------------------------


@pytest.fixture
def bare(tmp_path: Path, tiny_state: dict[str, torch.Tensor]) -> Path:
    path = tmp_path / "laion2b.pt"
    torch.save(tiny_state, path)
    return path


def test_a_file_that_states_nothing_is_read_with_a_warning(bare: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = load_clip(str(bare))
    assert clip.quick_gelu
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    for words in ("laion2b.pt does not state its activation", "Taken: QuickGELU", f"ViT-B-16:{bare}", "quick_gelu",
                  "normalisation", "heads of the image tower", "open_clip_config.json"):  # fmt: skip
        assert words in message
    assert facts_of(clip)["activation"].endswith("assumed")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".bin"])
@pytest.mark.parametrize("quick_gelu", [True, False])
def test_quick_gelu_settles_it(
    suffix: str, quick_gelu: bool, tmp_path: Path, tiny_state: dict[str, torch.Tensor], caplog: Any
) -> None:
    path = tmp_path / f"own{suffix}"
    plain = {key: value.contiguous() for key, value in tiny_state.items()}
    save_file(plain, path) if suffix == ".safetensors" else torch.save({"state_dict": plain}, path)
    segmenter = Segmenter(str(path), "fast", quick_gelu=quick_gelu, text_cache=False)
    assert ("GELU none" in segmenter.fingerprint) != quick_gelu
    assert "activation" not in caplog.text
    with pytest.raises(ItaclipError, match=r"quick_gelu = 'yes': expected True, False or None"):
        Segmenter(str(path), quick_gelu="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "quick_gelu", "stated"),
    [
        ("ViT-B-16", False, True),
        ("ViT-B-16-quickgelu", True, True),
        ("ViT-L-14", False, True),
        ("ViT-B/16", True, False),
    ],
)
def test_the_name_before_the_colon_decides(
    name: str, quick_gelu: bool, stated: bool, bare: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """The real names and flags, with towers of few channels in the place of the real ones."""
    theirs = open_clip.get_model_config(name.replace("/", "-"))
    shrunk = theirs | dict(
        embed_dim=64, vision_cfg=dict(width=128, layers=12, patch_size=16, image_size=224),
        text_cfg=dict(width=64, heads=1, layers=2, context_length=77, vocab_size=49408),
    )  # fmt: skip
    monkeypatch.setattr(open_clip, "get_model_config", lambda _: copy.deepcopy(shrunk))
    clip = load_clip(f"{name}:{bare}")
    assert clip.quick_gelu == quick_gelu
    assert (facts_of(clip)["activation"] == f"{'QuickGELU' if quick_gelu else 'GELU'} | the name {name}") == stated
    assert ("does not state its activation" in caplog.text) != stated
    assert ("normalisation" in caplog.text) == (name == "ViT-L-14")  # open_clip's weights of that name disagree
    assert load_clip(f"{name}:{bare}", quick_gelu=not quick_gelu).quick_gelu != quick_gelu


def test_a_name_that_contradicts_what_the_file_states(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config: dict[str, Any] = dict(
        embed_dim=48, vision_cfg=dict(width=160, layers=2, patch_size=16, image_size=32, head_width=80),
        text_cfg=dict(width=64, heads=1, layers=2),
    )  # fmt: skip
    monkeypatch.setattr(open_clip, "get_model_config", lambda _: copy.deepcopy(config))
    assert load_clip(f"ViT-B-16:{small}").visual.transformer.resblocks[0].attn.num_heads == 2
    config["quick_gelu"] = True
    with pytest.raises(ItaclipError, match=r"config\.json states GELU, where ViT-B-16 has QuickGELU"):
        load_clip(f"ViT-B-16:{small}")
    config["quick_gelu"] = False
    config["vision_cfg"]["head_width"] = 40
    with pytest.raises(ItaclipError, match=r"config\.json states heads of the image tower 2, where ViT-B-16 has 4"):
        load_clip(f"ViT-B-16:{small}")
    config["vision_cfg"] |= dict(width=320, head_width=64)
    with pytest.raises(ItaclipError, match=r"contradict ViT-B-16, which states .*tower 320, the tensors have 160"):
        load_clip(f"ViT-B-16:{small}")


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-L-14-336", "ViT-H-14", "ViT-g-14", "ViT-bigG-14", "ViT-M-32-alt"])
def test_known_shapes_have_their_own_heads(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The true shapes of published models, without values."""
    config = open_clip.get_model_config(name)
    with torch.device("meta"):
        theirs = open_clip.CLIP(**config)
    clip = from_file(WeightFile(dict(theirs.state_dict()), Stated(), Path(f"{name}.pt")), None)
    for ours, part in ((clip.visual, theirs.visual), (clip, theirs)):
        assert ours.transformer.resblocks[0].attn.num_heads == part.transformer.resblocks[0].attn.num_heads
    only_gelu = name in ("ViT-g-14", "ViT-M-32-alt")  # no other of their shapes has QuickGELU
    assert ("activation" in caplog.text) != only_gelu
    assert clip.quick_gelu != only_gelu
    assert "heads" not in caplog.text


def test_every_known_shape_has_one_number_of_heads_or_asks_for_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        state = dict(open_clip.CLIP(**open_clip.get_model_config("ViT-B-16")).state_dict())
    known = architectures._known()
    other = copy.copy(next(a for a in known if a.name == "ViT-B-16"))
    twin = architectures.Architecture("ViT-twin", False, other.sizes, {"image": 8, "text": 8})
    monkeypatch.setattr(architectures, "_known", lambda: (*known, twin))
    with pytest.raises(ItaclipError, match=r"12 in .*; 8 in ViT-twin\. Name the architecture: .*:x\.pt"):
        from_file(WeightFile(state, Stated(), Path("x.pt")), None)


def test_another_vocabulary_or_shape_of_images(bare: Path, tiny_state: dict[str, torch.Tensor]) -> None:
    for changes, message in (
        ({"token_embedding.weight": torch.zeros(1000, 64)}, "a vocabulary of 1000 tokens, where CLIP's has 49408"),
        ({"token_embedding.weight": torch.zeros(50000, 64)}, "a vocabulary of 50000 tokens"),
        ({"visual.positional_embedding": torch.zeros(1 + 14 * 20, 128)}, "fine-tuned on images of another shape"),
        ({"visual.conv1.weight": torch.zeros(128, 4, 16, 16)}, "square patches of three channels"),
        ({"visual.conv1.weight": torch.zeros(128, 3, 16, 8)}, "square patches of three channels"),
    ):
        torch.save(tiny_state | changes, bare)
        with pytest.raises(ItaclipError, match=message):
            load_clip(str(bare))


# --- what depends on it ------------------------------------------------------


def test_texts_kept_on_disk_belong_to_the_activation(bare: Path) -> None:
    found = {TextEncoder(load_clip(str(bare), quick_gelu=quick)).fingerprint for quick in (True, False)}
    assert len(found) == 2


@pytest.mark.parametrize("shape", SHAPES)
def test_a_saved_segmenter_keeps_heads_activation_and_normalisation(shape: str, tmp_path: Path) -> None:
    theirs = in_transformers(tmp_path / "model", shape)
    described = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (tmp_path / "model/preprocessor_config.json").write_text(json.dumps(described))
    Segmenter(str(tmp_path / "model"), "fast", text_cache=False).save_pretrained(tmp_path / "saved")
    clip = load_clip(str(tmp_path / "saved/model.safetensors"))
    assert_same_features(clip, theirs)
    assert not any(fact.assumed for fact in clip.facts)
    assert tuple(clip.visual.image_std) == (0.25,) * 3
    Segmenter.from_pretrained(tmp_path / "saved", text_cache=False)
    state = load_file(tmp_path / "saved/model.safetensors")
    save_file(state, tmp_path / "x.safetensors", metadata={"quick_gelu": "true", "image_heads": "many"})
    with pytest.raises(ItaclipError, match=r"x\.safetensors: its metadata do not describe a model"):
        load_clip(str(tmp_path / "x.safetensors"))


def test_check_weights_says_what_was_taken_from_where(
    bare: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    tool = importlib.import_module("check_weights")

    def check(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["check_weights.py", *arguments])
        return tool.main(), capsys.readouterr().out.replace("\n", " ")

    status, printed = check("--weights", str(bare))
    assert status == 1
    assert "activation: QuickGELU (ASSUMED as OpenAI's weights have it)" in printed
    assert "NOT CERTAIN: nothing states activation, heads of the image tower" in printed
    status, printed = check("--weights", str(bare), "--activation", "gelu")
    assert (status, "activation: GELU (from quick_gelu=False)" in printed) == (1, True)
    status, printed = check("--weights", str(small))
    assert (status, "NOT CERTAIN: nothing states normalisation" in printed) == (1, True)
    in_open_clip(tmp_path, "heads of 80", False, "open_clip_model.safetensors")
    status, printed = check("--weights", str(tmp_path / "open_clip_model.safetensors"))
    assert (status, printed.strip().endswith("ok")) == (0, True)
    assert "heads of the image tower: 2 of 80 channels (from" in printed
    status, printed = check("--weights", "demo")
    assert (status, "ASSUMED" in printed) == (0, False)
