"""Inference that ends early: rounds cover everything once, partial sums are means, the whole is the published one."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from itaclip import Segmenter
from itaclip.common.demo.scenes import draw_scene
from itaclip.core.adaptive import PartialLogits, rounds, view_weights
from itaclip.core.clip.openai import CLIP
from itaclip.core.patch_logits import adaptive_logits
from itaclip.core.pipeline import Pipeline
from itaclip.core.settings import Settings
from itaclip.core.text import TextBank, parse_class_names
from itaclip.core.views import VIEWS
from itaclip.core.windows import WindowPlan, merge_patches, place_patches, stitch
from itaclip.errors import ItaclipError

CLASSES = parse_class_names(["background, wall", "cat, kitten", "cup"])
SIZE = (100, 130)
WEIGHTS = view_weights(Settings())


def bank() -> TextBank:
    features = torch.randn(len(CLASSES.queries), 64, generator=torch.Generator().manual_seed(1))
    return TextBank(F.normalize(features, dim=-1), CLASSES)


def picture(seed: int = 0) -> Tensor:
    coarse = torch.randn(1, 3, 18, 22, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=SIZE, mode="bicubic")[0]


@given(height=st.integers(1, 400), width=st.integers(1, 400), stride=st.integers(8, 64))
def test_rounds_read_every_pair_once_and_every_window_first(height: int, width: int, stride: int) -> None:
    plan = WindowPlan.of((height, width), 64, stride, 16)
    first, *others = rounds(plan, WEIGHTS)
    assert sorted(window for window, _ in first) == list(range(plan.count))
    pairs = Counter(pair for part in (first, *others) for pair in part)
    assert pairs == Counter((window, view) for window in range(plan.count) for view in range(VIEWS))
    if plan.rows.count >= 5 and plan.columns.count >= 5:
        views = Counter(view for _, view in first)
        assert max(views.values()) - min(views.values()) <= 0.3 * plan.count  # all views, about evenly


@pytest.mark.parametrize("method", ["itaclip", "corrclip"])
def test_all_rounds_give_what_all_views_give(method: str, tiny_clip: CLIP) -> None:
    settings = Settings(method=method, slide_crop=64, slide_stride=24, second_encoder="demo")
    pipeline = Pipeline(tiny_clip, settings).eval()
    image, ids = picture(), np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) // 1700
    plan, reading = pipeline.plan(image), pipeline._variant(settings, bank())
    given_regions = {"felzenszwalb": ids}
    *_, last = adaptive_logits(pipeline.encoder, image, plan, reading, pipeline.second_encoder, given_regions)
    ((_, _, whole),) = pipeline.variants([image], [SIZE], [(settings, bank())], {"felzenszwalb": [ids]})
    assert last.passes == plan.count * VIEWS
    labels = stitch(last.mixed(), plan, SIZE).argmax(0)
    ours = Pipeline(tiny_clip, settings.changed(closing=False, tolerance=1e-9)).eval()
    ((_, _, early),) = ours.variants([image], [SIZE], [(ours.settings, bank())], {"felzenszwalb": [ids]})
    assert early.passes is not None
    assert early.passes <= last.passes
    queries = torch.tensor([k for k, n in enumerate(CLASSES.queries_per_class) for _ in range(n)])
    assert (queries[labels] == whole.labels).float().mean() > 0.97  # closing aside


def test_later_rounds_begin_where_few_windows_overlap() -> None:
    plan = WindowPlan.of((448, 448), 224, 28, 16)
    across, (_, second, *_) = plan.columns.count, rounds(plan, WEIGHTS)
    corners = {0, across - 1, plan.count - across, plan.count - 1}
    assert corners <= {window for window, _ in second}
    inner = [w for w, _ in second if 2 <= w // across <= across - 3 and 2 <= w % across <= across - 3]
    assert len(inner) / len(second) < 0.1  # they are a third of all windows


def test_missing_views_are_estimated_from_the_neighbours() -> None:
    """Against loops over single patches, on windows whose patches lie on one grid."""
    plan = WindowPlan.of((96, 112), 64, 16, 16)
    logits = torch.randn(plan.count, VIEWS, 4, 4, 3, generator=torch.Generator().manual_seed(0)).double()
    seen = torch.zeros(plan.count, VIEWS, dtype=torch.bool)
    for window, view in [pair for part in rounds(plan, WEIGHTS)[:3] for pair in part]:
        seen[window, view] = True

    def place(window: int, row: int, column: int) -> tuple[int, int]:
        down, right = divmod(window, plan.columns.count)
        return down + row, right + column

    found: dict[tuple[int, int, int], list[Tensor]] = {}  # by view and place
    for window, view in seen.nonzero().tolist():
        for row, column in itertools.product(range(4), range(4)):
            found.setdefault((view, *place(window, row, column)), []).append(logits[window, view, row, column])
    expected = torch.empty(plan.count, 4, 4, 3, dtype=torch.float64)
    for window, row, column in itertools.product(range(plan.count), range(4), range(4)):
        here = place(window, row, column)
        every = [one for view in range(VIEWS) for one in found.get((view, *here), [])]
        means = [torch.stack(found.get((view, *here), every)).mean(0) for view in range(VIEWS)]
        read = [view for view in range(VIEWS) if seen[window, view]]
        off = torch.stack([logits[window, view, row, column] - means[view] for view in read]).mean(0)
        parts = [logits[window, v, row, column] if v in read else means[v] + off for v in range(VIEWS)]
        expected[window, row, column] = sum(weight * part for weight, part in zip(WEIGHTS, parts, strict=True))
    mixed = PartialLogits(logits * seen[:, :, None, None, None], seen, plan, WEIGHTS).mixed()
    torch.testing.assert_close(mixed, expected, atol=1e-9, rtol=0)


def test_views_that_differ_by_a_constant_are_completed_exactly() -> None:
    """The model behind the estimate: a map of the image, one offset per window, one per view."""
    generator = torch.Generator().manual_seed(0)
    plan = WindowPlan.of((128, 160), 64, 16, 16)
    image = torch.randn(8, 10, 3, generator=generator)
    views = torch.randn(VIEWS, 1, 1, 3, generator=generator)
    logits = place_patches(image, plan, 16)[:, None] + views
    seen = torch.zeros(plan.count, VIEWS, dtype=torch.bool)
    for window, view in rounds(plan, WEIGHTS)[0]:
        seen[window, view] = True
    seen[[0, plan.columns.count - 1, -plan.columns.count, -1]] = True  # or corners would lack views
    mixed = PartialLogits(logits * seen[:, :, None, None, None], seen, plan, WEIGHTS).mixed()
    whole = (logits * torch.tensor(WEIGHTS)[:, None, None, None]).sum(1)
    inner = (slice(3 * plan.columns.count + 3, 3 * plan.columns.count + 4), slice(1, 3), slice(1, 3))
    torch.testing.assert_close(mixed[inner], whole[inner], atol=1e-5, rtol=0)


def test_complete_equals_the_ordinary_mixing() -> None:
    plan = WindowPlan.of((70, 90), 64, 16, 16)
    logits = torch.randn(plan.count, VIEWS, 4, 4, 3)
    seen = torch.ones(plan.count, VIEWS, dtype=torch.bool)
    expected = (logits * torch.tensor(WEIGHTS)[:, None, None, None]).sum(1)
    torch.testing.assert_close(PartialLogits(logits, seen, plan, WEIGHTS).mixed(), expected)


_SIDES = st.one_of(st.integers(16, 200), st.integers(1, 12).map(lambda n: 16 * n))


@given(height=_SIDES, width=_SIDES, stride=st.sampled_from([8, 16, 20, 32, 48]), centred=st.booleans())
def test_placing_reverses_merging(height: int, width: int, stride: int, centred: bool) -> None:
    """Exactly where patches lie on the grid; elsewhere values stay within those of the grid."""
    plan = WindowPlan.of((height, width), 64, stride, 16, "centre" if centred else "end")
    grid = -(-height // 16), -(-width // 16)
    rows, columns = (torch.arange(n).float() for n in grid)
    plane = torch.stack([rows[:, None].expand(grid), columns.expand(grid)], dim=-1)
    placed = place_patches(plane, plan, 16)
    assert placed.shape == (plan.count, plan.rows.patches, plan.columns.patches, 2)
    assert placed.amin() >= 0
    assert (placed.amax((0, 1, 2)) <= torch.tensor(grid) - 1).all()
    if not any(pixels % 16 for pixels in (height, width, stride)):
        torch.testing.assert_close(merge_patches(placed, plan, grid, 16), plane)


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


@pytest.mark.parametrize("others", [{"img_engineering": False}, {"method": "ovstitcher"}])
def test_tolerance_needs_views_of_windows(others: dict[str, Any]) -> None:
    with pytest.raises(ItaclipError, match=r"tolerance = 0\.1: expected 0 with"):
        Settings(tolerance=0.1, **others)


def test_quality_adaptive_agrees_with_exact() -> None:
    exact, adaptive = (Segmenter("demo", quality, device="cpu") for quality in ("exact", "adaptive"))
    image = draw_scene((180, 230), np.random.default_rng([77, 0])).image
    labels = []
    for segmenter in (exact, adaptive):
        segmenter.set_classes(["sky", "house", "tree", "grass", "road", "car"])
        labels.append(segmenter(image).labels)
    assert (labels[0] == labels[1]).mean() >= 0.98
