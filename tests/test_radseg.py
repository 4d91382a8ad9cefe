"""C-RADIO with SigLIP 2's adaptor and text tower, and RADSeg, with random weights in the shapes of NVIDIA's files.

RADSeg is compared with a plain implementation of its description: no recording of the published code exists here.
"""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tower_helpers import randomise, tokenizer_files
from transformers import RadioConfig, RadioModel, SiglipConfig, SiglipModel

from itaclip import ItaclipError, Segmenter
from itaclip.core.clip import load_clip
from itaclip.core.clip.encoded import Needs
from itaclip.core.encoder import DenseEncoder
from itaclip.core.images import normalise
from itaclip.core.methods import ON_ANY_TOWER, get_method
from itaclip.core.methods import radseg as module
from itaclip.core.methods.radseg import aggregated
from itaclip.core.pipeline import Pipeline
from itaclip.core.settings import Settings
from itaclip.core.text import TextBank, TextEncoder, parse_class_names
from itaclip.research.benchmark.methods import joined, random_windows

PATCH, DEPTH, WIDTH, CHANNELS, HEADS, PREFIX = 16, 3, 64, 48, 2, 5
TEXT = "siglip2-giant-opt-patch16-384"


def backbone() -> RadioModel:
    torch.manual_seed(0)
    config = RadioConfig(hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, patch_size=PATCH,
                         max_img_size=10 * PATCH, num_cls_tokens=3, num_registers=2, summary_idxs=[1])  # fmt: skip
    model = RadioModel(config)
    randomise(model)
    for layer in model.encoder.layer:
        layer.layer_scale1.lambda1.data.fill_(1)
        layer.layer_scale2.lambda1.data.fill_(1)
    return model.eval().requires_grad_(False)


def adaptor_tensors() -> dict[str, Tensor]:
    """Named and shaped as NVIDIA's: fc1, residual blocks of norm, GELU, matrix, and the end."""
    torch.manual_seed(1)
    parts = {"fc1": nn.Linear(WIDTH, 40), "blocks.0.0": nn.LayerNorm(40), "blocks.0.2": nn.Linear(40, 40),
             "final.0": nn.LayerNorm(40), "final.2": nn.Linear(40, CHANNELS)}  # fmt: skip
    for part in parts.values():
        randomise(part)
    return {f"{name}.{key}": value.detach() for name, part in parts.items() for key, value in part.state_dict().items()}


def text_model() -> SiglipModel:
    text = dict(vocab_size=50, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
                max_position_embeddings=12, projection_size=CHANNELS, bos_token_id=1, eos_token_id=2)  # fmt: skip
    image = dict(hidden_size=32, intermediate_size=40, num_hidden_layers=1, num_attention_heads=2, image_size=32,
                 patch_size=16)  # fmt: skip
    torch.manual_seed(2)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=image))
    randomise(model)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def libraries() -> tuple[RadioModel, dict[str, Tensor], SiglipModel]:
    return backbone(), adaptor_tensors(), text_model()


@pytest.fixture(scope="module")
def root(
    libraries: tuple[RadioModel, dict[str, Tensor], SiglipModel], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The model's folder, and beside it that of the text tower."""
    radio, adaptor, text = libraries
    root = tmp_path_factory.mktemp("radio")
    radio.save_pretrained(root / "model")
    state = load_file(root / "model/model.safetensors")
    state |= {f"radio_model.adaptors.siglip2-g.head_mlp.{key}": value for key, value in adaptor.items()}
    state |= {"radio_model.adaptors.siglip2-g.feat_mlp.fc1.weight": torch.zeros(3, 3)}
    save_file(state, root / "model/model.safetensors")
    text.save_pretrained(root / TEXT)
    tokenizer_files(root / TEXT)
    return root


@pytest.fixture(scope="module")
def model(root: Path) -> Any:
    return load_clip(str(root / "model"))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def unit_pixels(rgb: np.ndarray) -> Tensor:
    return torch.from_numpy(rgb).permute(2, 0, 1)[None] / 255


def through(adaptor: dict[str, Tensor], x: Tensor) -> Tensor:
    """The adaptor, written out."""

    def step(x: Tensor, name: str) -> Tensor:
        normed = F.layer_norm(x, x.shape[-1:], adaptor[f"{name}.0.weight"], adaptor[f"{name}.0.bias"])
        return F.linear(F.gelu(normed), adaptor[f"{name}.2.weight"], adaptor[f"{name}.2.bias"])

    x = F.linear(x, adaptor["fc1.weight"], adaptor["fc1.bias"])
    return step(x + step(x, "blocks.0"), "final")


@pytest.mark.parametrize("size", [(160, 160), (64, 96), (112, 48)])
def test_tokens_are_the_librarys(size: tuple[int, int], libraries: Any, model: Any) -> None:
    radio, adaptor, _ = libraries
    encoder = DenseEncoder(model.visual, get_method("clip", blocks=DEPTH))
    rgb = picture(*size)
    found = encoder.encode(normalise(rgb)[None], Needs.of(outputs=[DEPTH]), "cut").output(DEPTH)
    expected = radio(unit_pixels(rgb))
    torch.testing.assert_close(found, expected.last_hidden_state, atol=1e-4, rtol=1e-5)
    assert (encoder.tower.prefix, encoder.tower.resampling, encoder.image_size) == (PREFIX, "cut", 336)
    pooled = through(adaptor, expected.last_hidden_state[:, 0])
    torch.testing.assert_close(encoder.tower.pooled(found), pooled, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(model.encode_image((unit_pixels(rgb) - mean_of(model)) / std_of(model)), pooled,
                               atol=1e-4, rtol=1e-5)  # fmt: skip


def mean_of(model: Any) -> Tensor:
    return torch.tensor(model.visual.image_mean).view(3, 1, 1)


def std_of(model: Any) -> Tensor:
    return torch.tensor(model.visual.image_std).view(3, 1, 1)


def test_texts_are_in_lower_case_and_without_punctuation(libraries: Any, model: Any) -> None:
    """SigLIP 2 was trained so; RADIO's users lost 12 points without it."""
    encoder = TextEncoder(model)
    raw = encoder.tokenizer._inner(["A Photo, of a cat.", "a photo of a cat"], max_length=12, padding="max_length")
    differing, clean = torch.tensor(raw.input_ids)
    assert not torch.equal(differing, clean)
    assert torch.equal(encoder.tokenizer(["A Photo, of a cat."])[0], clean)
    expected = libraries[2].get_text_features(clean[None]).pooler_output
    torch.testing.assert_close(encoder(["A Photo, of a cat."]), F.normalize(expected, dim=-1), atol=1e-5, rtol=0)


# --- RADSeg ------------------------------------------------------------------


def plain_window(radio: RadioModel, pixels: Tensor) -> Tensor:
    """Patch features of a window, N x D, from the text: twice through the last attention."""
    x = radio.embeddings(radio.input_conditioner(pixels))
    *first, last = radio.encoder.layer
    for block in first:
        x = block(x)
    attention, normed = last.attention, last.norm1(x)
    q, k, v = (part(normed).view(-1, HEADS, WIDTH // HEADS).transpose(0, 1)
               for part in (attention.q_proj, attention.k_proj, attention.v_proj))  # fmt: skip
    y = attention.o_proj(((q @ k.mT / (WIDTH // HEADS) ** 0.5).softmax(-1) @ v).transpose(0, 1).flatten(1))
    z = []
    for h, part in enumerate(y.view(-1, HEADS, WIDTH // HEADS).unbind(1)):
        scores = 10 * F.cosine_similarity(part[:, None], part[None], dim=-1)
        scores[scores < 0] = -torch.inf
        z.append(scores.softmax(-1) @ v[h])
    x = x[0] + attention.o_proj(torch.cat(z, dim=-1))
    return (x + last.mlp(last.norm2(x)))[PREFIX:]


def plain_average(features: Tensor) -> Tensor:
    cosines = F.cosine_similarity(features[:, None], features[None], dim=-1)
    scores = 10 * (cosines - cosines.mean())
    scores[scores < 0] = -torch.inf
    return scores.softmax(-1) @ features


def plain_image(libraries: Any, rgb: np.ndarray, side: int, stride: int) -> Tensor:
    """Features of an image whose sides are multiples of the stride, r x c x E."""
    radio, adaptor, _ = libraries
    rows, columns = (length // PATCH for length in rgb.shape[:2])
    total, count = torch.zeros(rows, columns, WIDTH), torch.zeros(rows, columns, 1)
    for top in range(0, rgb.shape[0] - side + 1, stride):
        for left in range(0, rgb.shape[1] - side + 1, stride):
            window = unit_pixels(rgb[top : top + side, left : left + side])
            place = slice(top // PATCH, (top + side) // PATCH), slice(left // PATCH, (left + side) // PATCH)
            total[place] += plain_window(radio, window).view(side // PATCH, side // PATCH, WIDTH)
            count[place] += 1
    found = plain_average((total / count).flatten(0, 1))
    return through(adaptor, found).view(rows, columns, CHANNELS)


def bank() -> TextBank:
    classes = parse_class_names(["cat", "dog", "wall"])
    features = torch.randn(3, CHANNELS, generator=torch.Generator().manual_seed(1))
    return TextBank(F.normalize(features, dim=-1), classes)


PLAIN = dict(method="radseg", slide_crop=64, slide_stride=32, img_engineering=False, closing=False)


def test_radseg_is_the_plain_implementation(libraries: Any, model: Any) -> None:
    rgb = picture(96, 128)
    found = Pipeline(model, Settings(**PLAIN)).patch_logits([normalise(rgb)], bank())[0]
    expected = F.normalize(plain_image(libraries, rgb, 64, 32), dim=-1) @ bank().features.T
    torch.testing.assert_close(found[0], expected, atol=1e-4, rtol=1e-4)


def test_blocks_of_rows_are_exact_and_one_colour_stays_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(70, 24, generator=torch.Generator().manual_seed(0)).cumsum(0)
    expected = plain_average(features)
    for cells in (2**22, 70 * 9, 1):
        monkeypatch.setattr(module, "_MOST_CELLS", cells)
        torch.testing.assert_close(aggregated(features, 10.0), expected, atol=1e-4, rtol=1e-4)
    for seed in range(8):  # rounding decides on which side of the mean a cosine of 1 falls
        alike = torch.randn(1, 24, generator=torch.Generator().manual_seed(seed)).expand(70, -1)
        torch.testing.assert_close(aggregated(alike, 10.0), alike, atol=1e-4, rtol=1e-4)


def test_batches_and_views(model: Any) -> None:
    images, sizes = [normalise(picture(80, 112)), normalise(picture(70, 64, 1))], [(40, 56), (35, 32)]
    settings = Settings(**PLAIN | dict(img_engineering=True, slide_stride=24))
    together = Pipeline(model, settings)(images, sizes, bank())
    for one, size, expected in zip(images, sizes, together, strict=True):
        alone = Pipeline(model, settings.changed(batch_crops=1))([one], [size], bank())[0]
        torch.testing.assert_close(alone.scores.values, expected.scores.values, atol=1e-4, rtol=1e-4)
        assert expected.scores.values.isfinite().all()
    flipped = Pipeline(model, Settings(**PLAIN))
    plain = flipped.patch_logits([images[0]], bank())[0]
    # one view alone differs from five
    assert (Pipeline(model, settings).patch_logits([images[0]], bank())[0] - plain).abs().max() > 1e-3


def test_every_method_reads_it_alike_in_batches_and_singly(model: Any) -> None:
    encoder = DenseEncoder(model.visual, get_method("clip", blocks=DEPTH))
    windows = random_windows(2, 64, CHANNELS, 4)
    for name in ON_ANY_TOWER:
        options = {"depth": 2} if name.startswith("gem") else {}
        method = get_method(name, blocks=DEPTH, **options)
        together = encoder.tokens(joined(windows).pixels, [(method, joined(windows))])[0]
        singly = torch.cat([encoder.tokens(w.pixels, [(method, w)])[0] for w in windows])
        assert together.isfinite().all(), name
        torch.testing.assert_close(together, singly, atol=1e-4, rtol=1e-4)


def test_faint_classes_are_dropped(model: Any) -> None:
    picture_of = [normalise(picture(64, 64))]
    kept, dropped = (Pipeline(model, Settings(**PLAIN, peak_thd=t))(picture_of, [(64, 64)], bank())[0]
                     for t in (0.0, 1.0))  # fmt: skip
    assert kept.scores.own.all()
    assert not dropped.scores.own.any()
    assert not dropped.labels.any()
    with pytest.raises(ItaclipError, match=r"peak_thd = 2\.0: expected in \[0, 1\]"):
        Settings(peak_thd=2.0)


# --- loading -----------------------------------------------------------------


def test_a_folder_segments(root: Path) -> None:
    segmenter = Segmenter(str(root / "model"), "fast", pamr_steps=0, text_cache=False, method="radseg", slide_crop=64,
                          slide_stride=32, short_side=64)  # fmt: skip
    segmenter.set_classes(["cat", "dog"], background=False)
    assert segmenter(picture(50, 70)).labels.shape == (50, 70)


def test_a_checkpoint_for_torch_hub(root: Path, model: Any, tmp_path: Path) -> None:
    """Half precision, teachers by number, and the arguments of the training beside the tensors."""
    state = {}
    for key, value in load_file(root / "model/model.safetensors").items():
        key = key.replace("radio_model.model.", "base_model.").replace("radio_model.input", "input")
        key = key.replace("radio_model.adaptors.siglip2-g.head_mlp.", "_heads.1.")
        state[key.replace("radio_model.adaptors.siglip2-g.feat_mlp.", "_feature_projections.1.")] = value
    (tmp_path / TEXT).symlink_to(root / TEXT)
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": HEADS}))
    path = tmp_path / "c-radio_half.pth.tar"
    teachers = [{"name": "clip"}, {"name": "siglip2-g"}]
    torch.save({"state_dict": state, "args": Namespace(teachers=teachers)}, path)
    found = load_clip(f"c-radiov3-b:{path}")
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), model.parameters(), strict=True))
    assert found.visual.summary == 1
    assert not any(fact.assumed for fact in found.facts)
    torch.save({"state_dict": state, "args": Path("elsewhere")}, path)
    with pytest.raises(ItaclipError, match="refused, because it holds more than tensors"):
        load_clip(f"c-radiov3-b:{path}")
    torch.save(state, path)
    with pytest.raises(ItaclipError, match="holds no state_dict"):
        load_clip(f"c-radiov3-b:{path}")


def test_what_does_not_fit_is_named(root: Path, tmp_path: Path, libraries: Any) -> None:
    state = load_file(root / "model/model.safetensors")
    (tmp_path / TEXT).symlink_to(root / TEXT)
    config, path = json.loads((root / "model/config.json").read_text()), tmp_path / "model.safetensors"

    def refused(tensors: dict[str, Tensor], message: str, **changes: Any) -> None:
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        save_file(tensors, path)
        with pytest.raises(ItaclipError, match=message):
            load_clip(str(tmp_path))

    adaptor = "radio_model.adaptors.siglip2-g.head_mlp."
    bare = {key: value for key, value in state.items() if not key.startswith(adaptor)}
    refused(bare, r"has no adaptor 'siglip2-g' \(no adaptors\), so its features do not meet any text")
    refused({k: v for k, v in state.items() if k != f"{adaptor}fc1.bias"}, r"1 tensor missing: fc1\.bias")
    refused(
        state | {f"{adaptor}final.0.bias": torch.zeros(7)}, r"wrong shape: final\.0\.bias \(7,\) instead of \(40,\)"
    )
    refused(state | {"radio_model.model.norm.weight": torch.zeros(64)}, "1 tensor unexpected")
    refused(
        {k: v for k, v in state.items() if "pos_embed" not in k}, r"missing: .*pos_embed\. Not the weights of a RADIO"
    )
    refused(state, "64 channels, which no known RADIO has", num_attention_heads=None)
    wider = {k: torch.zeros(50, 40) if k == f"{adaptor}final.2.weight" else v for k, v in state.items()}
    refused(wider | {f"{adaptor}final.2.bias": torch.zeros(50)}, "texts of 48 channels, where the adaptor gives 50")
