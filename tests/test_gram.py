"""Regions from a second encoder's tokens: every step against loops, whole maps, and methods that read them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from itaclip import ItaclipError, Segmenter
from itaclip.common.demo.scenes import draw_scene
from itaclip.core.images import normalise
from itaclip.core.regions import region_source
from itaclip.core.regions.gram import SEEDINGS, GramRegions, farthest_points, grid_of, joined_regions, region_shares
from itaclip.core.resizing import resize
from itaclip.core.second_encoders import load_second_encoder
from itaclip.research.benchmark.segmenters import region_seconds
from itaclip.research.evaluation.identity import _prefixed


@pytest.fixture
def few_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coarser grid, because the bundled encoder is not tiny."""
    for name, seeding in SEEDINGS.items():
        monkeypatch.setitem(SEEDINGS, name, replace(seeding, patches=12))


IMAGE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


def unit(count: int, width: int = 8, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).cumsum(0), dim=1)


def points_plainly(tokens: NDArray[np.float64], count: int) -> list[int]:
    mean = tokens.mean(0)
    chosen = [int(np.argmax([1 - token @ mean / np.linalg.norm(mean) for token in tokens]))]
    while len(chosen) < count:
        chosen.append(int(np.argmax([min(1 - token @ tokens[seed] for seed in chosen) for token in tokens])))
    return chosen


def shares_plainly(tokens: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    centres = [tokens[seed] for seed in points_plainly(tokens, count)]
    for _ in range(2):
        shares = np.exp([[centre @ token / 0.07 for token in tokens] for centre in centres])
        shares /= shares.sum(0)
        means = [sum(share * token for share, token in zip(row, tokens, strict=True)) for row in shares]
        centres = [mean / np.linalg.norm(mean) for mean in means]
    return shares


@pytest.mark.parametrize("count", [1, 5, 30])
def test_seeds_and_shares_are_the_plain_ones(count: int) -> None:
    tokens = unit(30)
    assert farthest_points(tokens, count).tolist() == points_plainly(tokens.double().numpy(), count)
    shares = region_shares(tokens, count, 0.07)
    assert np.abs(shares.numpy() - shares_plainly(tokens.double().numpy(), count)).max() < 1e-4
    torch.testing.assert_close(shares.sum(0), torch.ones(30))


def test_alike_regions_of_one_coarse_region_join() -> None:
    tokens = torch.eye(3)[torch.tensor([[0, 0, 1, 1], [2, 2, 1, 1]])].movedim(2, 0)  # C x 2 x 4
    fine = F.one_hot(torch.tensor([[0, 1, 2, 3], [4, 4, 2, 3]]), 5).movedim(2, 0).float()
    coarse = F.one_hot(torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1]]), 2).movedim(2, 0).float()
    found = joined_regions(fine, tokens, coarse, 0.6)
    # 0 and 1 join, 2 and 3 join; 4 lies in the first coarse region, whose mean (1, 0, 1) has a cosine of 0.71 with both
    assert len(found) == 2
    apart = joined_regions(fine, tokens, coarse, 0.8)
    assert len(apart) == 4  # now only 2 and 3 resemble their coarse region
    for shares in (found, apart):
        torch.testing.assert_close(shares.sum(0), torch.ones(2, 4))
    assert apart.argmax(0)[:, 2:].unique().numel() == 1


@pytest.mark.parametrize("name", SEEDINGS)
def test_a_map_covers_every_pixel(name: str, second_weights: str) -> None:
    source = region_source(f"{name}:{second_weights}")
    assert isinstance(source, GramRegions)
    regions = source(IMAGE, "x.jpg")
    assert (regions.shape, regions.dtype) == ((50, 70), np.int32)
    assert np.array_equal(np.unique(regions), np.arange(1, regions.max() + 1))
    assert 1 < regions.max() <= 64
    assert np.array_equal(regions, source(IMAGE))
    assert source.name == f"{name}:{second_weights}"
    for shape in ((1, 1), (3, 200)):
        assert source(np.zeros((*shape, 3), np.uint8)).shape == shape
    assert source(np.full((30, 40, 3), 7, np.uint8)).min() == 1
    with pytest.raises(ItaclipError, match=r"a\.jpg: has shape \(5, 5\)"):
        source(np.zeros((5, 5), np.uint8), "a.jpg")


def test_the_fast_map_is_the_plain_procedure(second_weights: str) -> None:
    encoder = load_second_encoder(second_weights)
    rows, columns = grid_of(IMAGE.shape[:2], 56)
    assert (rows, columns) == (40, 56)
    pixels = normalise(resize(IMAGE, (rows * 8, columns * 8)))
    tokens = encoder(pixels[None], ["tokens"]).tokens
    assert tokens is not None
    flat = F.normalize(tokens[0], dim=0).flatten(1).T.double().numpy()
    labels = shares_plainly_fast(flat, 64).argmax(0).reshape(rows, columns)
    expected = labels[np.arange(50)[:, None] * rows // 50, np.arange(70) * columns // 70]
    found = region_source(f"gram-fast:{second_weights}")(IMAGE)
    same = np.unique(np.stack([found.ravel(), expected.ravel()]), axis=1).shape[1]  # pairs of numbers that meet
    assert same <= found.max() + 2


def shares_plainly_fast(tokens: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """`shares_plainly` with NumPy's products, for thousands of tokens."""
    mean = tokens.mean(0)
    chosen = [int((1 - tokens @ mean / np.linalg.norm(mean)).argmax())]
    while len(chosen) < count:
        chosen.append(int((1 - tokens @ tokens[chosen].T).min(1).argmax()))
    centres = tokens[chosen]
    for _ in range(2):
        shares = np.exp(centres @ tokens.T / 0.07)
        shares /= shares.sum(0)
        centres = shares @ tokens
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    return shares


def test_refinement_follows_the_edges_of_the_image(few_patches: None) -> None:
    """Half black, half white: without PAMR the border of the regions is one of patches."""
    image = np.zeros((90, 90, 3), np.uint8)
    image[:, 37:] = 255
    image[50:] = np.maximum(image[50:], 90)
    across = {name: edges(region_source(f"{name}:demo")(image)) for name in SEEDINGS}
    at_the_border = {name: found[:, 36].mean() / found.mean() for name, found in across.items()}
    assert at_the_border["gram"] > 2 * at_the_border["gram-fast"], at_the_border


def edges(regions: NDArray[np.int32]) -> NDArray[np.bool_]:
    return regions[:, 1:] != regions[:, :-1]


def test_fingerprints_tell_settings_and_encoders_apart(second_weights: str) -> None:
    specs = ("gram:demo", "gram-fast:demo", f"gram:{second_weights}")
    found = [region_source(spec).fingerprint for spec in specs]
    assert len(set(found)) == 3
    assert region_source("gram:demo").fingerprint == found[0]
    # stored scores follow the weights, not their path
    assert len({_prefixed(spec) for spec in (*specs, "slic", None)}) == 5
    assert second_weights not in str(_prefixed(f"gram:{second_weights}"))


@pytest.mark.parametrize("method", ["corrclip", "ovstitcher"])
def test_methods_run_without_sam2(method: str, few_patches: None, tmp_path: Path) -> None:
    scene = draw_scene((96, 128), np.random.default_rng(2)).image
    segmenter = Segmenter(
        "demo", "fast", method=method, regions="gram:demo", map_correction=True, pamr_steps=0, short_side=64
    )
    segmenter.set_classes(["sky", "grass, lawn", "house", "tree"])
    result = segmenter(scene)
    # map correction: one label a region
    regions = region_source("gram:demo")(scene)
    assert len(np.unique(np.stack([regions.ravel(), result.labels.ravel()]), axis=1)[0]) == regions.max()
    if method == "corrclip":
        segmenter.save_pretrained(tmp_path)
        assert np.array_equal(Segmenter.from_pretrained(tmp_path)(scene).labels, result.labels)


def test_an_unknown_encoder() -> None:
    with pytest.raises(ItaclipError, match="second encoder 'nothing'"):
        region_source("gram:nothing")
    with pytest.raises(ItaclipError, match="Did you mean 'gram'"):
        region_source("gramm")


def test_sources_are_timed_side_by_side() -> None:
    rows = region_seconds({name: region_source(name) for name in ("slic", "felzenszwalb")}, IMAGE, repeats=1)
    assert [(row["regions"], row["ratio"] > 0, row["found"] > 0) for row in rows] == [
        ("slic", True, True), ("felzenszwalb", True, True),
    ]  # fmt: skip
    assert rows[0]["ratio"] == 1
