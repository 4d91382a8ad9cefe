"""Properties of the single stages: windows cover, stitching averages, views invert, PAMR smooths."""

from __future__ import annotations

import cv2
import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from itaclip.core.decision import close_labels, decide
from itaclip.core.pamr import affinity, pamr
from itaclip.core.query_maps import ready_maps
from itaclip.core.settings import Settings
from itaclip.core.views import make_views
from itaclip.core.windows import WindowPlan, cut_windows, plan_axis, stitch, stitching_matrix
from itaclip.errors import ItaclipError

sizes = st.integers(1, 400)


@given(size=sizes, crop=st.integers(0, 256), stride=st.integers(1, 256), patch=st.sampled_from([8, 14, 16, 32]))
def test_windows_cover_every_pixel_and_stay_inside(size: int, crop: int, stride: int, patch: int) -> None:
    stride = min(stride, crop) if crop else stride
    axis = plan_axis(size, crop, stride, patch)
    seen = np.zeros(size, int)
    for start in axis.starts:
        assert start >= 0
        assert start + axis.window <= size
        seen[start : start + axis.window] += 1
    assert seen.min() >= 1
    assert axis.window == (min(size, crop) if crop else size)
    assert axis.padded == axis.patches * patch >= axis.window > axis.padded - patch
    assert list(axis.starts) == sorted(set(axis.starts))
    # the published count of windows
    assert len(axis.starts) == max(size - axis.window + stride - 1, 0) // stride + 1


@given(size=sizes, crop=st.integers(1, 256), stride=st.integers(1, 256), target=sizes)
def test_stitching_weights_are_a_mean(size: int, crop: int, stride: int, target: int) -> None:
    matrix = stitching_matrix(plan_axis(size, crop, min(stride, crop), 16), target, torch.device("cpu"), torch.float64)
    assert matrix.shape[0] == target
    assert float(matrix.min()) >= -1e-12
    assert torch.allclose(matrix.sum(1), torch.ones(target, dtype=torch.float64))


def test_cut_windows_are_the_windows() -> None:
    image = torch.arange(3 * 50 * 70, dtype=torch.float32).view(3, 50, 70)
    plan = WindowPlan.of((50, 70), crop=30, stride=20, patch=16)
    windows = cut_windows(image, plan, 0, plan.count)
    assert windows.shape == (2 * 3, 3, 32, 32)
    places = [(y, x) for y in plan.rows.starts for x in plan.columns.starts]
    for window, (y, x) in zip(windows, places, strict=True):
        assert torch.equal(window[:, :30, :30], image[:, y : y + 30, x : x + 30])
        assert not window[:, 30:].any()
        assert not window[:, :, 30:].any()
    assert torch.equal(cut_windows(image, plan, 2, 5), windows[2:5])


def test_stitching_equals_adding_upsampled_windows() -> None:
    plan = WindowPlan.of((70, 90), crop=48, stride=20, patch=16)
    logits = torch.randn(plan.count, *plan.grid, 5)
    canvas, count = torch.zeros(5, 70, 90), torch.zeros(70, 90)
    places = [(y, x) for y in plan.rows.starts for x in plan.columns.starts]
    for patch_map, (y, x) in zip(logits, places, strict=True):
        up = F.interpolate(patch_map.permute(2, 0, 1)[None], size=(48, 48), mode="bilinear", align_corners=False)[0]
        canvas[:, y : y + 48, x : x + 48] += up
        count[y : y + 48, x : x + 48] += 1
    expected = F.interpolate((canvas / count)[None], size=(101, 60), mode="bilinear", align_corners=False)[0]
    assert torch.allclose(stitch(logits, plan, (101, 60)), expected, atol=1e-5)


def test_views_are_the_five_of_the_paper() -> None:
    crops = torch.randn(2, 3, 64, 48)
    plain, grey, blurred, down, sideways = make_views(crops, Settings()).view(5, 2, 3, 64, 48)
    assert torch.equal(plain, crops)
    luma = 0.2989 * crops[:, 0] + 0.587 * crops[:, 1] + 0.114 * crops[:, 2]
    assert torch.allclose(grey, luma[:, None].expand(-1, 3, -1, -1), atol=1e-6)
    assert torch.allclose(blurred[1], oracle.blur(crops[1], 11, 5.0), atol=1e-5)
    assert torch.equal(down.flip(2), crops)
    assert torch.equal(sideways.flip(3), crops)
    assert make_views(crops, Settings(img_engineering=False)) is crops


@pytest.mark.parametrize(("height", "width"), [(40, 50), (5, 9), (1, 1), (3, 40)])
@pytest.mark.parametrize("dilations", [(8, 16), (1,), (2, 5, 9)])
def test_pamr_equals_the_version_with_stored_neighbours(height: int, width: int, dilations: tuple[int, ...]) -> None:
    masks, guide = torch.randn(7, height, width), torch.randn(3, height, width)
    before = masks.clone()
    expected = oracle.refine(masks, guide, oracle.Options(pamr_steps=3, dilations=dilations))
    assert torch.allclose(pamr(masks, guide, 3, dilations), expected, atol=1e-5)
    assert torch.equal(masks, before)


def test_pamr_weights_sum_to_one_and_keep_constants() -> None:
    guide = torch.randn(3, 30, 40)
    assert torch.allclose(affinity(guide, (4, 8)).sum(0), torch.ones(30, 40), atol=1e-5)
    constant = torch.full((2, 30, 40), 0.3)
    assert torch.allclose(pamr(constant, guide, 4, (4, 8)), constant, atol=1e-5)
    assert pamr(constant, guide, 0) is constant


def test_pamr_never_stores_the_neighbours_of_all_masks() -> None:
    """Peak memory stays below a quarter of what Q x 16 x H x W floats would take."""
    masks, guide = torch.randn(60, 120, 160), torch.randn(3, 120, 160)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.untyped_storage().nbytes())
            return result

    with Watch():
        pamr(masks, guide, 2)
    assert largest <= masks.numel() * 4  # no tensor larger than the masks themselves


def test_scores_take_the_best_synonym_not_the_sum() -> None:
    logits = torch.tensor([0.1, 0.1, 0.15]).view(3, 1, 1)
    labels, scores = decide(ready_maps(logits, (2, 1)), Settings(logit_scale=10), "full")
    p = torch.softmax(10 * torch.tensor([0.1, 0.1, 0.15]), 0)
    assert scores.full is not None
    assert torch.allclose(scores.full.flatten(), torch.stack([p[0], p[2]]))
    assert int(labels) == 1  # the sum would have chosen 0


def test_small_areas_go_to_the_next_best_class() -> None:
    logits = torch.zeros(3, 2, 10)
    logits[0] = 2
    logits[1, :, :9] = 9  # 18 foreground pixels
    logits[2, :, 9] = 8  # 2 of 20 foreground pixels: exactly the threshold
    logits[1, 0, 9] = 5
    plain = Settings(logit_scale=1, closing=False)
    labels, scores = decide(ready_maps(logits, (1, 1, 1)), plain.changed(area_thd=0.1), "full")
    assert scores.full is not None
    assert not scores.full[2].any()
    assert labels[:, 9].tolist() == [1, 0]
    assert (scores.classes[:, 0, 0].tolist(), scores.values[1, 0, 9] > 0) == ([1, 0], True)
    assert decide(ready_maps(logits, (1, 1, 1)), plain.changed(area_thd=0.09), 1)[0][:, 9].tolist() == [2, 2]
    only_background = torch.stack([torch.ones(3, 3), torch.zeros(3, 3)])
    labels, scores = decide(ready_maps(only_background, (1, 1)), plain.changed(area_thd=0.5), 2)
    assert not labels.any()
    assert (scores.classes[1] == -1).all()  # no other class is left
    assert not scores.values[1].any()


def test_probability_threshold_is_strict() -> None:
    logits = torch.stack([torch.zeros(1, 6), torch.tensor([[1.0, 1.0, 1.0, 0.5, 0.5, 0.5]])])
    score = float(decide(ready_maps(logits, (1, 1)), Settings(logit_scale=1), 1)[1].values[0, 0, 0])
    found, _ = decide(ready_maps(logits, (1, 1)), Settings(logit_scale=1, prob_thd=score), 1)
    assert found.tolist() == [[1, 1, 1, 0, 0, 0]]


@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (37, 53)])
def test_closing_equals_opencvs(shape: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, 30, shape).astype(np.uint8)
    expected = cv2.morphologyEx(labels, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    assert np.array_equal(close_labels(torch.from_numpy(labels).long()).numpy(), expected)


def test_closing_keeps_class_ids_above_255() -> None:
    labels = torch.full((5, 5), 700)
    labels[2, 2] = 3
    assert close_labels(labels).unique().tolist() == [700]


@pytest.mark.parametrize(
    ("name", "value"),
    [("method", "itaklip"), ("def_coefficient", 1.5), ("img_eng_coefficient", -0.1), ("slide_stride", 0),
     ("slide_stride", 300), ("slide_crop", -1), ("blur_kernel", 10), ("blur_sigma", 0.0), ("pamr_steps", -1),
     ("logit_scale", 0), ("prob_thd", 2), ("area_thd", 1.2), ("batch_crops", 0), ("dtype", "int4"),
     ("logit_scale", float("inf")), ("logit_scale", float("nan")), ("pamr_steps", True), ("prob_thd", True)],
)  # fmt: skip
def test_settings_outside_their_range_show_the_value(name: str, value: object) -> None:
    with pytest.raises(ItaclipError, match=rf"{name} = {value!r}: expected"):
        Settings().changed(**{name: value})


def test_a_value_of_another_kind_is_told_what_it_may_be() -> None:
    for name, expected in (
        ("padding", "end or centre"), ("pos_interpolation", "None, scale, size, antialias, bilinear or cut"),
        ("area_thd", "None or float"), ("middle_layers", "None or tuple of int"), ("background", "bool"),
    ):  # fmt: skip
        with pytest.raises(ItaclipError, match=rf"{name} = 'x': expected {expected}\."):
            Settings().changed(**{name: "x"})


def test_unknown_settings_get_a_hint() -> None:
    with pytest.raises(ItaclipError, match=r"unknown setting 'pamr_step'\. Did you mean 'pamr_steps'"):
        Settings().changed(pamr_step=3)
