"""Checkpoints: the published ones, with their own parameter names, and this project's."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from itaclip.core.clip.weights import load_tensors
from itaclip.errors import ItaclipError
from itaclip.files import atomic_path
from itaclip.research.zero_shot.network import METHODS, ZeroShotMethod

_LOG = logging.getLogger(__name__)

# Published files contain unused parameters, see docs/zero-shot.md.
_UNUSED = re.compile(
    r"^text_encoder\.|\.self_attn\.|\.norm1\.|\.criterion\.empty_weight$"
    r"|^decode_head\.cascade_decoders\.\d\.layers\.2\.(linear[12]|norm[23]|multihead_attn\.(v|proj))\."
)
_TRAINING_ONLY = "decode_head.recovery_decoder."


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        content: its entries, including ``state_dict`` and ``meta``.
        path: the file.
    """

    content: dict[str, Any]
    path: Path

    @property
    def state(self) -> dict[str, Tensor]:
        """Parameters by name."""
        state: dict[str, Tensor] = self.content["state_dict"]
        return state

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The class names stored in the file; None if there are none."""
        meta = self.content.get("meta", {})
        names = meta.get("CLASSES") or meta.get("classes") or (meta.get("dataset_meta") or {}).get("classes")
        return tuple(str(name) for name in names) if names else None


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of mmcv 1.x or of this project. Executes nothing from it.

    Raises:
        ItaclipError: no such file, a truncated one, or one that contains more than data.
    """
    path = Path(path)
    if not path.is_file():
        raise ItaclipError(f"{path}: no such checkpoint.")
    content = load_tensors(path)
    if not isinstance(content, dict):
        raise ItaclipError(f"{path}: expected a checkpoint, found {type(content).__name__}.")
    if "state_dict" not in content:  # bare parameters
        content = {"state_dict": content, "meta": {}}
    state = {key.removeprefix("module."): value for key, value in content["state_dict"].items()}
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ItaclipError(f"{path}: state_dict must contain tensors by name.")
    return Checkpoint({"meta": {}, **content, "state_dict": state}, path)


def write_checkpoint(content: Mapping[str, Any], path: str | Path) -> None:
    """Write a checkpoint atomically, so a kill never damages the previous one.

    Raises:
        ItaclipError: the file cannot be written.
    """
    with atomic_path(path) as partial:
        torch.save(dict(content), partial)


def load_parameters(
    network: nn.Module, state: Mapping[str, Tensor], method: ZeroShotMethod, source: str | Path
) -> list[str]:
    """Load the parameters of a checkpoint into a network (``backbone``, ``decode_head``).

    Every parameter of the network must be in the file with the right shape, and every parameter
    in the file must belong to the network or be known as unused. Only the recovery decoder may be
    missing, because inference does not use it: it then keeps its initial values.

    Args:
        network: network with the published parameter names.
        state: parameters by published name.
        method: method of the network.
        source: file name, for messages.

    Returns:
        Names of unused parameters in the file.

    Raises:
        ItaclipError: a checkpoint of the other method, or missing, unexpected or misshapen
            parameters; the message counts them and names the first ones.
    """
    other = next((m for m in METHODS.values() if m is not method and m.signature in state), None)
    if other is not None:
        raise ItaclipError(f"{source}: this is a checkpoint of {other.title}, but the configuration is {method.title}.")
    own = network.state_dict()
    unused = sorted(key for key in state if key not in own and _UNUSED.search(key))
    missing = sorted(key for key in own if key not in state)
    unexpected = sorted(state.keys() - own.keys() - set(unused))
    optional = [key for key in missing if key.startswith(_TRAINING_ONLY)]
    if len(optional) == sum(key.startswith(_TRAINING_ONLY) for key in own):
        missing = [key for key in missing if key not in optional]
    wrong = [f"{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}"
             for key, value in own.items() if key in state and state[key].shape != value.shape]  # fmt: skip
    problems = [f"{len(keys)} {what}: {', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''}"
                for what, keys in (("missing", missing), ("unexpected", unexpected), ("of a wrong shape", wrong))
                if keys]  # fmt: skip
    if problems:
        hint = " (model.prompts must be that of the checkpoint)" if any("prompt_embeddings" in w for w in wrong) else ""
        raise ItaclipError(f"{source}: does not match {method.title}; parameters " + "; ".join(problems) + f".{hint}")
    network.load_state_dict({key: state[key].float() for key in own if key in state}, strict=False)
    if optional:
        _LOG.warning("%s: has no recovery decoder; it keeps its initial values, which inference does not use.", source)
    return unused


def check_class_order(checkpoint: Checkpoint, classes: Sequence[str], same: bool = False) -> None:
    """Check that equal classes have the same order; by default, a checkpoint may have other classes.

    Args:
        checkpoint: the checkpoint.
        classes: the configuration's classes.
        same: whether other classes are an error too (when training continues on the same data set).

    Raises:
        ItaclipError: the classes differ; the message names the first mismatch.
    """
    stored = checkpoint.classes
    if stored is None or stored == tuple(classes) or (not same and set(stored) != set(classes)):
        return
    if set(stored) != set(classes):
        different = next(iter(sorted(set(stored) ^ set(classes))))
        raise ItaclipError(
            f"{checkpoint.path}: trained on {len(stored)} classes, but the configuration has {len(classes)}; "
            f"only one of them has {different!r}."
        )
    k = next(k for k, (a, b) in enumerate(zip(stored, classes, strict=True)) if a != b)
    raise ItaclipError(
        f"{checkpoint.path}: class {k} is {stored[k]!r}, but {classes[k]!r} in the configuration; "
        "both must have the same order of classes."
    )
