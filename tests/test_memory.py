"""Memory: bounded whatever the number of windows; passes that do not fit a device are halved, once."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from gpu_helpers import needs_pretending
from torch import Tensor

from itaclip.core.clip.openai import CLIP
from itaclip.core.encoder import DenseEncoder
from itaclip.core.pipeline import Pipeline
from itaclip.core.settings import Settings
from itaclip.core.text import TextBank, parse_class_names
from itaclip.errors import ItaclipError
from itaclip.research.benchmark.pretended import gpu_peak_mib


class SmallDevice(DenseEncoder):
    """An encoder on a device that holds so many views, and says what torch says beyond."""

    holds = 7
    failures = 0

    def tokens(self, pixels: Tensor, methods: Any) -> list[Tensor]:
        if len(pixels) > self.holds:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().tokens(pixels, methods)


def pipeline(clip: CLIP, holds: int, views: bool) -> Pipeline:
    made = Pipeline(clip, Settings(slide_stride=56, batch_crops=20, img_engineering=views))
    made.encoder = SmallDevice(clip.visual, made.encoder.method)
    made.encoder.holds = holds
    return made


@pytest.fixture
def bank() -> TextBank:
    classes = parse_class_names(["wall", "cat"])
    return TextBank(torch.nn.functional.normalize(torch.randn(2, 64), dim=-1), classes)


def images() -> Sequence[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(3, height, width, generator=generator) for height, width in ((300, 360), (224, 300), (250, 224))
    ]


def test_a_pass_that_does_not_fit_is_halved_and_remembered(
    tiny_clip: CLIP, bank: TextBank, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = [(100, 120), (80, 90), (70, 60)]
    expected = Pipeline(tiny_clip, Settings(slide_stride=56, img_engineering=False))(images(), sizes, bank)
    small = pipeline(tiny_clip, holds=7, views=False)
    with caplog.at_level(logging.WARNING):
        found = small(images(), sizes, bank)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.scores.values, other.scores.values, atol=1e-5, rtol=0)
    assert isinstance(small.encoder, SmallDevice)
    tried = small.encoder.failures
    assert 1 <= tried <= 2  # 20, 10, then 5 windows
    assert caplog.text.count("are taken from now on") == tried
    small(images(), sizes, bank)
    assert small.encoder.failures == tried  # remembered


def test_one_window_that_does_not_fit_is_told(tiny_clip: CLIP, bank: TextBank) -> None:
    with pytest.raises(ItaclipError, match="not even one window fits"):
        pipeline(tiny_clip, holds=4, views=True)(images()[:1], [(50, 50)], bank)


@needs_pretending
@pytest.mark.parametrize("stride", [pytest.param(28, marks=pytest.mark.slow), 112])
def test_memory_on_a_gpu_is_a_few_maps_of_the_image(stride: int, tiny_clip: CLIP) -> None:
    """Live tensors of a 1024 x 2048 image with 26 queries, by their shapes."""
    pipeline = Pipeline(copy.deepcopy(tiny_clip), Settings(slide_stride=stride, pamr_steps=2, area_thd=0.1))
    size = (1024, 2048)
    peak = gpu_peak_mib(pipeline, (560, 1120), size, 26)
    maps = 26 * size[0] * size[1] * 4 / 2**20
    assert maps < peak < 6 * maps  # all windows' maps side by side would be 10 to 40 times that
