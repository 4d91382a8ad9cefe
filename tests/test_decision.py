"""Many classes: labels and scores do not depend on the blocks in which maps are read, and memory is bounded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from itaclip import Segmenter
from itaclip.core import decision, query_maps
from itaclip.core.clip.openai import CLIP
from itaclip.core.decision import decide
from itaclip.core.pamr import Refinement, pamr
from itaclip.core.pipeline import Pipeline, Segmentation
from itaclip.core.query_maps import PatchLogits, QueryMaps
from itaclip.core.scores import Kept
from itaclip.core.settings import Settings
from itaclip.core.text import TextBank, parse_class_names
from itaclip.core.windows import WindowPlan, stitch
from itaclip.errors import ItaclipError

SIZE = (61, 50)
PLAN = WindowPlan.of((70, 90), crop=48, stride=20, patch=16)


def units(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


@pytest.mark.parametrize("as_features", [False, True], ids=["logits", "features"])
@pytest.mark.parametrize("held", [1 << 28, 0], ids=["held", "in blocks"])
@pytest.mark.parametrize(("classes", "most"), [(1, 1), (7, 1), (90, 2), (9, 40)])
@pytest.mark.parametrize(("area", "peak"), [(None, 0.0), (0.0, 0.0), (0.05, 0.0), (None, 0.3), (0.05, 0.3)])
def test_any_blocks_give_the_plain_decision(
    classes: int,
    most: int,
    area: float | None,
    peak: float,
    held: int,
    as_features: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(query_maps, "HELD", held)
    counts = [1 + i * 7 % most for i in range(classes)]
    text, features, guide = units(sum(counts), 16), units(PLAN.count, *PLAN.grid, 16), torch.randn(3, *SIZE)
    settings = Settings(logit_scale=10.0, area_thd=area, peak_thd=peak, prob_thd=0.15)
    logits = pamr(stitch(features @ text.T, PLAN, SIZE), guide, 2, (2, 4))
    query_to_class = [k for k, count in enumerate(counts) for _ in range(count)]
    options = oracle.Options(scale=10.0, area_thd=area, peak_thd=peak, prob_thd=0.15)
    expected, labels = oracle.decide(logits, query_to_class, options)

    patches = PatchLogits(features, text) if as_features else PatchLogits(features @ text.T)
    maps = QueryMaps(patches, PLAN, SIZE, counts, Refinement(guide, 2, (2, 4)))
    found, scores = decide(maps, settings, "full")
    np.testing.assert_array_equal(found.numpy(), labels)
    assert scores.full is not None
    close = {"atol": 2e-6, "rtol": 0}
    torch.testing.assert_close(scores.full, expected, **close)
    torch.testing.assert_close(scores.own, expected.gather(0, found[None])[0], **close)
    left = scores.classes >= 0  # not dropped
    torch.testing.assert_close(scores.values, expected.topk(min(classes, 2), 0).values, **close)
    named = expected.gather(0, scores.classes.clamp(min=0).long())
    torch.testing.assert_close(scores.values[left], named[left], **close)
    assert not scores.values[~left].any()


def test_the_best_five_are_the_first_of_all() -> None:
    torch.manual_seed(0)
    maps = QueryMaps(PatchLogits(units(PLAN.count, *PLAN.grid, 30)), PLAN, SIZE, [1] * 30)
    _, five = decide(maps, Settings(), 5)
    labels, scores = decide(maps, Settings(), "full")
    assert scores.full is not None
    assert five.full is None
    values, order = scores.full.topk(5, 0)
    torch.testing.assert_close(five.values, values)
    assert (five.classes == order).float().mean() > 0.999
    torch.testing.assert_close(five.own, scores.full.gather(0, labels[None])[0])


def bank_of(counts: Sequence[int], width: int = 64) -> TextBank:
    lines = [", ".join(f"c{i} w{j}" for j in range(count)) for i, count in enumerate(counts)]
    generator = torch.Generator().manual_seed(1)
    features = F.normalize(torch.randn(sum(counts), width, generator=generator), dim=-1)
    return TextBank(features, parse_class_names(lines))


def picture() -> Tensor:
    coarse = torch.randn(1, 3, 8, 10, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=(80, 104), mode="bicubic")[0]


REGIONS = {"felzenszwalb": [np.arange(80 * 104).reshape(80, 104) // 500]}
BASE = Settings(slide_crop=64, slide_stride=40, pamr_steps=2, pamr_stride=(2, 4))
VARIANTS = {
    "plain": BASE.changed(img_engineering=False),
    "views, area rule": BASE.changed(area_thd=0.03, prob_thd=0.05),
    "adaptive, map correction": BASE.changed(tolerance=0.02, map_correction=True),
    "shortlist": BASE.changed(img_engineering=False, shortlist=20),
    "whole images": BASE.changed(method="ovstitcher", second_encoder="demo", img_engineering=False),
}


@pytest.fixture(scope="module", params=[[1, 3, 2] * 14, [1] * 150], ids=["84 queries", "150 queries"])
def both(request: pytest.FixtureRequest, tiny_clip: CLIP) -> tuple[TextBank, list[Segmentation], list[Segmentation]]:
    """All variants with their maps kept and in blocks; 150 queries are more than twice the features."""
    bank, found = bank_of(request.param), []
    pipeline = Pipeline(tiny_clip, VARIANTS["plain"])
    for held in (query_maps.HELD, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(query_maps, "HELD", held)
            pairs = [(settings, bank) for settings in VARIANTS.values()]
            results = {v: r for _, v, r in pipeline.variants([picture()], [(80, 104)], pairs, REGIONS, "full")}
            found.append([results[v] for v in range(len(pairs))])
    return bank, *found


@pytest.mark.parametrize("number", range(len(VARIANTS)), ids=list(VARIANTS))
def test_images_in_blocks_are_the_same(
    number: int, both: tuple[TextBank, list[Segmentation], list[Segmentation]]
) -> None:
    _, kept, in_blocks = both
    one, other = kept[number], in_blocks[number]
    assert len(one.labels.unique()) > 3
    assert torch.equal(one.labels, other.labels)
    assert one.passes == other.passes
    assert one.scores.full is not None
    torch.testing.assert_close(one.scores.full, other.scores.full)
    torch.testing.assert_close(one.scores.own, one.scores.full.gather(0, one.labels[None])[0])
    torch.testing.assert_close(one.scores.own, other.scores.own)


def test_a_shortlist_changes_few_labels_and_scores_the_others_zero(
    both: tuple[TextBank, list[Segmentation], list[Segmentation]], tiny_clip: CLIP
) -> None:
    bank, (plain, *others), _ = both
    short = others[list(VARIANTS).index("shortlist") - 1]
    assert (plain.labels == short.labels).float().mean() > 0.98
    assert short.scores.full is not None
    assert short.scores.full.flatten(1).any(1).sum() <= 20
    whole = VARIANTS["plain"].changed(shortlist=bank.num_classes)
    (result,) = Pipeline(tiny_clip, whole)([picture()], [(80, 104)], bank)
    assert torch.equal(result.labels, plain.labels)


class Largest(TorchDispatchMode):
    """The largest tensor that is made, in values."""

    found = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.found = max(self.found, result.untyped_storage().nbytes() // 4)
        return result


def test_no_tensor_grows_with_the_classes(tiny_clip: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_maps, "HELD", 1 << 20)
    settings = BASE.changed(pamr_steps=1, img_engineering=False, area_thd=0.01)
    pipeline, largest = Pipeline(tiny_clip, settings), []
    for classes in (200, 2000):
        bank = bank_of([1] * classes)
        with Largest() as watch:
            pipeline([picture()], [(80, 104)], bank)
        largest.append(watch.found)
    # the largest are the text bank, the weights, and what is ranked together
    assert largest[1] <= max(largest[0], 2000 * 64, decision._TOGETHER)


@pytest.mark.parametrize("kept", [0, -1, True, "all", None, 1.5])
def test_what_is_kept_of_the_scores_is_checked(kept: Kept, quick: Segmenter) -> None:
    words = quick.prepare(["house"])
    with pytest.raises(ItaclipError, match=f"scores = {kept!r}: expected 'full', or how many"):
        quick(np.zeros((9, 9, 3), np.uint8), words, scores=kept)
