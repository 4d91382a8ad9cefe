"""RF-CLIP: its parts and all of it against a plain version, and what it reads of the whole image."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from test_methods import bank_of, picture

from itaclip.core.clip.blocks import Projections, attend
from itaclip.core.clip.open_clip_modules import as_open_clip
from itaclip.core.clip.openai import CLIP
from itaclip.core.encoder import DenseEncoder
from itaclip.core.methods import RFCLIP, Window, rfclip
from itaclip.core.methods.rfclip import clusters, denoised, find_sinks, leading, refocused
from itaclip.core.pipeline import Pipeline
from itaclip.core.settings import Settings
from itaclip.errors import ItaclipError
from itaclip.research.benchmark import plain_rfclip

CHANNELS = (3, 17, 40)


@pytest.fixture(scope="module")
def with_sinks(tiny_clip: CLIP) -> CLIP:
    """The stand-in with two places whose tokens stand out in a channel, as those of trained models do."""
    clip = copy.deepcopy(tiny_clip)
    with torch.no_grad():
        clip.visual.positional_embedding[[4, 9], CHANNELS[1]] += 50
    return clip


@pytest.mark.parametrize("method", [
    RFCLIP(sink_channels=CHANNELS, text_step=0.3, text_distance=0.9, class_weight=0.25),
    RFCLIP(sink_channels=CHANNELS, text_step=0.0, class_weight=0.0),
    RFCLIP(),
])  # fmt: skip
def test_it_is_the_plain_version(method: RFCLIP, with_sinks: CLIP) -> None:
    encoder = DenseEncoder(with_sinks.visual, method)
    side = encoder.image_size
    pixels = torch.stack([picture(side, side, seed) for seed in (0, 1)])
    text = F.normalize(torch.randn(7, encoder.channels, generator=torch.Generator().manual_seed(0)).cumsum(0), dim=-1)
    found = encoder.tokens(pixels, [(method, Window(pixels, text))])[0]
    visual = as_open_clip(with_sinks).visual
    grid = (side // encoder.patch_size,) * 2
    with torch.no_grad():
        plain = [plain_rfclip.rfclip(visual, method, Window(one[None], text), grid) for one in pixels]
    torch.testing.assert_close(found, torch.stack(plain), atol=1e-4, rtol=0)


def test_sinks_are_denoised_and_others_stay() -> None:
    patches = torch.rand(2, 12, 48, generator=torch.Generator().manual_seed(0))
    patches[0, 5, 17] = 9.0
    patches[1, 0, 5] = 9.0  # not one of the channels
    sinks = find_sinks(patches, CHANNELS)
    assert sinks.nonzero().tolist() == [[0, 5]]
    found = denoised(patches, (3, 4), CHANNELS)
    assert torch.equal(found[~sinks], patches[~sinks])
    plain = torch.stack([plain_rfclip.denoised(one, (3, 4), CHANNELS) for one in patches])
    torch.testing.assert_close(found, plain)


@pytest.mark.parametrize("distance", [0.0, 0.05, 0.3, 2.0])
def test_clusters_are_complete_linkage(distance: float) -> None:
    text = F.normalize(torch.randn(9, 6, generator=torch.Generator().manual_seed(1)).cumsum(0), dim=-1)
    found = clusters(text, distance)
    expected = {frozenset(members) for members in plain_rfclip.complete_linkage(text, distance)}
    assert {frozenset((found == number).nonzero()[:, 0].tolist()) for number in found.unique()} == expected
    assert clusters(text[:1], distance).tolist() == [0]


def test_one_text_of_each_cluster_leads() -> None:
    scores = torch.tensor([[0.1, 0.3, 0.2, 0.0], [0.5, 0.3, 0.1, 0.4]])
    found = leading(scores, torch.tensor([0, 0, 1, 1]))
    assert found.tolist() == [[False, True, True, False], [True, False, False, True]]


def test_refocusing_moves_attention_and_is_off_by_default() -> None:
    weights = torch.rand(1, 2, 9, 9, generator=torch.Generator().manual_seed(0)) + 1
    weights[0, 0, :, 4] = 4.0  # the first head looks at the sink, the second does not
    weights[0, 1, :, 4] = 0.01
    before = weights / weights.sum(-1, keepdim=True)
    one = torch.eye(9).expand(1, 2, 9, 9)  # keys and values that return what they are given
    p = Projections(3 * before.log(), one, one, torch.empty(0))  # scaled by 1 / sqrt(9)
    after = refocused(p, torch.arange(9)[None] == 4)
    torch.testing.assert_close(attend(p.query, p.key, p.value), before)
    torch.testing.assert_close(after[:, 1], before[:, 1])
    torch.testing.assert_close(after[:, 0, :, 4], 0.6 * before[:, 0, :, 4])
    torch.testing.assert_close(after.sum(-1), torch.ones(1, 2, 9))
    assert not RFCLIP().refocus


def test_refocusing_changes_the_result(with_sinks: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rfclip, "_HEAD_LEVEL", 0.0)  # the stand-in's heads hardly look at its sinks
    pixels = picture(224, 224)[None]  # of the size at which the table keeps its places
    window = Window(pixels, bank_of(64).features)
    plain, other = (
        DenseEncoder(with_sinks.visual, RFCLIP(sink_channels=CHANNELS, refocus=on))(pixels, window)
        for on in (False, True)
    )
    assert other.isfinite().all()
    assert (plain - other).abs().max() > 1e-4


def test_windows_read_the_class_token_of_the_image_or_their_own(tiny_clip: CLIP) -> None:
    image, bank = picture(80, 112), bank_of(64)
    settings = Settings(method="rfclip", img_engineering=False, slide_crop=64, slide_stride=48)
    logits = {}
    for token in ("image", "window"):
        pipeline = Pipeline(tiny_clip, settings.changed(method_options={"class_token": token}))
        (logits[token],) = pipeline.patch_logits([image], bank)
    assert (logits["image"] - logits["window"]).abs().max() > 1e-3
    # what "image" reads: the class token of the whole picture as one window
    method, encoder = pipeline.encoder.method, pipeline.encoder
    assert isinstance(method, RFCLIP)
    whole = method.image_feature(encoder.encode(image[None], method.needs(encoder.depth)))
    window = Window(image[None, :, :64, :64], bank.features, image=whole)
    expected = encoder.tokens(window.pixels, [(method, window)])[0]
    torch.testing.assert_close(logits["image"][0], expected[0], atol=1e-5, rtol=0)


def test_views_and_rounds_agree(tiny_clip: CLIP) -> None:
    """With a tolerance that is never met, adaptive inference ends at the logits of all views."""
    image, bank = picture(80, 112), bank_of(64)
    settings = Settings(method="rfclip", slide_crop=64, slide_stride=48)
    pipeline = Pipeline(tiny_clip, settings)
    whole = pipeline([image], [(80, 112)], bank)[0]
    other = Pipeline(tiny_clip, settings.changed(tolerance=1e-9))([image], [(80, 112)], bank)[0]
    torch.testing.assert_close(whole.scores.values, other.scores.values, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"text_step": 2.0}, "text_step = 2.0"), ({"class_token": "both"}, "expected 'image' or 'window'")],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ItaclipError, match=message):
        Settings(method="rfclip", method_options=options)


def test_channels_that_the_model_does_not_have(tiny_clip: CLIP) -> None:
    pixels = picture(64, 64)[None]
    with pytest.raises(ItaclipError, match="channels"):
        DenseEncoder(tiny_clip.visual, replace(RFCLIP(), sink_channels=(5000,)))(
            pixels, Window(pixels, bank_of(64).features)
        )
