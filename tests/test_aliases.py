"""Words of a class weighted by the window, against a plain loop over windows, patches and classes."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.apps.raster.segment import _check_settings
from itaclip.core.aliases import class_logits
from itaclip.core.clip.openai import CLIP
from itaclip.core.pipeline import Pipeline
from itaclip.core.query_maps import PatchLogits
from itaclip.core.settings import Settings
from itaclip.core.text import TextBank, parse_class_names
from itaclip.errors import ItaclipError

COUNTS = (3, 1, 2, 40)


def plainly(features: Tensor, text: Tensor, counts: tuple[int, ...], scale: float, tem: float, tau: float) -> Tensor:
    found = torch.empty(*features.shape[:3], len(counts), dtype=torch.float64)
    for n, window in enumerate(features.double()):
        whole = F.normalize(window.reshape(-1, window.shape[-1]).mean(0), dim=0)
        first = 0
        for number, count in enumerate(counts):
            aliases = text[first : first + count].double()
            weights = torch.softmax(torch.stack([whole @ alias for alias in aliases]) / tem, 0)
            for y in range(window.shape[0]):
                for x in range(window.shape[1]):
                    scores = [
                        scale * float(window[y, x] @ alias) * float(weight) / float(weights.mean())
                        for alias, weight in zip(aliases, weights, strict=True)
                    ]
                    highest = max(scores)
                    total = sum(math.exp(tau * (score - highest)) for score in scores)
                    found[n, y, x, number] = highest + math.log(total) / tau
            first += count
    return found


@pytest.mark.parametrize(("tem", "tau"), [(0.3, 3), (1, 4), (10, 5), (0.01, 50), (5, 0.2)])
def test_equal_to_a_loop(tem: float, tau: float) -> None:
    generator = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(3, 4, 5, 16, generator=generator) + 0.5, dim=-1)
    text = F.normalize(torch.randn(sum(COUNTS), 16, generator=generator), dim=-1)
    found = class_logits(PatchLogits(features, text), COUNTS, 40, tem, tau)
    assert found.text is None
    torch.testing.assert_close(40 * found.values.double(), plainly(features, text, COUNTS, 40, tem, tau),
                               atol=2e-4, rtol=1e-5)  # fmt: skip


def test_many_windows_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    features, text = torch.randn(7, 3, 3, 8), torch.randn(sum(COUNTS), 8)
    whole = class_logits(PatchLogits(features, text), COUNTS, 40, 1, 2).values
    monkeypatch.setattr("itaclip.core.aliases._TOGETHER", 1)
    torch.testing.assert_close(class_logits(PatchLogits(features, text), COUNTS, 40, 1, 2).values, whole)


@pytest.fixture
def images() -> list[Tensor]:
    return [torch.randn(3, 240, 300), torch.randn(3, 90, 150)]


SIZES = [(120, 150), (45, 75)]


def bank_of(lines: list[str]) -> TextBank:
    classes = parse_class_names(lines)
    generator = torch.Generator().manual_seed(1)
    return TextBank(F.normalize(torch.randn(len(classes.queries), 64, generator=generator), dim=-1), classes)


def run(clip: CLIP, images: list[Tensor], bank: TextBank, **settings: Any) -> list[Any]:
    return Pipeline(copy.deepcopy(clip), Settings(**settings))(images, SIZES, bank, scores="full")


@pytest.mark.parametrize("method", ["itaclip", "ovstitcher", "maskclip"])
def test_classes_of_one_word_are_as_ever(method: str, images: list[Tensor], tiny_clip: CLIP) -> None:
    """With any method; with views too, whose features are mixed as logits are."""
    bank = bank_of(["sky", "cat", "cup"])
    options = dict(method=method, pamr_steps=2, img_engineering=True, second_encoder="demo", regions="slic")
    pipeline = Pipeline(copy.deepcopy(tiny_clip), Settings(**options))
    regions = pipeline.region_maps([pipeline.settings], [im.permute(1, 2, 0).mul(30).byte().numpy() for im in images],
                                   [None, None])  # fmt: skip
    plain = pipeline(images, SIZES, bank, regions, scores="full")
    changed = Pipeline(copy.deepcopy(tiny_clip), Settings(**options, alias_temperature=0.3, alias_sharpness=4))
    for one, other in zip(plain, changed(images, SIZES, bank, regions, scores="full"), strict=True):
        torch.testing.assert_close(one.scores.full, other.scores.full, atol=1e-5, rtol=1e-4)


def test_words_of_a_class_count_together(images: list[Tensor], tiny_clip: CLIP) -> None:
    """And variants, which share what they can, give what the pipeline gives; also after a first look."""
    bank = bank_of(["background, wall, floor", "cat, kitten", "cup"])
    asked = [
        dict(), dict(alias_temperature=1.0), dict(alias_temperature=1.0, alias_sharpness=9.0),
        dict(alias_temperature=1.0, shortlist=2), dict(alias_temperature=1.0, logit_scale=90.0),
    ]  # fmt: skip
    singles = [run(tiny_clip, images, bank, **settings) for settings in asked]
    pipeline = Pipeline(copy.deepcopy(tiny_clip), Settings())
    together = list(
        pipeline.variants(images, SIZES, [(Settings(**settings), bank) for settings in asked], scores="full")
    )
    assert len(together) == len(asked) * len(images)
    for image, number, found in together:
        torch.testing.assert_close(found.scores.full, singles[number][image].scores.full, atol=1e-5, rtol=1e-4)
        assert found.scores.full.shape[0] == 3
    different = [not torch.equal(singles[0][0].scores.full, other[0].scores.full) for other in singles[1:]]
    assert all(different)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(alias_temperature=0.0), "alias_temperature = 0.0: expected None, or positive"),
        (dict(alias_temperature=math.inf), "alias_temperature = inf: expected None, or positive"),
        (dict(alias_sharpness=-1.0), "alias_sharpness = -1.0: expected positive"),
        (dict(alias_temperature=1.0, tolerance=0.1, img_engineering=True), "expected None with tolerance"),
        (dict(alias_temperature=1.0, method="sam3"), "expected None with method = 'sam3'"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ItaclipError, match=message):
        Settings(**settings)


def test_rasters_refuse_it() -> None:
    with pytest.raises(ItaclipError, match=r"alias_temperature = 1\.0: expected None for rasters"):
        _check_settings(Settings(alias_temperature=1.0), 224)
