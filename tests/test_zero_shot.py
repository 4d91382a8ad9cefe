"""Cascade-CLIP and CLIP-RC: recorded outputs, plain oracles, labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from zero_shot_helpers import GOLDEN, METHODS, UNSEEN, batch, run_tool, samples, small_model, total

from itaclip.errors import ItaclipError
from itaclip.research.comparison.reference import compare
from itaclip.research.zero_shot import losses, recorded
from itaclip.research.zero_shot.classes import ClassSplit, label_table
from itaclip.research.zero_shot.decoder import mean_logits, split_heads
from itaclip.research.zero_shot.inference import segment
from itaclip.research.zero_shot.losses import mask_losses
from itaclip.research.zero_shot.plain import plain_mask_losses
from itaclip.research.zero_shot.region_encoder import region_mask
from itaclip.research.zero_shot.settings import WindowSettings
from itaclip.research.zero_shot.training import pseudo_labels

# --- recorded outputs of the published code ----------------------------------


@pytest.mark.parametrize(("name", "count"), [("cascade_clip", 54), ("clip_rc", 56)])
def test_every_recorded_quantity_matches(name: str, count: int) -> None:
    stages = compare(GOLDEN / f"{name}_seed0.npz")
    assert len(stages) == count
    assert [stage for stage in stages if not stage.passed] == []


@pytest.mark.parametrize("name", METHODS)
def test_recordings_leave_nothing_uncompared(name: str) -> None:
    arrays = dict(np.load(GOLDEN / f"{name}_seed0.npz"))
    compared = {row[0] for row in recorded.compare(arrays)}
    left = {key for key in arrays if key not in compared and not key.startswith("in/") and not key.endswith("_json")}
    assert left <= {"seed", "loss_case/logits", "loss_case/label"}


@pytest.mark.parametrize("name", METHODS)
def test_a_wrong_parameter_is_detected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = dict(np.load(GOLDEN / f"{name}_seed0.npz"))
    right = recorded.make_state

    def wrong(given: Any) -> dict[str, torch.Tensor]:
        state = right(given)
        weight = state["backbone.prompt_norm.weight"]
        return {**state, "backbone.prompt_norm.weight": weight * torch.linspace(0.99, 1.01, len(weight))}

    monkeypatch.setattr(recorded, "make_state", wrong)
    failed = {row[0] for row in recorded.compare(arrays) if row[1] > row[2]}
    assert {"backbone/global", "head/pred_masks", "train_inductive/total"} <= failed
    assert "loss_case/loss_mask" not in failed


def test_check_reference_accepts_the_recordings() -> None:
    done = run_tool("check_reference.py", GOLDEN / "clip_rc_seed0.npz")
    assert done.returncode == 0, done.stderr
    assert "recovery_loss_q" in done.stdout
    with pytest.raises(ItaclipError, match="--weights"):
        compare(GOLDEN / "itaclip_plain.npz")


# --- plain oracles of the fast paths -----------------------------------------


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000), classes=st.integers(1, 7), grid=st.tuples(st.integers(2, 5), st.integers(2, 5)),
    image_size=st.integers(6, 20), size=st.tuples(st.integers(5, 18), st.integers(5, 18)),
    per_step=st.integers(1, 2000), ignored=st.floats(0, 1),
)  # fmt: skip
def test_losses_and_gradients_equal_the_plain_implementation(
    seed: int,
    classes: int,
    grid: tuple[int, int],
    image_size: int,
    size: tuple[int, int],
    per_step: int,
    ignored: float,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (4 * torch.randn(3, classes, *grid, generator=generator)).requires_grad_()
    labels = torch.randint(0, classes, (3, *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < ignored] = 255
    labels[2] = 255
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(losses._PIXELS_PER_STEP, "cpu", per_step)
        fast = mask_losses(logits, labels, image_size)
    plain = plain_mask_losses(logits, labels, image_size)
    for ours, theirs in ((fast.focal, plain.focal), (fast.dice, plain.dice)):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        found, expected = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (ours, theirs))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(fast.accuracy, plain.accuracy, rtol=1e-6, atol=1e-4)


def test_losses_store_no_mask_of_the_batch() -> None:
    logits = torch.randn(2, 64, 8, 8, requires_grad=True)
    labels = torch.randint(0, 64, (2, 256, 256))
    kept: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        mask_losses(logits, labels, 256)
    assert max(kept) <= 2 * logits.numel()


def test_mean_logits_are_the_mean_over_heads() -> None:
    q, k = torch.randn(2, 5, 24), torch.randn(2, 7, 24)
    explicit = (split_heads(q, 4) @ split_heads(k, 4).transpose(-1, -2) / 6**0.5).mean(1)
    torch.testing.assert_close(mean_logits(q, k, 4), explicit)


def test_region_mask_follows_the_published_table() -> None:
    side, across, first = 6, 2, 3
    mask = region_mask(side, across, first)
    patches, tokens = side**2, 3 + 36 + 4
    assert mask.shape == (tokens, tokens)

    def region(patch: int) -> int:
        return across * (patch // side // 3) + patch % side // 3

    for query in range(tokens):
        for key in range(tokens):
            q, k = query - first, key - first
            if k < 0:
                allowed = q < patches
            elif k < patches:
                allowed = q < patches or region(k) == q - patches
            else:
                allowed = q >= 0 and (q == k if q >= patches else region(q) == k - patches)
            assert bool(mask[query, key]) == allowed, (query, key)


def test_region_masks_are_means_over_regions() -> None:
    model = small_model("clip_rc").eval()
    text = model.text_features
    with torch.no_grad():
        features = model.backbone(batch()[0])
        head = model.decode_head
        query, lateral = head.decode(head.q_proj(head.raw_queries(features, text)),
                                     head.lateral_proj(head.raw_laterals(features)))  # fmt: skip
        explicit = torch.einsum("brke,bne->brkn", query.unflatten(1, (4, len(text))), lateral).mean(1)
        torch.testing.assert_close(head(features, text)[0].flatten(2), explicit, rtol=1e-4, atol=1e-4)


def test_windows_are_averaged_where_they_overlap() -> None:
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(3, 20, 29, generator=generator)
    shifts = torch.tensor([0.1, 0.0])

    def logits_of(windows: torch.Tensor) -> torch.Tensor:  # two classes determined by the pixels
        return F.avg_pool2d(windows, 4)[:, :2] * 3

    found = segment(image, (15, 22), logits_of, 16, 4, WindowSettings(stride=12, per_batch=2), shifts)
    total_scores, visits = torch.zeros(2, 20, 29), torch.zeros(20, 29)
    for top in (0, 4):
        for left in (0, 12, 13):
            part = image[None, :, top : top + 16, left : left + 16]
            scores = F.interpolate(logits_of(part), size=(16, 16), mode="bilinear").sigmoid()[0] - shifts[:, None, None]
            total_scores[:, top : top + 16, left : left + 16] += scores
            visits[top : top + 16, left : left + 16] += 1
    expected = F.interpolate((total_scores / visits)[None], size=(15, 22), mode="bilinear")[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_gradient_checkpointing_changes_no_gradient(name: str) -> None:
    images, labels = batch()
    found = []
    for switch in (False, True):
        model = small_model(name, encoder={"gradient_checkpointing": switch}).train()
        torch.manual_seed(5)  # dropout
        total(model.loss(images, samples(labels))).backward()
        found.append({key: p.grad for key, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for key, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][key], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_stays_close(name: str) -> None:
    images, labels = batch()
    values = []
    for precision in ("fp32", "bf16"):
        model = small_model(name, dropout=0.0, precision=precision).train()
        loss = total(model.loss(images, samples(labels)))
        loss.backward()
        assert model.backbone.prompt_embeddings.grad.dtype == torch.float32
        values.append(loss.item())
    assert values[0] != values[1]  # it is in use
    # untrained region tokens, all equal at the start, amplify rounding from block to block
    assert values[1] == pytest.approx(values[0], rel=0.02 if name == "cascade_clip" else 0.15)


# --- labels ------------------------------------------------------------------


def test_labels_become_ranks_of_seen_classes_or_keep_their_numbers() -> None:
    split = ClassSplit.of("abcdef", unseen=[1, 4])
    inductive = label_table(split, "inductive")
    assert inductive[[0, 2, 3, 5]].tolist() == [0, 1, 2, 3]
    assert inductive[[1, 4, 6, 200, 255]].tolist() == [255] * 5
    assert label_table(split, "transductive")[[0, 1, 2, 5, 255]].tolist() == [0, 255, 2, 5, 255]
    assert label_table(split.for_training("fully"), "fully")[:7].tolist() == [0, 1, 2, 3, 4, 5, 255]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("mode", ["inductive", "transductive"])
def test_poisoned_unseen_labels_change_nothing(name: str, mode: str) -> None:
    """Inductive: an unseen label is equivalent to 255. Transductive: the specific unseen class is never used."""
    images, labels = batch(3)
    unseen = torch.isin(labels, torch.arange(24, 29))
    assert unseen.float().mean() > 0.1
    poison = torch.randint(24, 29, labels.shape, generator=torch.Generator().manual_seed(9))
    variants = [labels, torch.where(unseen, poison, labels)]
    if mode == "inductive":
        variants.append(torch.where(unseen, 255, labels))
    results = []
    for raw in variants:
        model = small_model(name, mode=mode).train()
        torch.manual_seed(1)
        found = model.loss(images, samples(raw))
        total(found).backward()
        results.append(({k: v.item() for k, v in found.items()}, model.backbone.deep_prompt_embeddings.grad))
    for values, gradient in results[1:]:
        assert values == results[0][0]
        assert torch.equal(gradient, results[0][1])


def test_inductive_head_never_sees_unseen_texts() -> None:
    images, labels = batch()
    values = []
    for poison in (0.0, 1e6):
        model = small_model("cascade_clip", dropout=0.0).train()
        model.text_features[24:] += poison
        values.append(total(model.loss(images, samples(labels))).item())
    assert values[0] == values[1]


def test_pseudo_labels_are_the_best_unseen_class_of_every_pixel() -> None:
    split = ClassSplit.of("abcdef", unseen=[1, 4])
    logits = torch.randn(2, 6, 3, 3, generator=torch.Generator().manual_seed(2))
    found = pseudo_labels(logits, split, 12, (12, 12))
    scores = F.interpolate(logits, size=(12, 12), mode="bilinear").sigmoid()
    scores[:, [0, 2, 3, 5]] = -1
    assert torch.equal(found, scores.argmax(1))


@pytest.mark.parametrize(
    ("unseen", "seen", "message"),
    [
        (["c", "b"], ["a", "b"], "'b' is both seen and unseen"),
        (["c"], ["a"], "'b' is neither seen nor unseen"),
        (["d"], None, "'d' is not one of the 3 classes"),
        ([3], None, "3 is not one of the 3 classes"),
        (["a", 0], None, "listed twice"),
        (["a", "b", "c"], None, "no seen classes"),
    ],
)
def test_bad_splits_are_rejected(unseen: list[Any], seen: list[Any] | None, message: str) -> None:
    with pytest.raises(ItaclipError, match=message):
        ClassSplit.of("abc", unseen, seen)


def test_bad_settings_are_rejected() -> None:
    for options, message in (
        ({"mode": "induction"}, "mode = 'induction'.*inductive"),
        ({"unseen": ()}, "needs unseen classes"),
        ({"encoder": {"image_size": 33}}, "image_size = 33.*patch size 8"),
        ({"encoder": {"regions": 9}}, "3 x 3 regions do not divide 4 x 4"),
        ({"encoder": {"regions": 5}}, "regions = 5.*square"),
        ({"encoder": {"promts": 5}}, "promts.*'prompts'"),
        ({"loss": {"mask": -1.0}}, "mask = -1.0"),
        ({"templates": "many"}, "templates = 'many'"),
        ({"words": {"heaven": "sky"}}, "'heaven'"),
        ({"precision": "fp8"}, "precision = 'fp8'"),
    ):
        with pytest.raises(ItaclipError, match=message):
            small_model("clip_rc", **options)
    with pytest.raises(ItaclipError, match="cascade_clip, clip_rc"):
        small_model("cascade")


def test_seen_classes_are_shifted_but_not_after_self_training() -> None:
    images, _ = batch()
    with torch.no_grad():
        scores = {mode: small_model("clip_rc", mode=mode).eval().encode_decode(images)
                  for mode in ("inductive", "transductive", "fully")}  # fmt: skip
    shift = scores["transductive"] - scores["inductive"]
    torch.testing.assert_close(shift[:, :24], torch.full_like(shift[:, :24], 0.1))
    assert shift[:, 24:].abs().max() == 0
    assert torch.allclose(scores["fully"], scores["transductive"] - 0.1)


def test_clip_rc_accepts_only_windows_of_its_size() -> None:
    with pytest.raises(ItaclipError, match="24 x 32 pixels: CLIP-RC requires 32 x 32"):
        small_model("clip_rc").eval().predict(torch.zeros(1, 3, 24, 40))
    with pytest.raises(ItaclipError, match="24 x 32 pixels"):
        small_model("cascade_clip").eval().predict(torch.zeros(1, 3, 24, 40))


def test_unseen_names_of_the_demo_are_those_of_the_configuration() -> None:
    from mmengine.config import Config
    from zero_shot_helpers import ROOT

    assert tuple(Config.fromfile(ROOT / "configs/zero_shot/data_demo.py").unseen) == UNSEEN
