"""The paths of a GPU, where there is one: the same results, in every precision."""

from __future__ import annotations

import copy

import pytest
import torch

from itaclip import Segmenter
from itaclip.core.clip.openai import CLIP
from itaclip.core.methods import ON_ANY_TOWER
from itaclip.core.pamr import pamr
from itaclip.core.pipeline import Pipeline
from itaclip.core.settings import Settings
from itaclip.core.text import TextBank, TextEncoder, parse_class_names

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

CLASSES = parse_class_names(["background, wall", "cat, kitten", "cup"])


@pytest.fixture(scope="module")
def bank() -> TextBank:
    features = torch.randn(len(CLASSES.queries), 64, generator=torch.Generator().manual_seed(1))
    return TextBank(torch.nn.functional.normalize(features, dim=-1), CLASSES)


def on_gpu(bank: TextBank) -> TextBank:
    return TextBank(bank.features.cuda(), bank.class_names)


def images(device: str) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, *size, generator=generator).to(device) for size in ((260, 340), (224, 224), (90, 300))]


SIZES = [(200, 300), (224, 224), (45, 150)]


@pytest.mark.parametrize("method", ON_ANY_TOWER)
def test_every_method_gives_the_cpu_s_scores(method: str, tiny_clip: CLIP, bank: TextBank) -> None:
    settings = Settings(method=method, pamr_steps=2, prob_thd=0.1, area_thd=0.05)
    expected = Pipeline(tiny_clip, settings)(images("cpu"), SIZES, bank)
    found = Pipeline(copy.deepcopy(tiny_clip), settings).cuda()(images("cuda"), SIZES, on_gpu(bank))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.scores.values.cpu(), other.scores.values, atol=1e-4, rtol=0)
        assert (one.labels.cpu() == other.labels).float().mean() > 0.999


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_lower_precision_agrees(dtype: str, tiny_clip: CLIP, bank: TextBank) -> None:
    expected = Pipeline(tiny_clip, Settings())(images("cpu"), SIZES, bank)
    found = Pipeline(copy.deepcopy(tiny_clip), Settings(dtype=dtype)).cuda()(images("cuda"), SIZES, on_gpu(bank))
    for one, other in zip(found, expected, strict=True):
        assert (one.labels.cpu() == other.labels).float().mean() > 0.97


def test_no_image_waits(tiny_clip: CLIP, bank: TextBank) -> None:
    settings = Settings(pamr_steps=2, prob_thd=0.1, area_thd=0.05)
    pipeline, there = Pipeline(copy.deepcopy(tiny_clip), settings).cuda(), on_gpu(bank)
    inputs = images("cuda")
    pipeline(inputs, SIZES, there)
    torch.cuda.set_sync_debug_mode("error")
    try:
        pipeline(inputs, SIZES, there)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_compiled_gives_the_same(dtype: str, tiny_clip: CLIP, bank: TextBank) -> None:
    settings = Settings(pamr_steps=2, dtype=dtype)
    expected = Pipeline(copy.deepcopy(tiny_clip), settings).cuda()(images("cuda"), SIZES, on_gpu(bank))
    compiled = Pipeline(copy.deepcopy(tiny_clip), settings.changed(compile=True)).cuda()
    found = compiled(images("cuda"), SIZES, on_gpu(bank))
    for one, other in zip(found, expected, strict=True):
        assert (one.labels == other.labels).float().mean() > (0.999 if dtype == "fp32" else 0.97)


def test_refinement_and_texts(tiny_clip: CLIP) -> None:
    masks, guide = torch.randn(5, 70, 90), torch.randn(3, 70, 90)
    torch.testing.assert_close(pamr(masks.cuda(), guide.cuda(), 4, (2, 5)).cpu(), pamr(masks, guide, 4, (2, 5)))
    words = ["cat", "a much longer prompt about a sofa"]
    expected = TextEncoder(tiny_clip)(words)
    torch.testing.assert_close(TextEncoder(copy.deepcopy(tiny_clip)).cuda()(words).cpu(), expected, atol=1e-5, rtol=0)


def test_the_api_uses_the_gpu(demo_root: object) -> None:
    from pathlib import Path

    photo = Path(str(demo_root)) / "JPEGImages/scene_002.jpg"
    results = {}
    for device in ("cpu", "cuda"):
        segmenter = Segmenter("demo", "fast", device=device)
        segmenter.set_classes(["car", "house"])
        results[device] = segmenter(photo)
    assert (results["cpu"].labels == results["cuda"].labels).mean() > 0.999
