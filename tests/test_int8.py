"""The image tower in 8 bits: exact integer arithmetic, labels that stay, and where it is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from open_clip.model import CLIP
from torch import Tensor

from itaclip import ItaclipError, Segmenter
from itaclip.clip.int8 import Int8Linear
from itaclip.core.encoder import DenseEncoder
from itaclip.core.methods import METHODS
from itaclip.core.pipeline import Pipeline
from itaclip.core.settings import Settings
from itaclip.devices import choose_device
from itaclip.text import TextBank, parse_class_names

multiplies = pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="needs a processor with VNNI instructions")

CLASSES = parse_class_names(["background, wall", "cat, kitten", "cup"])


def step(x: Tensor) -> Tensor:
    """The distance of two neighbouring values after rounding."""
    return (x.double().max().clamp(min=0) - x.double().min().clamp(max=0)) / 252


def exactly(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The product of rounded factors in integers: M x K, N x K, N to M x N float64."""
    x, weight = x.double(), weight.double()
    steps = step(x)
    rows = weight.abs().amax(1) / 127
    left = (x / steps).round().long()
    right = (weight / rows[:, None]).round().long()
    return (left @ right.T).double() * steps * rows + bias.double()


@multiplies
@given(
    rows=st.integers(1, 40), inputs=st.integers(1, 70), outputs=st.integers(1, 50), shift=st.floats(-3, 3),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_products_are_those_of_integers(rows: int, inputs: int, outputs: int, shift: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, inputs, generator=generator) + shift
    weight = torch.randn(outputs, inputs, generator=generator)
    bias = torch.randn(outputs, generator=generator)
    found = Int8Linear(weight, bias, torch.float32)(x[None])[0]
    expected = exactly(x, weight, bias)
    # a value in the middle between two steps may be rounded to either
    assert float((found - expected).abs().max()) <= 1.01 * float(step(x) * weight.abs().max()) + 1e-4
    assert float(((found - expected).abs() > 1e-3).double().mean()) < 0.1


@multiplies
@given(shift=st.floats(-3, 3), spread=st.floats(1e-3, 1e3), seed=st.integers(0, 10**6))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_value_comes_back_within_a_step(dtype: torch.dtype, shift: float, spread: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    views = ((torch.randn(50, 8, 16, generator=generator) + shift) * spread).to(dtype)
    found = Int8Linear(torch.eye(16), torch.zeros(16), torch.float32)(views)
    for one, x in zip(found, views, strict=True):
        assert float((one - x.float()).abs().max()) <= 1.01 * float(step(x))


@multiplies
def test_values_without_a_range() -> None:
    weight, bias = torch.randn(5, 8), torch.randn(5)
    layer = Int8Linear(weight, bias, torch.float32)
    assert torch.equal(layer(torch.zeros(1, 3, 8))[0], bias.expand(3, -1))
    for value in (-2.0, 0.5):
        x = torch.full((1, 3, 8), value)
        torch.testing.assert_close(layer(x), F.linear(x, weight, bias), atol=0.1, rtol=0)
    nothing = Int8Linear(torch.zeros(5, 8), bias, torch.float32)
    assert torch.equal(nothing(torch.randn(1, 3, 8))[0], bias.expand(3, -1))


@multiplies
@pytest.mark.parametrize("bfloat16", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_labels_stay(
    method: str, bfloat16: bool, tiny_clip: CLIP, second_weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bfloat16)
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(3, *size, generator=generator) for size in ((224, 260), (90, 150))]
    features = torch.randn(len(CLASSES.queries), 64, generator=generator)
    bank, sizes = TextBank(F.normalize(features, dim=-1), CLASSES), [(112, 130), (90, 150)]
    settings = Settings(method=method, second_encoder=second_weights)
    regions = {"felzenszwalb": [np.arange(image[0].numel()).reshape(image.shape[1:]) // 4000 for image in images]}
    expected = Pipeline(tiny_clip, settings)(images, sizes, bank, regions)
    found = Pipeline(copy.deepcopy(tiny_clip), settings.changed(dtype="int8"))(images, sizes, bank, regions)
    agreement = torch.cat([(a.labels == b.labels).flatten() for a, b in zip(found, expected, strict=True)])
    # first labels, outliers and similarities near a threshold fall to either side
    limit = 0.85 if method.startswith(("resclip", "scclip", "corrclip")) else 0.95
    assert agreement.float().mean() > limit  # of random weights, where many pixels are near-ties
    assert not torch.equal(found[0].scores, expected[0].scores)


@multiplies
def test_company_changes_nothing(tiny_clip: CLIP) -> None:
    encoder = DenseEncoder(copy.deepcopy(tiny_clip).visual, METHODS["itaclip"]).lower("int8")
    pixels = torch.randn(4, 3, 64, 96) * torch.tensor([0.1, 1, 5, 20])[:, None, None, None]
    together = encoder(pixels)
    for one, tokens in zip(pixels, together, strict=True):
        torch.testing.assert_close(encoder(one[None])[0], tokens, atol=1e-5, rtol=1e-5)


@multiplies
def test_copies_and_a_second_pipeline(tiny_clip: CLIP) -> None:
    clip = copy.deepcopy(tiny_clip)
    pixels = torch.randn(1, 3, 64, 64)
    encoder = DenseEncoder(clip.visual, METHODS["itaclip"]).lower("int8")
    expected = encoder(pixels)
    assert torch.equal(copy.deepcopy(encoder)(pixels), expected)
    assert torch.equal(DenseEncoder(clip.visual, METHODS["itaclip"]).lower("int8")(pixels), expected)


@multiplies
def test_gelu_models_too(tiny_clip: CLIP) -> None:
    clip = copy.deepcopy(tiny_clip)
    for block in clip.visual.transformer.resblocks:
        block.mlp.gelu = torch.nn.GELU()
    pixels = torch.randn(2, 3, 64, 64)
    expected = DenseEncoder(copy.deepcopy(clip).visual, METHODS["clip"])(pixels)
    found = DenseEncoder(clip.visual, METHODS["clip"]).lower("int8")(pixels)
    assert F.cosine_similarity(found, expected, dim=-1).min() > 0.995


@multiplies
def test_the_api_takes_it(demo_root: object, quick: Segmenter) -> None:
    segmenter = Segmenter("demo", "fast", pamr_steps=0, dtype="int8")
    for each in (segmenter, quick):
        each.set_classes(["car", "house", "bricks"])
    photo = f"{demo_root}/JPEGImages/scene_002.jpg"
    assert (segmenter(photo).labels == quick(photo).labels).mean() > 0.98


def test_where_it_is_refused(tiny_clip: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ItaclipError, match="'int8' runs on CPUs only, but device is 'cuda'"):
        choose_device("cuda", "int8")
    assert choose_device("auto", "int8") == torch.device("cpu")
    with pytest.raises(ItaclipError, match="compile = True: expected False with int8"):
        Settings(dtype="int8", compile=True)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    with pytest.raises(ItaclipError, match=r"no AVX-512 VNNI instructions here.*take bf16 or fp32"):
        Pipeline(copy.deepcopy(tiny_clip), Settings(dtype="int8"))
