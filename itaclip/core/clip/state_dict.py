"""Fill a model with the tensors of a file, or report what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from itaclip.core.clip.facts import require_agreement
from itaclip.core.clip.weights import check_tensors
from itaclip.errors import ItaclipError

_Model = TypeVar("_Model", bound=nn.Module)


def fill(
    model: _Model, state: Mapping[str, Tensor], path: Path, name: str, stated: Mapping[str, int] | None = None
) -> _Model:
    """Load tensors into a model after checking their names and shapes; return it frozen, in float32.

    Args:
        model: a CLIP without weights.
        state: tensors by parameter name.
        path: their file, for messages.
        name: name of the model, for messages.
        stated: sizes that the model's configuration states, under the names of
            `itaclip.core.clip.facts.measured_sizes`; explain tensors of a wrong shape.

    Raises:
        ItaclipError: tensors are missing, unexpected, of a wrong shape or of another family.
    """
    state = {key: value.float() for key, value in state.items()}
    expected = {key: tensor.shape for key, tensor in model.state_dict().items()}
    for key in ("logit_scale", "logit_bias"):
        if key in state and key in expected:
            state[key] = state[key].reshape(expected[key])
    # computed or never read: rotary tables and masks, CoCa's captioning, a bias that the softmax cancels
    unread = {key for key, _ in model.named_buffers()} | {"logit_bias"}
    state = {
        key: value
        for key, value in state.items()
        if key in expected
        or not (key in unread or key.startswith("text_decoder.") or key.endswith(("position_ids", "attn_mask")))
    }
    missing = sorted(expected.keys() - state.keys() - {"logit_scale", "logit_bias"})
    unexpected = sorted(state.keys() - expected.keys())
    wrong = [f"{key} {tuple(state[key].shape)} instead of {tuple(shape)}"
             for key, shape in expected.items() if key in state and state[key].shape != shape]  # fmt: skip
    theirs, ours = _layout(state), _layout(expected)
    if missing and theirs and theirs != ours:
        raise ItaclipError(
            f"{path}: weights of another family: {theirs}, where {name} has {ours}. Name the model that they belong to."
        )
    if stated and (missing or unexpected or wrong):
        require_agreement(path, name, stated, state)
    problems = {"missing": missing, "unexpected": unexpected, "of a wrong shape": wrong}
    check_tensors(path, problems, "Wrong model_name, or a damaged file?")
    if "logit_bias" in expected:
        state.setdefault("logit_bias", torch.zeros(expected["logit_bias"]))
    state.setdefault("logit_scale", torch.full(expected["logit_scale"], 100.0).log())
    model.load_state_dict(state, strict=True, assign=True)
    return model.requires_grad_(False).eval()


def _layout(keys: Mapping[str, Any]) -> str:
    """Infer an image tower's family from its parameter names; empty if they do not determine it."""
    if any(key.startswith("visual.transformer.") for key in keys):
        return "open_clip's own image tower"
    if "visual.trunk.attn_pool.latent" in keys and "visual.trunk.cls_token" not in keys:
        return "timm's image tower with a pooling head alone"
    if "visual.trunk.attn_pool.latent" in keys:
        return "timm's image tower with a class token and a pooling head"
    return "timm's image tower with a class token" if "visual.trunk.cls_token" in keys else ""


def set_statistics(model: Any, preprocessing: Mapping[str, Any]) -> None:
    """Set the mean and standard deviation of pixels on the model, in the same attributes as open_clip."""
    if "mean" in preprocessing and "std" in preprocessing:
        model.visual.image_mean, model.visual.image_std = preprocessing["mean"], preprocessing["std"]
