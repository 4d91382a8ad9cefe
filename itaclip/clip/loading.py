"""Load a CLIP with both towers by name, or from a file or a folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itaclip.clip.archives import WeightFile, read_weights
from itaclip.clip.filling import fill
from itaclip.clip.finding import fetch
from itaclip.clip.names import DEMO, OPENAI_NAMES, OPENAI_WEIGHTS, is_path
from itaclip.clip.openai import CLIP, ImageTower, TransformerShape
from itaclip.errors import ItaclipError


def load_clip(
    model_name: str = "ViT-B/16",
    pretrained: str | None = None,
    quick_gelu: bool | None = None,
) -> Any:
    """Load a CLIP whose image tower is a ViT, frozen, float32, on the CPU.

    Args:
        model_name: ``"ViT-B/16"`` and its siblings, ``"demo"`` (bundled), any open_clip architecture
            with or without a tag (``"ViT-B-16-SigLIP2"``, ``"ViT-H-14-quickgelu:dfn5b"``), or a
            path: OpenAI's TorchScript archive, a state dict, a safetensors file, a Hugging Face
            CLIP folder, a folder with ``open_clip_config.json``.
        pretrained: open_clip's tag for a named model, or a path to its weights. None uses the
            tag in the name, else "openai" if it exists, else the only tag. Ignored if
            `model_name` is itself a path or ``"demo"``.
        quick_gelu: activation ``x * sigmoid(1.702 x)`` instead of GELU. None follows
            the weights: what the file states (TorchScript archives and Hugging Face folders
            do), else open_clip's value for the tag, else OpenAI's.

    Returns:
        `itaclip.clip.openai.CLIP` in OpenAI's layout, else open_clip's ``CustomTextCLIP``; both have a
        `tokenizer_source`. The image tower states the normalisation of pixels as in open_clip
        (`image_mean`, `image_std`).

    Raises:
        ItaclipError: unknown name or tag, missing or damaged weights, weights of another
            family, a wrong geometry, a convolutional image tower.
    """
    if model_name == DEMO:
        with resources.as_file(resources.files("itaclip.demo") / "demo_clip.safetensors") as bundled:
            return _from_file(read_weights(bundled), quick_gelu)
    if "://" in model_name:
        raise ItaclipError(f"{model_name}: an address; download the weights first, and name the file.")
    path = Path(model_name).expanduser() if is_path(model_name) else None
    if path and not (path / "open_clip_config.json").is_file():
        return _from_file(read_weights(path), quick_gelu)
    architecture = OPENAI_NAMES.get(model_name)
    if architecture and pretrained in (None, "openai"):
        return _from_file(read_weights(fetch(architecture, "openai", OPENAI_WEIGHTS[architecture])), quick_gelu)
    from itaclip.clip import registry  # here, because it imports open_clip, with timm and transformers

    return registry.load_folder(path, quick_gelu) if path else registry.load_named(model_name, pretrained, quick_gelu)


def load_openai_clip(
    model_name: str = "ViT-B/16", pretrained: str | None = None, quick_gelu: bool | None = None
) -> CLIP:
    """Load a CLIP with both towers in OpenAI's layout, for code that takes the model apart.

    Raises:
        ItaclipError: as for `load_clip`, or another layout.
    """
    model = load_clip(model_name, pretrained, quick_gelu)
    if not isinstance(model, CLIP):
        raise ItaclipError(
            f"{model_name}: not a CLIP of OpenAI's layout, which is needed here: use ViT-B-32, ViT-B-16 or ViT-L-14 "
            "with any training data."
        )
    return model


def _from_file(weights: WeightFile, quick_gelu: bool | None) -> CLIP:
    """Build a model of OpenAI's layout, inferring its geometry from the tensors."""
    state = weights.state
    needed = ("visual.conv1.weight", "visual.positional_embedding", "visual.proj", "text_projection",
              "token_embedding.weight", "positional_embedding", "ln_final.weight")  # fmt: skip
    missing = [key for key in needed if key not in state]
    if missing:
        other = any(key.startswith(("visual.trunk.", "text.")) for key in state)
        raise ItaclipError(
            f"{weights.path}: not the weights of a CLIP ViT of OpenAI's layout; {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing among {len(state)} tensors."
            + (f" For another layout, name the architecture too: ViT-B-16-SigLIP2:{weights.path}" if other else "")
        )
    patches = state["visual.conv1.weight"]
    positions = state["visual.positional_embedding"]
    grid = round((positions.shape[0] - 1) ** 0.5)
    if patches.ndim != 4 or positions.ndim != 2 or grid * grid + 1 != positions.shape[0]:
        raise ItaclipError(
            f"{weights.path}: wrong geometry: visual.conv1.weight {tuple(patches.shape)}, "
            f"visual.positional_embedding {tuple(positions.shape)} (expected a class token and a square grid)."
        )
    width, patch = patches.shape[0], patches.shape[-1]
    text_width = state["ln_final.weight"].shape[0]
    if width % 64 or text_width % 64:
        raise ItaclipError(
            f"{weights.path}: widths {width} and {text_width} are not multiples of 64, the width of OpenAI's heads."
        )
    if quick_gelu is None:
        quick_gelu = True if weights.quick_gelu is None else weights.quick_gelu
    length, words = len(state["positional_embedding"]), len(state["token_embedding.weight"])
    channels = state["text_projection"].shape[1]
    with torch.device("meta"):
        model = CLIP(
            ImageTower(_shape(state, "visual.", width), patch, grid, channels, quick_gelu),
            _shape(state, "", text_width), length, words, channels, quick_gelu,
        )  # fmt: skip
    return fill(model, state, weights.path, "OpenAI's layout")


def _shape(state: Mapping[str, Tensor], prefix: str, width: int) -> TransformerShape:
    """Get the sizes of a tower's blocks: OpenAI's heads have 64 channels, its hidden layers four times the width."""
    return TransformerShape(width, _count_blocks(state, prefix), width // 64, 4 * width)


def _count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"transformer\.resblocks\.(\d+)\.")
    return 1 + max((int(m.group(1)) for key in state if (m := pattern.match(key))), default=-1)
