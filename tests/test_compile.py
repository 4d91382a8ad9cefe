"""torch.compile: the same tokens and labels, compiled once for any number of views."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
import torch.nn.functional as F

from itaclip import ItaclipError
from itaclip.core.clip.openai import CLIP
from itaclip.core.pipeline import Pipeline
from itaclip.core.settings import Settings
from itaclip.core.text import TextBank, parse_class_names

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")

CLASSES = parse_class_names(["background, wall", "cat, kitten", "cup"])


def bank() -> TextBank:
    features = torch.randn(len(CLASSES.queries), 64, generator=torch.Generator().manual_seed(1))
    return TextBank(F.normalize(features, dim=-1), CLASSES)


@needs_compiler
@pytest.mark.slow
def test_the_same_labels_compiled_once(tiny_clip: CLIP) -> None:
    settings = Settings(slide_crop=64, slide_stride=48, pamr_steps=1, batch_crops=20)
    sizes = [(100, 130), (64, 112)]
    images = [torch.randn(3, *size) for size in sizes]
    expected = Pipeline(tiny_clip, settings)(images, sizes, bank())
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = Pipeline(copy.deepcopy(tiny_clip), settings.changed(compile=True))
    found = compiled(images, sizes, bank())
    compiled(images[1:], sizes[1:], bank())  # passes of another size
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.scores.values, other.scores.values, atol=1e-5, rtol=0)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]
    other = copy.deepcopy(compiled)
    torch.nn.init.zeros_(other.encoder.visual.proj)
    assert not other.encoder(torch.randn(2, 3, 64, 64)).any()  # a copy computes with weights of its own


def test_without_a_compiler_the_error_says_so(tiny_clip: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", (None, "no-such-compiler"))
    monkeypatch.setattr(inductor, "fx_graph_cache", False)
    pipeline = Pipeline(copy.deepcopy(tiny_clip), Settings(compile=True, img_engineering=False))
    with pytest.raises(ItaclipError, match="compile = True"):
        pipeline([torch.randn(3, 64, 64)], [(64, 64)], bank())
