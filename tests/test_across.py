"""Attention across windows: the whole image read at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_methods import bank_of, picture, regions_of

from itaclip.core.clip.openai import CLIP
from itaclip.core.methods import METHODS
from itaclip.core.pipeline import Pipeline
from itaclip.core.settings import Settings


def settings_of(method: str, second_weights: str, **more: Any) -> Settings:
    options: dict[str, Any] = dict(slide_crop=64, slide_stride=32, img_engineering=False, closing=False)
    return Settings(method=method, second_encoder=second_weights, across_windows=True, **options | more)


@pytest.mark.parametrize("method", METHODS)
def test_one_window_is_the_window(method: str, tiny_clip: CLIP, second_weights: str) -> None:
    """An image of one window has nothing to look across to, so nothing changes."""
    image = picture(64, 64)
    # what looks at pixels or at every second place sees a flipped view otherwise
    across = settings_of(method, second_weights, img_engineering=not method.startswith(("resclip", "corrclip")))
    pipeline, regions = Pipeline(tiny_clip, across), regions_of([image])
    found = pipeline([image], [(64, 64)], bank_of(64), regions)[0]
    plain = across.changed(across_windows=False)
    ((_, _, expected),) = pipeline.variants([image], [(64, 64)], [(plain, bank_of(64))], regions)
    assert torch.allclose(found.scores, expected.scores, atol=1e-4)


@pytest.mark.parametrize("method", ["sclip", "itaclip", "corrclip", "scclip", "resclip", "gem"])
def test_far_pixels_matter_across_windows_alone(method: str, tiny_clip: CLIP, second_weights: str) -> None:
    image = picture(64, 160)
    changed = image.clone()
    changed[:, :, 128:] += 2.0  # beyond every window that reaches the left quarter
    across = settings_of(method, second_weights)
    plain = across.changed(across_windows=False)
    pipeline, regions = Pipeline(tiny_clip, across), regions_of([image, changed])
    size = (64, 160)
    variants = [(across, bank_of(64)), (plain, bank_of(64))]
    found = {(n, v): r.scores[:, :, :24] for n, v, r in
             pipeline.variants([image, changed], [size, size], variants, regions)}  # fmt: skip
    assert torch.allclose(found[0, 1], found[1, 1], atol=1e-5)
    assert (found[0, 0] - found[1, 0]).abs().max() > 1e-4


def test_passes_and_views_do_not_change_it(tiny_clip: CLIP, second_weights: str) -> None:
    image = picture(75, 131)
    settings = settings_of("itaclip", second_weights, img_engineering=True)
    few = Pipeline(tiny_clip, settings.changed(batch_crops=5))([image], [(70, 130)], bank_of(64))[0]
    many = Pipeline(tiny_clip, settings.changed(batch_crops=100))([image], [(70, 130)], bank_of(64))[0]
    assert torch.allclose(few.scores, many.scores, atol=1e-5)
