"""Region maps in windows, and methods that use them: bad input and edge cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_methods import bank_of, picture

from itaclip import ItaclipError, Segmenter
from itaclip.core.clip.openai import CLIP
from itaclip.core.methods.corrclip import merge_regions, scope
from itaclip.core.pipeline import Pipeline
from itaclip.core.regions.maps import dense_ranks, resize_map, window_regions
from itaclip.core.settings import Settings
from itaclip.core.windows import WindowPlan, cut_windows


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 40))
def test_dense_ranks_are_numpys_unique(seed: int, windows: int, places: int) -> None:
    ids = np.random.default_rng(seed).integers(-5, 9, (windows, 1, places)) * 7
    ranks, count = dense_ranks(ids)
    expected = [np.unique(row, return_inverse=True)[1].reshape(row.shape) for row in ids]
    assert np.array_equal(ranks, np.stack(expected))
    assert count == max(len(np.unique(row)) for row in ids)


@pytest.mark.parametrize(("size", "padding"), [((64, 96), "end"), ((50, 75), "end"), ((50, 75), "centre")])
def test_window_regions_lie_where_the_pixels_do(size: tuple[int, int], padding: str) -> None:
    plan = WindowPlan.of(size, 48, 20, 16, padding)  # type: ignore[arg-type]
    ids = np.arange(size[0] * size[1]).reshape(size)
    found = window_regions(ids, plan, 0, plan.count, 8)
    crops = cut_windows(torch.from_numpy(ids + 1)[None], plan, 0, plan.count)[:, 0, ::8, ::8].numpy()
    expected = np.where(crops == 0, ids.max() + 1, crops - 1)  # padding is 0 among the pixels
    assert np.array_equal(found, expected)


def test_resizing_keeps_ids() -> None:
    ids = np.array([[0, 7], [9, 9]])
    assert np.array_equal(resize_map(ids, (4, 4))[[0, 3]], [[0, 0, 7, 7], [9, 9, 9, 9]])
    assert resize_map(ids, (2, 2)) is ids


@pytest.mark.parametrize("seed", range(8))
def test_merging_is_dbscan_with_one_sample_a_cluster(seed: int) -> None:
    """Against a plain search through the graph of regions, window by window."""
    rng = np.random.default_rng(seed)
    features = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(3, 60, 4))).float(), dim=-1)
    regions = torch.from_numpy(rng.integers(0, 9, (3, 60)))
    merged = merge_regions(features, regions, 9, 0.2)
    for f, r, found in zip(features, regions, merged, strict=True):
        ids = [int(i) for i in r.unique() if i > 0]
        means = {i: torch.nn.functional.normalize(f[r == i].mean(0), dim=0) for i in ids}
        largest = max(float(means[a] @ means[b]) for a in ids for b in ids)
        home: dict[int, int] = {0: 0}
        for start in ids:
            stack = [start] if start not in home else []
            while stack:
                a = stack.pop()
                if a in home:
                    continue
                home[a] = start
                stack += [b for b in ids if largest - float(means[a] @ means[b]) <= 0.2]
        assert found.tolist() == [home[int(i)] for i in r]


def test_scope_keeps_regions_apart_and_lets_the_unsegmented_look_around() -> None:
    similarity = torch.tensor([[[1.0, 0.1, 0.9], [0.1, 1.0, 0.2], [0.9, 0.2, 1.0]]])
    regions = torch.tensor([[1, 2, 0]])
    allowed = scope(similarity, similarity.mean()[None, None, None], regions, regions)[0]
    assert allowed.tolist() == [[True, False, True], [False, True, False], [True, False, True]]


@pytest.mark.parametrize("regions", ["one", "none", "many"])
@pytest.mark.parametrize("method", ["corrclip", "clip"])
def test_any_number_of_regions_gives_a_result(method: str, regions: str, tiny_clip: CLIP, second_weights: str) -> None:
    image = picture(64, 80)
    ids = {"one": np.ones((64, 80), int), "none": np.zeros((64, 80), int),
           "many": np.arange(64 * 80).reshape(64, 80)}[regions]  # fmt: skip
    settings = Settings(method=method, slide_crop=64, slide_stride=32, map_correction=True, closing=False,
                        second_encoder=second_weights)  # fmt: skip
    result = Pipeline(tiny_clip, settings)([image], [(64, 80)], bank_of(64), {"felzenszwalb": [ids]})[0]
    assert result.scores.values.isfinite().all()
    assert (regions != "one") or len(result.labels.unique()) == 1


def test_one_colour_gives_a_result(tiny_clip: CLIP, second_weights: str) -> None:
    image = torch.zeros(3, 64, 64)
    for method in ("scclip", "resclip", "proxyclip", "corrclip"):
        settings = Settings(method=method, slide_crop=64, slide_stride=64, second_encoder=second_weights)
        regions = {"felzenszwalb": [np.zeros((64, 64), int)]}
        result = Pipeline(tiny_clip, settings)([image], [(64, 64)], bank_of(64), regions)[0]
        assert result.scores.values.isfinite().all()


def test_missing_region_maps_are_reported(tiny_clip: CLIP) -> None:
    pipeline = Pipeline(tiny_clip, Settings(method="clip", map_correction=True))
    with pytest.raises(ItaclipError, match=r"regions of felzenszwalb are read"):
        pipeline([picture(64, 64)], [(64, 64)], bank_of(64))


def test_the_segmenter_supports_every_method(second_weights: str, tmp_path: Path) -> None:
    segmenter = Segmenter("demo", "fast", text_cache=False, second_encoder=second_weights)
    segmenter.set_classes(["stripes", "dots"])
    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    for method in ("scclip", "resclip", "proxyclip", "corrclip"):
        assert segmenter(image, method=method, map_correction=True).labels.shape == (60, 90)
    with pytest.raises(ItaclipError, match=r"method 'resclip' has no option 'threshhold'.*Did you mean 'threshold'"):
        segmenter(image, method="resclip", method_options={"threshhold": 0.3})
    with pytest.raises(ItaclipError, match=r"method 'scclip' has no option 'residual'"):
        segmenter(image, method="scclip", residual=False)
    with pytest.raises(ItaclipError, match="masks"):
        segmenter(image, method="corrclip", regions=str(tmp_path))
    with pytest.raises(ItaclipError, match="no-such-encoder"):
        segmenter(image, method="proxyclip", second_encoder="no-such-encoder")
