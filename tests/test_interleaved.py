"""The sweep that ends early: rounds cover everything once, partial sums are means, the whole is the published one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from itaclip import Segmenter
from itaclip.clip.openai import CLIP
from itaclip.core.interleaved import Interleaved, rounds, view_weights
from itaclip.core.passes import interleaved_logits
from itaclip.core.pipeline import Pipeline
from itaclip.core.settings import Settings
from itaclip.core.views import VIEWS
from itaclip.core.windows import WindowPlan, stitch
from itaclip.demo.scenes import draw_scene
from itaclip.errors import ItaclipError
from itaclip.text import TextBank, parse_class_names

CLASSES = parse_class_names(["background, wall", "cat, kitten", "cup"])
SIZE = (100, 130)


def bank() -> TextBank:
    features = torch.randn(len(CLASSES.queries), 64, generator=torch.Generator().manual_seed(1))
    return TextBank(F.normalize(features, dim=-1), CLASSES)


def picture(seed: int = 0) -> Tensor:
    coarse = torch.randn(1, 3, 18, 22, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=SIZE, mode="bicubic")[0]


@given(height=st.integers(1, 400), width=st.integers(1, 400), stride=st.integers(8, 64))
def test_rounds_read_every_pair_once_and_every_window_first(height: int, width: int, stride: int) -> None:
    plan = WindowPlan.of((height, width), 64, stride, 16)
    first, *others = rounds(plan)
    assert sorted(window for window, _ in first) == list(range(plan.count))
    pairs = Counter(pair for part in (first, *others) for pair in part)
    assert pairs == Counter((window, view) for window in range(plan.count) for view in range(VIEWS))
    if plan.rows.count >= 5 and plan.columns.count >= 5:
        views = Counter(view for _, view in first)
        assert max(views.values()) - min(views.values()) <= 0.3 * plan.count  # all views, about evenly


@pytest.mark.parametrize("method", ["itaclip", "corrclip"])
def test_all_rounds_give_the_whole_sweep(method: str, tiny_clip: CLIP) -> None:
    settings = Settings(method=method, slide_crop=64, slide_stride=24, second_encoder="demo")
    pipeline = Pipeline(tiny_clip, settings).eval()
    image, ids = picture(), np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) // 1700
    plan, reading = pipeline.plan(image), pipeline._reading(settings, bank())
    given_regions = {"felzenszwalb": ids}
    *_, last = interleaved_logits(pipeline.encoder, image, plan, reading, pipeline.second_encoder, given_regions)
    ((_, _, whole),) = pipeline.variants([image], [SIZE], [(settings, bank())], {"felzenszwalb": [ids]})
    assert last.passes == plan.count * VIEWS
    labels = last.stitched(SIZE).argmax(0)
    ours = Pipeline(tiny_clip, settings.changed(closing=False, tolerance=1e-9)).eval()
    ((_, _, early),) = ours.variants([image], [SIZE], [(ours.settings, bank())], {"felzenszwalb": [ids]})
    assert early.passes is not None
    assert early.passes <= last.passes
    queries = torch.tensor([k for k, n in enumerate(CLASSES.queries_per_class) for _ in range(n)])
    assert (queries[labels] == whole.labels).float().mean() > 0.97  # closing aside


def test_what_is_seen_is_averaged_view_by_view() -> None:
    """Against loops over the pixels' windows."""
    plan = WindowPlan.of((96, 112), 64, 16, 16)
    logits = torch.randn(plan.count, VIEWS, 4, 4, 3, generator=torch.Generator().manual_seed(0))
    seen = torch.zeros(plan.count, VIEWS, dtype=torch.bool)
    for window, view in [pair for part in rounds(plan)[:3] for pair in part]:
        seen[window, view] = True
    weights = view_weights(Settings())
    found = Interleaved(logits * seen[:, :, None, None, None], seen, plan, weights).stitched((96, 112))
    sums, counts = torch.zeros(VIEWS, 3, 96, 112), torch.zeros(VIEWS, 96, 112)
    for window, view in seen.nonzero().tolist():
        top, left = (
            axis.starts[i]
            for axis, i in zip((plan.rows, plan.columns), divmod(window, plan.columns.count), strict=True)
        )
        upsampled = F.interpolate(logits[window, view].permute(2, 0, 1)[None], size=(64, 64), mode="bilinear")[0]
        sums[view, :, top : top + 64, left : left + 64] += upsampled
        counts[view, top : top + 64, left : left + 64] += 1
    mean = sums.sum(0) / counts.sum(0)
    per_view = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), mean)
    torch.testing.assert_close(found, (per_view * torch.tensor(weights)[:, None, None, None]).sum(0), atol=1e-5, rtol=0)


def test_complete_equals_the_ordinary_stitching() -> None:
    plan = WindowPlan.of((70, 90), 64, 16, 16)
    logits = torch.randn(plan.count, VIEWS, 4, 4, 3)
    weights = view_weights(Settings())
    seen = torch.ones(plan.count, VIEWS, dtype=torch.bool)
    expected = stitch((logits * torch.tensor(weights)[:, None, None, None]).sum(1), plan, (50, 60))
    torch.testing.assert_close(Interleaved(logits, seen, plan, weights).stitched((50, 60)), expected)


def test_a_larger_tolerance_takes_fewer_passes(tiny_clip: CLIP) -> None:
    passes = []
    for tolerance in (1.0, 0.02, 1e-9):
        settings = Settings(slide_crop=64, slide_stride=8, pamr_steps=2, pamr_stride=(2, 4), tolerance=tolerance)
        (result,) = Pipeline(tiny_clip, settings).eval()([picture()], [SIZE], bank())
        passes.append(result.passes)
    everything = Pipeline(tiny_clip, Settings(slide_crop=64, slide_stride=8)).plan(picture()).count * VIEWS
    assert passes == sorted(passes)  # type: ignore[type-var]
    assert passes[0] == everything / VIEWS  # one round


def test_an_image_does_not_depend_on_its_company(tiny_clip: CLIP) -> None:
    pipeline = Pipeline(tiny_clip, Settings(slide_crop=64, slide_stride=16, tolerance=0.05)).eval()
    images = [picture(0), picture(1)[:, :70]]
    together = pipeline(images, [SIZE, (70, 130)], bank())
    for image, size, expected in zip(images, [SIZE, (70, 130)], together, strict=True):
        (alone,) = pipeline([image], [size], bank())
        assert torch.equal(alone.labels, expected.labels)
        assert alone.passes == expected.passes


@pytest.mark.parametrize("others", [{"img_engineering": False}, {"across_windows": True}])
def test_tolerance_needs_views_of_windows(others: dict[str, bool]) -> None:
    with pytest.raises(ItaclipError, match=r"tolerance = 0\.1: expected 0 with"):
        Settings(tolerance=0.1, **others)  # type: ignore[arg-type]


def test_quality_adaptive_agrees_with_exact() -> None:
    exact, adaptive = (Segmenter("demo", quality, device="cpu") for quality in ("exact", "adaptive"))
    agreement = []
    for number in range(2):
        image = draw_scene((180, 230), np.random.default_rng([77, number])).image
        labels = []
        for segmenter in (exact, adaptive):
            segmenter.set_classes(["sky", "house", "tree", "grass", "road", "car"])
            labels.append(segmenter(image).labels)
        agreement.append((labels[0] == labels[1]).mean())
    assert np.mean(agreement) >= 0.98
