"""The pipeline against an independent plain implementation, for cases without recordings."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import oracle
import pytest
import torch

from itaclip.core.clip.openai import CLIP
from itaclip.core.pipeline import Pipeline
from itaclip.core.settings import Settings
from itaclip.core.text import TextBank, parse_class_names

CLASSES = parse_class_names(["background, wall", "cat, kitten, tom", "cup", "table"])


@pytest.fixture(scope="module")
def bank() -> TextBank:
    features = torch.randn(len(CLASSES.queries), 64, generator=torch.Generator().manual_seed(1))
    features = torch.nn.functional.normalize(features, dim=-1)
    return TextBank(features, CLASSES)


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """A smooth random image, normalised."""
    coarse = torch.randn(1, 3, height // 6 + 2, width // 6 + 2, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")[0]


def settings(options: oracle.Options, **more: Any) -> Settings:
    return Settings(
        attn_self=options.self_self,
        residual=options.residual,
        middle_layers=options.middle,
        img_engineering=options.views,
        img_eng_coefficient=options.view_weight,
        blur_kernel=options.blur[0],
        blur_sigma=options.blur[1],
        slide_crop=options.crop,
        slide_stride=options.stride,
        pamr_steps=options.pamr_steps,
        pamr_stride=options.dilations,
        logit_scale=options.scale,
        prob_thd=options.prob_thd,
        area_thd=options.area_thd,
        **more,
    )


CASES = {
    "residual off": (oracle.Options(residual=False), (240, 256)),
    "self-self off": (oracle.Options(self_self=False, views=False), (224, 230)),
    "no middle layers": (oracle.Options(middle=(), views=False), (224, 224)),
    "other middle layers": (oracle.Options(middle=(3, 11), views=False), (224, 224)),
    "views off": (oracle.Options(views=False, stride=64), (224, 300)),
    "other blur": (oracle.Options(blur=(5, 1.5), view_weight=0.4), (224, 224)),
    "flips only": (oracle.Options(view_weight=0.0), (224, 224)),
    "odd stride": (oracle.Options(views=False, stride=97), (301, 263)),
    "smaller than a crop": (oracle.Options(), (150, 190)),
    "no multiple of the patch": (oracle.Options(crop=200, stride=90, views=False), (211, 333)),
    "one short side": (oracle.Options(views=False), (90, 400)),
    "tiny": (oracle.Options(), (20, 13)),
    "one pixel": (oracle.Options(pamr_steps=2), (1, 1)),
    "refined": (oracle.Options(views=False, pamr_steps=3, dilations=(2, 5)), (224, 240)),
    "one dilation": (oracle.Options(views=False, pamr_steps=1, dilations=(3,)), (224, 224)),
    "thresholds": (oracle.Options(views=False, prob_thd=0.3, area_thd=0.4, scale=15), (224, 260)),
}


@pytest.mark.parametrize("case", CASES)
def test_pipeline_equals_oracle(
    case: str, tiny_clip: CLIP, tiny_state: dict[str, torch.Tensor], bank: TextBank
) -> None:
    options, (height, width) = CASES[case]
    image = picture(height, width)
    size = (max(1, round(height * 0.9)), max(1, round(width * 1.1)))
    scores, labels = oracle.segment(image, size, tiny_state, bank.features, list(CLASSES.query_to_class), options)
    result = Pipeline(tiny_clip, settings(options))([image], [size], bank, scores="full")[0]
    assert result.scores.full is not None
    assert result.scores.full.shape == (4, *size)
    assert torch.allclose(result.scores.full, scores, atol=1e-4)
    assert np.mean(result.labels.numpy() == labels) >= 0.9995


def test_whole_image_mode_takes_one_window(
    tiny_clip: CLIP, tiny_state: dict[str, torch.Tensor], bank: TextBank
) -> None:
    image = picture(208, 304)
    options = oracle.Options(crop=1000, views=False)
    scores, _ = oracle.segment(image, (208, 304), tiny_state, bank.features, list(CLASSES.query_to_class), options)
    whole = Settings(slide_crop=0, img_engineering=False)
    result = Pipeline(tiny_clip, whole)([image], [(208, 304)], bank, scores="full")[0]
    assert torch.allclose(result.scores.full, scores, atol=1e-4)


@pytest.mark.parametrize("batch_crops", [1, 7, 64])
def test_batch_of_mixed_sizes_equals_singles(batch_crops: int, tiny_clip: CLIP, bank: TextBank) -> None:
    pipeline = Pipeline(tiny_clip, Settings(slide_stride=100, pamr_steps=2, batch_crops=batch_crops))
    images = [picture(*size, seed=i) for i, size in enumerate([(224, 300), (250, 224), (224, 300), (100, 60)])]
    sizes = [(200, 270), (250, 224), (333, 500), (50, 30)]
    together = pipeline(images, sizes, bank)
    for image, size, result in zip(images, sizes, together, strict=True):
        single = pipeline([image], [size], bank)[0]
        assert result.labels.shape == size
        assert torch.allclose(result.scores.values, single.scores.values, atol=1e-4)
        assert (result.labels == single.labels).float().mean() > 0.9995


def test_flipping_the_image_flips_the_result(tiny_clip: CLIP, bank: TextBank) -> None:
    """With flips alone (weight 0) and one symmetric window, the pipeline commutes with a flip
    of both axes up to the missing plain view: the two flipped views swap their roles."""
    pipeline = Pipeline(tiny_clip, Settings(img_eng_coefficient=0.0))
    image = picture(224, 224)
    plain = pipeline([image], [(224, 224)], bank)[0].scores.values
    turned = pipeline([image.flip(1).flip(2)], [(224, 224)], bank)[0].scores.values.flip(1).flip(2)
    # a vertical flip of the rotated image equals a horizontal flip of the original, and vice versa
    assert torch.allclose(plain, turned, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_lower_precision_agrees(dtype: str, tiny_clip: CLIP, bank: TextBank) -> None:
    image = picture(224, 224)
    exact = Pipeline(tiny_clip, Settings())([image], [(224, 224)], bank)[0]
    rough = Pipeline(copy.deepcopy(tiny_clip), Settings(dtype=dtype))([image], [(224, 224)], bank)[0]
    assert (exact.scores.values - rough.scores.values).abs().max() < 0.05
    assert (exact.labels == rough.labels).float().mean() > 0.97
