"""Engines: OpenVINO gives PyTorch's results, in every precision, and converts a model once."""

from __future__ import annotations

import copy
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from PIL import Image

from itaclip import ItaclipError, Segmenter
from itaclip.core import engine as choosing
from itaclip.core.encoder import DenseEncoder
from itaclip.core.engine import calibration_windows, on_engine
from itaclip.core.methods import METHODS, LastBlock
from itaclip.core.pipeline import Pipeline, Segmentation
from itaclip.core.settings import Settings
from itaclip.devices import choose_device
from itaclip.engines import cache, clear_engines, engine_folder, openvino
from itaclip.text import TextBank, TextEncoder, parse_class_names

CLASSES = parse_class_names(["background, wall", "cat, kitten", "cup"])
WINDOWS = [(96, 96), (64, 96)]


@pytest.fixture
def own_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of this test's own."""
    monkeypatch.setenv("ITACLIP_CACHE_DIR", str(tmp_path / "cache"))
    yield tmp_path / "cache/engines"


def segmented(clip: CLIP, settings: Settings) -> list[Segmentation]:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(3, *size, generator=generator) for size in ((112, 130), (90, 150))]
    features = torch.randn(len(CLASSES.queries), 64, generator=generator)
    bank = TextBank(F.normalize(features, dim=-1), CLASSES)
    regions = {"felzenszwalb": [np.arange(image[0].numel()).reshape(image.shape[1:]) // 4000 for image in images]}
    return Pipeline(copy.deepcopy(clip), settings)(images, [(112, 130), (90, 150)], bank, regions)


def agreement(found: list[Segmentation], expected: list[Segmentation]) -> float:
    same = torch.cat([(a.labels == b.labels).flatten() for a, b in zip(found, expected, strict=True)])
    return float(same.float().mean())


def encoders(clip: CLIP, dtype: str, name: str = "itaclip") -> tuple[DenseEncoder, DenseEncoder]:
    """PyTorch's in float32, and OpenVINO's."""
    plain = DenseEncoder(clip.visual, METHODS[name])
    other = DenseEncoder(copy.deepcopy(clip.visual), METHODS[name])
    on_engine(other, Settings(method=name, engine="openvino", dtype=dtype))
    return plain, other


@pytest.mark.parametrize("method", METHODS)
def test_float32_gives_the_same_for_every_method(method: str, tiny_clip: CLIP, second_weights: str) -> None:
    settings = Settings(method=method, second_encoder=second_weights, slide_crop=96, slide_stride=64)
    expected = segmented(tiny_clip, settings)
    found = segmented(tiny_clip, settings.changed(engine="openvino"))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.scores, b.scores, atol=2e-5, rtol=0)
    assert agreement(found, expected) > 0.999


def test_several_methods_share_a_pass(tiny_clip: CLIP) -> None:
    plain, other = encoders(tiny_clip, "fp32")
    pixels = torch.randn(2, 3, 96, 96)
    from itaclip.core.methods import Window

    readings = [(METHODS[name], Window(pixels)) for name in ("itaclip", "clip", "scclip")]
    for a, b in zip(other.read(pixels, readings), plain.read(pixels, readings), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
