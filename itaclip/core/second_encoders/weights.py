"""Read the weights of a second encoder from a file or folder, rename them as timm does, and infer their layout.

Supports timm's own layout, the original layouts of DINO, DINOv2 and DINOv3 (including training
checkpoints), and Hugging Face folders. Nothing in them is executed.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itaclip.core.clip.weights import load_tensors, read_safetensors
from itaclip.core.second_encoders.encoder import IMAGENET_MEAN, IMAGENET_STD
from itaclip.errors import ItaclipError

_LOG = logging.getLogger(__name__)

State = dict[str, Tensor]

EVA = "eva"
VIT = "vit"


@dataclass(frozen=True)
class Weights:
    """Weights with their layout.

    Attributes:
        state: tensors under timm's names.
        path: the file they come from.
        family: ``"vit"`` (timm's VisionTransformer) or ``"eva"`` (rotary positions: DINOv3).
        architecture: constructor arguments, from the file's metadata or inferred from its shapes.
        mean: normalisation mean per RGB channel, for values in [0, 1].
        std: normalisation standard deviation, likewise.
    """

    state: State
    path: Path
    family: str = VIT
    architecture: dict[str, Any] = field(default_factory=dict)
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD


def read_second_weights(path: Path) -> Weights:
    """Read a weight file or a Hugging Face folder.

    A safetensors file may give its layout in the metadata entry `architecture`: the arguments of
    timm's VisionTransformer as JSON. A file of Hugging Face is read with the ``config.json`` beside it.
    Otherwise the layout is inferred from the tensor shapes; heads have 64 channels, as in all DINO
    models, which is warned of for widths that no DINO model has.

    Raises:
        ItaclipError: the file is missing, damaged or foreign, or contains more than tensors.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise ItaclipError(f"{path}: no such weight file or folder.")
    metadata: dict[str, str] = {}
    with path.open("rb") as file:
        is_safetensors = file.read(9)[8:9] == b"{"
    if is_safetensors:
        content, metadata = read_safetensors(path)
    else:
        content = load_tensors(path)
    if any("embeddings.patch_embeddings." in str(key) for key in content) and (path.parent / "config.json").is_file():
        return _read_folder(path.parent, path)
    state = timm_names(_unwrapped(content, path))
    family = VIT if "pos_embed" in state else EVA
    text = metadata.get("architecture")
    if not text and "patch_embed.proj.weight" in state:
        _check_heads(state["patch_embed.proj.weight"].shape[0], path)
    architecture = _parse_architecture(text, path) if text else infer_architecture(state, family, path)
    return Weights(state, path, VIT if text else family, architecture)


# --- names -------------------------------------------------------------------

_PREFIXES = re.compile(r"^(module|backbone|teacher|student|model|_orig_mod)\.")

# Parts used only in training.
_HEADS = re.compile(r"^(head|dino_head|ibot_head|fc_head|projectors|local_cls_norm|pooler|mask_token$|rope_embed\.)")


def _unwrapped(content: Any, path: Path) -> State:
    """Get the state dict of a checkpoint: the content itself, or an entry with one of the usual names."""
    while isinstance(content, dict):
        inner = next((k for k in ("teacher", "state_dict", "model") if isinstance(content.get(k), dict)), None)
        if inner is None:
            break
        content = content[inner]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ItaclipError(f"{path}: expected a state dict (tensors by name), found {type(content).__name__}.")
    state: State = {}
    for key, value in content.items():
        name = str(key)
        while _PREFIXES.match(name):
            name = _PREFIXES.sub("", name)
        state[name] = value
    return state


def timm_names(state: State) -> State:
    """Rename the parameters of the original layouts to timm's names; timm's own names stay unchanged.

    In timm, DINOv2 models with registers have no position for the class token: it is added to the token.
    """
    state = {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", k): v for k, v in state.items() if not _HEADS.match(k)}
    if "register_tokens" in state and "cls_token" in state and "pos_embed" in state:
        positions = state["pos_embed"]
        state["reg_token"] = state.pop("register_tokens")
        state["cls_token"] = state["cls_token"] + positions[:, :1]
        state["pos_embed"] = positions[:, 1:]
    if "storage_tokens" not in state:
        return state
    renamed: State = {}
    for key, value in state.items():
        if key.endswith("qkv.bias_mask"):
            continue
        if key.endswith("attn.qkv.bias"):  # DINOv3 masks the key's bias
            query, _, values = value.chunk(3)
            renamed[key.replace("qkv.bias", "q_bias")] = query
            renamed[key.replace("qkv.bias", "v_bias")] = values
            continue
        key = re.sub(r"\bls([12])\.gamma$", r"gamma_\1", key)
        renamed["reg_token" if key == "storage_tokens" else key] = value
    return renamed


# --- layout ------------------------------------------------------------------


def _parse_architecture(text: str, path: Path) -> dict[str, Any]:
    try:
        arguments = json.loads(text)
    except ValueError as error:
        raise ItaclipError(f"{path}: metadata `architecture` is not JSON ({error}).") from error
    if not isinstance(arguments, dict):
        raise ItaclipError(
            f"{path}: metadata `architecture` is {type(arguments).__name__}; expected an object of arguments."
        )
    return arguments


_DINO_WIDTHS = (384, 768, 1024)
_WIDTHS_WITH_OTHER_HEADS = {1152: 72, 1280: 80, 1408: 88, 1664: 104}  # channels of a head in timm's ViTs


def _check_heads(width: int, path: Path) -> None:
    """Refuse a width whose known models do not have heads of 64 channels; warn of a width that none has."""
    if width in _WIDTHS_WITH_OTHER_HEADS:
        raise ItaclipError(
            f"{path}: the number of heads cannot be told from its tensors: models {width} channels wide have heads of "
            f"{_WIDTHS_WITH_OTHER_HEADS[width]} or 64 channels. Specify the architecture: NAME@FILE."
        )
    if width % 64 == 0 and width not in _DINO_WIDTHS:
        _LOG.warning(
            "%s does not state its number of heads. Taken: %d of 64 channels, as in all DINO models. If that is "
            "wrong, so are all its features; to state it, name the architecture: NAME@FILE.", path, width // 64,
        )  # fmt: skip


def infer_architecture(state: State, family: str, path: Path) -> dict[str, Any]:
    """Infer constructor arguments from tensor shapes; heads have 64 channels, as in all DINO models.

    Raises:
        ItaclipError: not a vision transformer, or a layout that cannot be inferred.
    """
    needed = ["patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.0.mlp.fc1.weight", "norm.weight"]
    missing = [key for key in needed if key not in state]
    if missing:
        raise ItaclipError(
            f"{path}: not a vision transformer with the tensor names of timm, DINO or DINOv2; "
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing among {len(state)} tensors."
        )
    patches = state["patch_embed.proj.weight"]
    if patches.ndim != 4 or patches.shape[1] != 3 or patches.shape[0] % 64:
        raise ItaclipError(
            f"{path}: wrong geometry: patch_embed.proj.weight {tuple(patches.shape)}; expected width x 3 x patch x "
            "patch with a width that is a multiple of 64. Specify the architecture: NAME@FILE."
        )
    width = patches.shape[0]
    blocks = {int(match.group(1)) for key in state if (match := re.match(r"blocks\.(\d+)\.", key))}
    hidden, ending = (state[f"blocks.0.mlp.{name}.weight"] for name in ("fc1", "fc2"))
    if hidden.shape[0] != ending.shape[1]:
        raise ItaclipError(f"{path}: has gated feed-forward networks; specify the architecture: NAME@FILE.")
    arguments: dict[str, Any] = {
        "patch_size": patches.shape[-1], "embed_dim": width, "depth": len(blocks), "num_heads": width // 64,
        "mlp_ratio": hidden.shape[0] / width,
    }  # fmt: skip
    registers = state["reg_token"].shape[1] if "reg_token" in state else 0
    if family == EVA:
        return arguments | _eva_arguments(state, registers)
    arguments |= {"qkv_bias": "blocks.0.attn.qkv.bias" in state, "reg_tokens": registers}
    arguments["no_embed_class"] = bool(registers)
    if "blocks.0.ls1.gamma" in state:
        arguments["init_values"] = 1.0
    positions = state["pos_embed"].shape[1] - (0 if registers else 1)
    arguments["img_size"] = _side(positions, path) * patches.shape[-1]
    return arguments


def _eva_arguments(state: State, registers: int) -> dict[str, Any]:
    """Combine the arguments that all DINOv3 models in timm share with those inferred from the shapes."""
    return {
        "num_reg_tokens": registers, "qkv_bias": "blocks.0.attn.q_bias" in state, "init_values": 1.0,
        "rope_type": "dinov3", "rope_temperature": 100.0, "rope_rotate_half": True, "use_rot_pos_emb": True,
        "use_abs_pos_emb": False, "use_fc_norm": False, "norm_eps": 1e-5,
    }  # fmt: skip


def _side(positions: int, path: Path) -> int:
    side = round(positions**0.5)
    if side * side != positions:
        raise ItaclipError(f"{path}: wrong geometry: pos_embed has {positions} patches; expected a square grid.")
    return side


# --- Hugging Face folders ----------------------------------------------------

_FOLDER_TYPES = ("dinov2", "dinov2_with_registers", "dinov3_vit", "vit")

_HUGGING_FACE = (
    (r"^(dinov2|dinov2_with_registers|dinov3_vit|dinov3|vit|model)\.", ""),
    (r"^embeddings\.patch_embeddings\.(projection\.)?", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.(cls_token|register_tokens|mask_token)$", r"\1"),
    (r"^(encoder\.)?layers?\.", "blocks."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.([qkv])_proj\.", lambda m: f".attn.{dict(q='query', k='key', v='value')[m.group(1)]}."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.(intermediate\.dense|mlp\.up_proj)\.", ".mlp.fc1."),
    (r"\.(output\.dense|mlp\.down_proj)\.", ".mlp.fc2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
)


def _read_folder(folder: Path, path: Path | None = None) -> Weights:
    """Read a folder's ``model.safetensors``, or another file that its ``config.json`` describes."""
    config_path, path = folder / "config.json", path or folder / "model.safetensors"
    config = _read_json(config_path)
    kind = config.get("model_type")
    if kind not in _FOLDER_TYPES:
        raise ItaclipError(f"{config_path}: model_type {kind!r}: expected one of {', '.join(_FOLDER_TYPES)}.")
    if not path.is_file():
        raise ItaclipError(f"{folder}: contains no model.safetensors, the only weight file that is supported.")
    if config.get("hidden_act", "gelu") != "gelu" or config.get("use_swiglu_ffn") or config.get("use_gated_mlp"):
        raise ItaclipError(
            f"{config_path}: only plain feed-forward networks with GELU are supported; load the model by its timm name."
        )
    loaded = load_tensors(path) if path.suffix in (".bin", ".pt", ".pth") else read_safetensors(path)[0]
    try:
        state = _from_hugging_face(loaded, rotary=kind == "dinov3_vit")
        family = VIT if "pos_embed" in state else EVA
        architecture = infer_architecture(state, family, path) | {"num_heads": config["num_attention_heads"]}
        _require_agreement(config, architecture, config_path, path)
        architecture["norm_eps"] = config["layer_norm_eps"]
        if family == EVA:
            architecture["rope_temperature"] = config.get("rope_theta", 100.0)
    except KeyError as error:
        raise ItaclipError(f"{folder}: {error} is missing in config.json or model.safetensors.") from error
    preprocessor = folder / "preprocessor_config.json"
    statistics = _read_json(preprocessor) if preprocessor.is_file() else {}
    mean, std = statistics.get("image_mean", IMAGENET_MEAN), statistics.get("image_std", IMAGENET_STD)
    return Weights(state, path, family, architecture, tuple(mean), tuple(std))


def _require_agreement(config: dict[str, Any], found: dict[str, Any], config_path: Path, path: Path) -> None:
    """Refuse tensors of other sizes than the configuration states, and heads that do not divide the width.

    Raises:
        ItaclipError: they contradict each other.
    """
    for key, name in (("hidden_size", "embed_dim"), ("num_hidden_layers", "depth"), ("patch_size", "patch_size")):
        if config.get(key, found[name]) != found[name]:
            raise ItaclipError(f"{path}: {config_path} states {key} {config[key]}, the tensors have {found[name]}.")
    heads = found["num_heads"]
    if not isinstance(heads, int) or heads < 1 or found["embed_dim"] % heads:
        raise ItaclipError(
            f"{config_path}: num_attention_heads = {heads!r:.40} does not divide the width of {found['embed_dim']} "
            "channels."
        )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ItaclipError(f"{path.parent}: {path.name} is missing; a Hugging Face folder needs it.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ItaclipError(f"{path}: not valid JSON ({error}).") from error
    if not isinstance(content, dict):
        raise ItaclipError(f"{path}: contains {type(content).__name__}; expected an object.")
    return content


def _from_hugging_face(loaded: State, rotary: bool) -> State:
    state: State = {}
    for key, value in loaded.items():
        for pattern, replacement in _HUGGING_FACE:
            key = re.sub(pattern, replacement, key)
        state[key] = value
    joined: State = {}
    for key, value in state.items():
        if match := re.match(r"(.*\.attn)\.query\.(weight|bias)$", key):
            head, kind = match.groups()
            missing = torch.zeros_like(value)  # DINOv3 keys have no bias
            parts = [state.get(f"{head}.{part}.{kind}", missing) for part in ("query", "key", "value")]
            joined[f"{head}.qkv.{kind}"] = torch.cat(parts)
        elif not re.search(r"\.attn\.(key|value)\.", key):
            joined[key] = value
    if rotary and "register_tokens" in joined:
        joined["storage_tokens"] = joined.pop("register_tokens")
    return timm_names(joined)
