"""Compare the trained methods with recorded outputs of the published implementations."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from itaclip.core.clip.openai import ImageTower, TransformerShape
from itaclip.errors import ItaclipError
from itaclip.research.preparation.masks import IGNORED
from itaclip.research.zero_shot.cascade_head import CascadeHead
from itaclip.research.zero_shot.checkpoints import load_parameters
from itaclip.research.zero_shot.classes import ClassSplit, label_table
from itaclip.research.zero_shot.inference import seen_shift, segment, window_scores
from itaclip.research.zero_shot.losses import mask_losses
from itaclip.research.zero_shot.network import METHODS, ZeroShotMethod
from itaclip.research.zero_shot.region_head import RegionHead
from itaclip.research.zero_shot.settings import MODES, EncoderSettings, HeadSettings, LossSettings, Mode, WindowSettings
from itaclip.research.zero_shot.training import training_losses

Row: TypeAlias = tuple[str, float, float]
"""Name of a quantity, largest difference, tolerance."""

FEATURES, LOSSES, GRADIENTS = 1e-4, 1e-5, 1e-4
"""Tolerances: absolute; relative; relative to the largest entry."""


@dataclass(frozen=True)
class Recording:
    """A recorded file, and the network that it was recorded with.

    Attributes:
        arrays: content of the file.
        method: the method.
        network: `backbone` and `decode_head` with the recorded parameters, in eval mode.
        split: seen and unseen classes.
        losses: weights of the losses.
        windows: settings of the inference.
    """

    arrays: Mapping[str, Any]
    method: ZeroShotMethod
    network: nn.ModuleDict
    split: ClassSplit
    losses: LossSettings
    windows: WindowSettings

    @property
    def image_size(self) -> int:
        """Side of crops in pixels."""
        size: int = self.network["backbone"].settings.image_size  # type: ignore[union-attr, assignment]
        return size

    def tensor(self, name: str) -> Tensor:
        """Return a recorded array."""
        return torch.from_numpy(np.asarray(self.arrays[name]))


def make_state(arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    """Regenerate the parameters of a recording from its seed, by name."""
    state = {}
    for key, shape, std, mean in json.loads(str(arrays["params_json"])):
        if std is None:
            state[key] = torch.tensor(mean, dtype=torch.float32).reshape(shape)
            continue
        rng = np.random.default_rng([int(arrays["seed"]), zlib.crc32(key.encode())])
        value = rng.standard_normal(tuple(shape), dtype=np.float32) * std + mean
        state[key] = torch.from_numpy(value.astype(np.float16).astype(np.float32))
    return state


def rebuild(arrays: Mapping[str, Any]) -> Recording:
    """Build the recorded network.

    Raises:
        ItaclipError: a recording of another method, or parameters that do not match.
    """
    config = json.loads(str(arrays["config_json"]))
    state = make_state(arrays)
    method = next((m for m in METHODS.values() if m.signature in state), None)
    if method is None:
        raise ItaclipError(f"recording of {config.get('type')!r}: neither Cascade-CLIP nor CLIP-RC.")
    backbone, head, loss = config["backbone"], config["decode_head"], config["decode_head"]["loss_decode"]
    width, patch = backbone["width"], backbone["patch_size"]
    visual = ImageTower(
        TransformerShape(width, backbone["layers"], backbone["heads"], 4 * width), patch,
        backbone["input_resolution"] // patch, backbone["output_dim"], quick_gelu=True,
    )  # fmt: skip
    encoder = method.encoder(visual, EncoderSettings(
        image_size=head["img_size"], prompts=backbone["num_tokens"],
        regions=backbone.get("region_level_bridge_size", 16), prompt_dropout=0.0,
    ))  # fmt: skip
    decoders = HeadSettings(layers=head["num_layers"], heads=head["num_heads"], dropout=0.0)
    network = nn.ModuleDict({"backbone": encoder, "decode_head": method.head(encoder.joint_width, decoders)})
    load_parameters(network, state, method, "params_json")
    return Recording(
        arrays, method, network.eval(),
        ClassSplit.of(config["class_names"], config["novel_class"], config["base_class"]),
        LossSettings(loss["mask_weight"], loss["dice_weight"], loss.get("recovery_loss_weight", 0.0)),
        WindowSettings(stride=config["test_cfg"]["stride"][0]),
    )  # fmt: skip


def compare(arrays: Mapping[str, Any]) -> list[Row]:
    """Compare every recorded quantity with this code's.

    Raises:
        ItaclipError: see `rebuild`.
    """
    recording = rebuild(arrays)
    with torch.no_grad():
        rows = [*_features(recording), *_inference(recording)]
    for mode in MODES:
        rows += _training(recording, mode)
    return [*rows, *_loss_case(recording)]


def _features(r: Recording) -> Iterator[Row]:
    encoder, head, text = r.network["backbone"], r.network["decode_head"], r.tensor("in/text")
    features = encoder(r.tensor("in/img"))
    for j, level in enumerate(features.levels):
        yield _absolute(r, f"backbone/feat{j}", level.transpose(1, 2).unflatten(-1, features.grid))
    yield _absolute(r, "backbone/global", features.whole)
    if isinstance(head, CascadeHead):
        for d, query in enumerate(head.queries(features.whole, text)):
            yield _absolute(r, f"head/query{d}", query)
        for d, logits in enumerate(head.decode(features, text)):
            yield _absolute(r, f"head/attn{d}", logits)
    if isinstance(head, RegionHead):
        across = round(features.regions.shape[1] ** 0.5)
        yield _absolute(r, "backbone/region", features.regions.transpose(1, 2).unflatten(-1, (across, across)))
        raw = head.raw_queries(features, text)
        query, lateral = head.q_proj(raw), head.lateral_proj(head.raw_laterals(features))
        decoded_query, decoded_lateral = head.decode(query, lateral)
        for name, value in (("query_raw", raw), ("query", query), ("lateral", lateral),
                            ("query_out", decoded_query), ("lateral_out", decoded_lateral)):  # fmt: skip
            yield _absolute(r, f"head/{name}", value)
    logits = head(features, text)[0]
    yield _absolute(r, "head/grid_logits", logits)
    # compare masks before the sigmoid: where it saturates, its inverse would lose digits
    size = (r.image_size, r.image_size)
    yield _absolute(r, "head/pred_masks", nn.functional.interpolate(logits, size=size, mode="bilinear"))


def _inference(r: Recording) -> Iterator[Row]:
    encoder, head, text = r.network["backbone"], r.network["decode_head"], r.tensor("in/text")

    def logits_of(pixels: Tensor) -> Tensor:
        logits: Tensor = head(encoder(pixels), text)[0]
        return logits

    shift = seen_shift(len(text), r.split.seen, r.windows.seen_shift)
    for name, image in (("inductive", "in/img"), ("self_training", "in/img"), ("big", "in/big_img")):
        if f"infer/{name}" not in r.arrays:
            continue
        pixels = r.tensor(image)
        scores = window_scores(logits_of(pixels), r.image_size, (pixels.shape[-2], pixels.shape[-1]))
        taken = torch.zeros_like(shift) if name == "self_training" else shift
        yield _absolute(r, f"infer/{name}", scores - taken[:, None, None])
    height, width = r.arrays["in/slide_ori_shape"].tolist()
    scores = segment(r.tensor("in/slide_img")[0], (height, width), logits_of, r.image_size,
                     encoder.patch_size, r.windows, shift)  # type: ignore[arg-type]  # fmt: skip
    yield _absolute(r, "infer/slide", scores[None])
    yield _labels(r, "infer/slide_label", scores.argmax(0)[None])


def _training(r: Recording, mode: Mode) -> Iterator[Row]:
    encoder, head = r.network["backbone"].train(), r.network["decode_head"].train()
    r.network.zero_grad()
    split, prefix = r.split.for_training(mode), f"train_{mode}"
    text = r.tensor("in/text")
    rows = text[list(split.seen)] if mode == "inductive" else text
    features = encoder(r.tensor("in/img"))
    logits, extra = head(features, rows)
    losses, labels = training_losses(
        logits, extra, r.tensor("in/label").long(), label_table(split, mode), split, mode, r.image_size, r.losses
    )
    total = torch.stack([value for name, value in losses.items() if "loss" in name]).sum()
    yield _absolute(r, f"{prefix}/grid_logits", logits)
    yield _labels(r, f"{prefix}/label", labels)
    for name, value in {**losses, "total": total}.items():
        yield _relative(r, f"{prefix}/{name}", value, LOSSES)
    if isinstance(head, RegionHead) and mode == "inductive":
        raw = head.raw_queries(features, rows)
        decoded = head.decode(head.q_proj(raw), head.lateral_proj(head.raw_laterals(features)))
        recovered = head.recovery_decoder(*decoded)
        for name, value in zip(("query_raw", "recovered_query", "recovered_lateral"), (raw, *recovered), strict=True):
            yield _absolute(r, f"{prefix}/{name}", value)
    if mode == "inductive":
        total.backward()
        found = dict(r.network.named_parameters())
        for key in [key for key in r.arrays if key.startswith("grad/")]:
            yield _relative(r, key, found[key.removeprefix("grad/")].grad, GRADIENTS)
        # the trained parameters, and those with gradients, must be exactly those that the published loss reaches
        theirs = set(json.loads(str(r.arrays["trainable_json"]))) - set(json.loads(str(r.arrays["no_grad_json"])))
        for name, ours in (
            ("trained parameters", {key for key, parameter in found.items() if parameter.requires_grad}),
            ("parameters with a gradient", {key for key, parameter in found.items() if parameter.grad is not None}),
        ):
            yield name, float(len(theirs ^ ours)), 0.0


def _loss_case(r: Recording) -> Iterator[Row]:
    logits, labels = r.tensor("loss_case/logits").clone().requires_grad_(), r.tensor("loss_case/label").long()
    # the recorded terms include their published weights
    for prefix, truth in (("", labels), ("all_ignored_", torch.full_like(labels, IGNORED))):
        found = mask_losses(logits, truth, logits.shape[-1])
        focal, dice = LossSettings.mask * found.focal, LossSettings.dice * found.dice
        yield _relative(r, f"loss_case/{prefix}loss_mask", focal, LOSSES)
        yield _relative(r, f"loss_case/{prefix}loss_dice", dice, LOSSES)
        if not prefix:
            (gradient,) = torch.autograd.grad(focal + dice, logits)
            yield _relative(r, "loss_case/grad", gradient, GRADIENTS)


def _absolute(r: Recording, name: str, ours: Tensor) -> Row:
    theirs = r.tensor(name).float()
    _same_shape(name, ours, theirs)
    return name, float((ours.detach() - theirs).abs().max()), FEATURES


def _relative(r: Recording, name: str, ours: Tensor | None, limit: float) -> Row:
    theirs = r.tensor(name).double()
    if ours is None:
        return name, float("inf"), limit
    _same_shape(name, ours, theirs)
    scale = max(float(theirs.abs().max()), 1e-12)
    return name, float((ours.detach().double() - theirs).abs().max()) / scale, limit


def _labels(r: Recording, name: str, ours: Tensor) -> Row:
    theirs = r.tensor(name).long()
    _same_shape(name, ours, theirs)
    return name, float((ours != theirs).float().mean()), 0.0


def _same_shape(name: str, ours: Tensor, theirs: Tensor) -> None:
    if ours.shape != theirs.shape:
        raise ItaclipError(f"{name}: shape {tuple(ours.shape)}, but {tuple(theirs.shape)} was recorded.")
