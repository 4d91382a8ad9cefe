"""Load a second encoder by name, from a file or from a folder."""

from __future__ import annotations

import os
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT
from torch import nn

from itaclip.common.logs import quiet
from itaclip.core.clip.download import require_network, weight_folders
from itaclip.core.clip.weights import check_tensors
from itaclip.core.second_encoders.encoder import IMAGENET_MEAN, IMAGENET_STD, SecondEncoder
from itaclip.core.second_encoders.weights import EVA, Weights, read_second_weights
from itaclip.errors import ItaclipError, did_you_mean
from itaclip.files import local_path

DEMO = "demo"
"""Name of the miniature DINO bundled with the package."""

NAMES = {
    "dino-vits8": "vit_small_patch8_224.dino",
    "dino-vits16": "vit_small_patch16_224.dino",
    "dino-vitb8": "vit_base_patch8_224.dino",
    "dino-vitb16": "vit_base_patch16_224.dino",
    "dinov2-vits14": "vit_small_patch14_dinov2.lvd142m",
    "dinov2-vitb14": "vit_base_patch14_dinov2.lvd142m",
    "dinov2-vitl14": "vit_large_patch14_dinov2.lvd142m",
    "dinov2-vits14-reg": "vit_small_patch14_reg4_dinov2.lvd142m",
    "dinov2-vitb14-reg": "vit_base_patch14_reg4_dinov2.lvd142m",
    "dinov2-vitl14-reg": "vit_large_patch14_reg4_dinov2.lvd142m",
    "dinov3-vits16": "vit_small_patch16_dinov3.lvd1689m",
    "dinov3-vitb16": "vit_base_patch16_dinov3.lvd1689m",
    "dinov3-vitl16": "vit_large_patch16_dinov3.lvd1689m",
}
"""Short names and the corresponding timm names."""

_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")


def load_second_encoder(
    name: str,
    *,
    dtype: str = "fp32",
    device: torch.device | str = "cpu",
    weights: str | Path | None = None,
) -> SecondEncoder:
    """Load a frozen second encoder.

    Args:
        name: a short name from `NAMES`, a timm ViT with its tag, ``"demo"`` (bundled), a weight
            file, a Hugging Face folder, or ``NAME@FILE``: the architecture of NAME with the weights of FILE.
        dtype: ``"fp32"``, ``"fp16"`` or ``"bf16"``, for weights and matrix products.
        device: device of the model.
        weights: file or folder for a named model; equivalent to ``NAME@FILE``.

    Raises:
        ItaclipError: unknown name, weights that cannot be found or downloaded, damaged or foreign
            weights, or an architecture that is not a plain vision transformer.
    """
    if name == DEMO:
        file = resources.files("itaclip.core.second_encoders") / "demo_dino.safetensors"
        if not file.is_file():
            raise ItaclipError(
                "The bundled second encoder (demo_dino.safetensors) is missing from this installation. "
                f"Reinstall the package, or choose another encoder: {', '.join(NAMES)}, or a file."
            )
        with resources.as_file(file) as path:
            return _from_file(read_second_weights(path), DEMO, dtype, device)
    if _is_path(name):
        return _from_file(read_second_weights(local_path(name).expanduser()), name, dtype, device)
    named, _, file_name = name.removeprefix("name=").partition("@")
    timm_name = NAMES.get(named, named)
    _require_known(timm_name, named)
    given = weights or file_name
    found = read_second_weights(local_path(given).expanduser() if given else _fetch(timm_name, named))
    return _named(timm_name, found, name, dtype, device)


# --- finding -----------------------------------------------------------------


def _is_path(name: str) -> bool:
    """Tell whether a name is a path: it exists or looks like one, and does not start with a known model name and @."""
    if "@" in name and name.removeprefix("name=").partition("@")[0] in NAMES:
        return False
    if name in NAMES:
        return False
    looks = name.startswith(("./", "../", "/", "~")) or (name.endswith(_SUFFIXES) and "@" not in name)
    return looks or Path(name).exists()


def _require_known(timm_name: str, named: str) -> None:
    import timm

    if not timm.is_model(timm_name):
        known = [DEMO, *NAMES, *timm.list_models("*vit*", pretrained=True)]
        raise ItaclipError(
            f"second encoder {named!r} is neither a file or folder nor a timm model. "
            f"Short names: {', '.join(NAMES)}.{did_you_mean(named, known)}"
        )


def _fetch(timm_name: str, named: str) -> Path:
    """Find the file of a named model in a folder or a cache, or download it."""
    import timm

    try:
        config = timm.get_pretrained_cfg(timm_name)
    except RuntimeError as error:
        raise ItaclipError(f"second encoder {named!r}: {error} See timm.list_pretrained().") from error
    url, hub = (str(getattr(config, part, None) or "") for part in ("url", "hf_hub_id"))
    if not url and not hub:
        raise ItaclipError(f"{named}: timm has no pretrained weights for {timm_name}. Name a file: {named}@FILE.")
    files = list(dict.fromkeys(f for f in (f"{timm_name}.safetensors", f"{named}.safetensors", Path(url).name) if f))
    hub_cache = Path(os.environ.get("TORCH_HOME", "~/.cache/torch")).expanduser() / "hub/checkpoints"
    for folder in (*weight_folders(), hub_cache):
        for file in files:
            if (folder / file).is_file():
                return folder / file
    try:
        if hub:
            cached = try_to_load_from_cache(hub, "model.safetensors")
            if isinstance(cached, str):
                return Path(cached)
        require_network(ENDPOINT if hub else url)
        with quiet("huggingface_hub", "httpx"):
            return Path(hf_hub_download(hub, "model.safetensors"))
    except Exception as error:  # the hub and network libraries raise many types
        address = url or f"https://huggingface.co/{hub}/blob/main/model.safetensors"
        raise ItaclipError(
            f"{named} ({timm_name}): the weights were not found on this machine and could not be downloaded "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}).\n"
            f"  expected file: {' or '.join(files)}\n"
            f"  put it in:     {' or '.join(str(f) for f in weight_folders())}"
            f" (or name it: {named}@PATH; ITACLIP_WEIGHTS_DIR adds a folder)\n"
            f"  download from: {address}"
        ) from error


# --- building ----------------------------------------------------------------


def _named(timm_name: str, weights: Weights, name: str, dtype: str, device: torch.device | str) -> SecondEncoder:
    """Build timm's named architecture with a position table of the same size as in the file."""
    import timm

    arguments: dict[str, Any] = {"num_classes": 0, "dynamic_img_size": True}
    if "img_size" in weights.architecture:
        arguments["img_size"] = weights.architecture["img_size"]
    if "rope_type" in weights.architecture:  # timm names DINOv3 with and without biases differently
        arguments["qkv_bias"] = weights.architecture["qkv_bias"]
    try:
        model = timm.create_model(timm_name, pretrained=False, **arguments)
    except Exception as error:  # architectures reject unknown arguments in different ways
        raise ItaclipError(f"{timm_name}: cannot be built as a second encoder ({error}).") from error
    config = getattr(model, "pretrained_cfg", {})
    mean, std = config.get("mean", IMAGENET_MEAN), config.get("std", IMAGENET_STD)
    return SecondEncoder(_fill(model, weights), name, mean=mean, std=std, dtype=dtype, device=device)


def _from_file(weights: Weights, name: str, dtype: str, device: torch.device | str) -> SecondEncoder:
    trunk = trunk_of(weights)
    return SecondEncoder(trunk, name, mean=weights.mean, std=weights.std, dtype=dtype, device=device)


def trunk_of(weights: Weights) -> nn.Module:
    """Build timm's model of the layout that weights state or show, and load them.

    Raises:
        ItaclipError: arguments that no model has, or tensors that do not fill it.
    """
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    arguments = {**weights.architecture, "num_classes": 0, "dynamic_img_size": True}
    eps = arguments.pop("norm_eps", 1e-6)
    kind = Eva if weights.family == EVA else VisionTransformer
    try:
        model = kind(**arguments, norm_layer=partial(nn.LayerNorm, eps=eps))
    except Exception as error:  # the arguments come from a file and may be arbitrarily wrong
        raise ItaclipError(f"{weights.path}: cannot build a {kind.__name__} from {arguments} ({error}).") from error
    return _fill(model, weights)


def _fill(model: nn.Module, weights: Weights) -> nn.Module:
    """Load the weights into the model after checking names and shapes."""
    expected = {key: value.shape for key, value in model.state_dict().items()}
    state = {key: value.float() for key, value in weights.state.items()}
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(key for key in state.keys() - expected.keys() if not key.startswith(("fc_norm.", "rope.")))
    wrong = [f"{key} {tuple(state[key].shape)} instead of {tuple(shape)}"
             for key, shape in expected.items() if key in state and state[key].shape != shape]  # fmt: skip
    problems = {"of a wrong shape": wrong, "missing": missing, "unexpected": unexpected}
    check_tensors(weights.path, problems, "Is this another architecture, or a damaged file?")
    model.load_state_dict({key: state[key] for key in expected}, strict=True)
    return model
