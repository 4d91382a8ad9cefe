"""From a model's name or a file to a CLIP with both towers, through open_clip."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies

import open_clip
import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE
from open_clip.model import CLIP
from open_clip.pretrained import download_pretrained, get_pretrained_cfg
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from itaclip.clip.archives import WeightFile, read_weights
from itaclip.errors import ItaclipError, did_you_mean

DEMO = "demo"
"""Name of the miniature CLIP that comes with the package."""

# Published spellings of OpenAI's models, and open_clip's.
_OPENAI_NAMES = {
    "ViT-B/32": "ViT-B-32",
    "ViT-B/16": "ViT-B-16",
    "ViT-L/14": "ViT-L-14",
    "ViT-L/14@336px": "ViT-L-14-336",
}


def load_clip(
    model_name: str = "ViT-B/16",
    pretrained: str | None = "openai",
    quick_gelu: bool | None = None,
) -> CLIP:
    """Load a CLIP of OpenAI's block layout, frozen, float32, on the CPU.

    Args:
        model_name: ``"ViT-B/16"`` and its kin, ``"demo"`` (bundled), any open_clip
            architecture, or a path: OpenAI's TorchScript archive, a state dict, a
            safetensors file, a Hugging Face CLIP folder.
        pretrained: open_clip's tag for a named model, or a path to its weights.
            Ignored when `model_name` is itself a path or ``"demo"``.
        quick_gelu: activation ``x * sigmoid(1.702 x)`` instead of GELU. None follows
            the weights: the file's own word where it has one (TorchScript archives and
            Hugging Face folders do), else open_clip's for the tag, else OpenAI's.

    Raises:
        ItaclipError: unknown name or tag, missing or damaged weights, a wrong
            geometry, an architecture without OpenAI's blocks.
    """
    if model_name == DEMO:
        with resources.as_file(resources.files("itaclip.demo") / "demo_clip.safetensors") as path:
            return _from_file(read_weights(path), quick_gelu)
    if _is_path(model_name):
        return _from_file(read_weights(Path(model_name).expanduser()), quick_gelu)
    architecture = _OPENAI_NAMES.get(model_name, model_name)
    config = open_clip.get_model_config(architecture)
    if config is None:
        known = [DEMO, *_OPENAI_NAMES, *open_clip.list_models()]
        raise ItaclipError(
            f"model_name {model_name!r} is neither a file nor a model that open_clip knows."
            + did_you_mean(model_name, known)
        )
    if not pretrained:
        raise ItaclipError(f"{model_name}: `pretrained` must be a tag or a path; random weights segment nothing.")
    if _is_path(pretrained):
        weights = read_weights(Path(pretrained).expanduser())
        stated = weights.quick_gelu if weights.quick_gelu is not None else config.get("quick_gelu")
    else:
        tag = get_pretrained_cfg(architecture, pretrained)
        if not tag:
            tags = open_clip.list_pretrained_tags_by_model(architecture)
            raise ItaclipError(
                f"{model_name} has no pretrained tag {pretrained!r}; open_clip knows: {', '.join(tags) or 'none'}."
                + did_you_mean(pretrained, tags)
            )
        weights = read_weights(_fetch(architecture, pretrained, tag))
        stated = bool(tag.get("quick_gelu", config.get("quick_gelu", False)))
    chosen = quick_gelu if quick_gelu is not None else bool(stated)
    _require_openai_layout(config, model_name)
    arguments = {k: v for k, v in config.items() if k in ("embed_dim", "vision_cfg", "text_cfg")}
    with torch.device("meta"):
        model = CLIP(**arguments, quick_gelu=chosen)
    return _fill(model, weights)


def weight_folders() -> list[Path]:
    """Folders searched for downloaded weight files, in order."""
    own = os.environ.get("ITACLIP_WEIGHTS_DIR")
    return [*([Path(own).expanduser()] if own else []), Path("weights"), Path("~/.cache/clip").expanduser()]


# --- finding -----------------------------------------------------------------


def _is_path(name: str) -> bool:
    """A path exists, ends like a weight file, or starts like a path; 'ViT-B/16' does none."""
    looks = name.endswith((".pt", ".pth", ".bin", ".safetensors")) or name.startswith(("./", "../", "/", "~"))
    return looks or (Path(name).exists() and name not in _OPENAI_NAMES)


def _fetch(architecture: str, tag: str, config: dict[str, Any]) -> Path:
    """The local file of a named model: found in a folder, in a cache, or downloaded."""
    url = str(config.get("url", ""))
    name = url.rsplit("/", 1)[-1] if url else f"{architecture}-{tag}.safetensors"
    checksum = _checksum(url)
    for folder in weight_folders():
        candidate = folder / name
        if candidate.is_file():
            if checksum and not _sha256(candidate).startswith(checksum):
                raise ItaclipError(
                    f"{candidate}: its sha256 is not {checksum}. The file is truncated or another one; "
                    f"delete it and fetch it again from {url}."
                )
            return candidate
    hub = str(config.get("hf_hub", ""))
    try:
        if cached := _in_hub_cache(hub):
            return cached
        require_network(ENDPOINT if hub else url)
        with quiet("huggingface_hub", "httpx"):
            return Path(download_pretrained(config))
    except Exception as error:  # whatever the hub's and the network's libraries raise
        raise ItaclipError(
            f"{architecture} ({tag}): the weights are not on this machine and could not be downloaded "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}).\n"
            f"  expected file: {name}\n"
            f"  put it in:     {' or '.join(str(f) for f in weight_folders())}"
            " (or name it: --weights PATH; ITACLIP_WEIGHTS_DIR adds a folder)\n"
            f"  address:       {url or 'https://huggingface.co/' + hub}\n"
            f"  sha256:        {checksum or 'not published with the address'}"
        ) from error


def _in_hub_cache(hub: str) -> Path | None:
    """The file of a hub model that an earlier download left in the hub's cache."""
    if not hub:
        return None
    repository, name = hub.rsplit("/", 1)
    for candidate in (name,) if name else ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
        cached = try_to_load_from_cache(repository, candidate)
        if isinstance(cached, str):
            return Path(cached)
    return None


def require_network(address: str) -> None:
    """Fail at once without a network; the hub's client would retry for most of a minute."""
    if HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set")
    if not getproxies():
        socket.getaddrinfo(urlparse(address).hostname, 443)


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Only errors from these loggers: ours says it all in one message."""
    levels = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _checksum(url: str) -> str:
    """The (start of the) sha256 that OpenAI and open_clip write into an address."""
    if "openaipublic" in url:
        return url.split("/")[-2]
    match = re.search(r"-([0-9a-f]{8,64})\.(pt|bin)$", url)
    return match.group(1) if match else ""


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# --- building ----------------------------------------------------------------


def _require_openai_layout(config: dict[str, Any], name: str) -> None:
    """Refuse towers whose blocks are not those of OpenAI's ViT."""
    vision = config.get("vision_cfg", {})
    text = config.get("text_cfg", {})
    foreign = [key for key in ("timm_model_name", "attentional_pool", "no_ln_pre", "final_ln_after_pool",
                               "ls_init_value", "qk_norm") if vision.get(key)]  # fmt: skip
    foreign += [key for key in ("hf_model_name", "hf_tokenizer_name") if text.get(key)]
    if isinstance(vision.get("layers"), list):
        foreign.append("a ResNet image tower")
    if config.get("custom_text") or config.get("multimodal_cfg"):
        foreign.append("its own text tower")
    if foreign:
        raise ItaclipError(
            f"{name}: not a ViT of OpenAI's block layout ({', '.join(foreign)}); the dense encoder needs "
            "pre-norm blocks with a class token, such as ViT-B-32, ViT-B-16, ViT-L-14 of any training data."
        )


def _from_file(weights: WeightFile, quick_gelu: bool | None) -> CLIP:
    """Build the model whose geometry the tensors themselves tell."""
    state = weights.state
    needed = ("visual.conv1.weight", "visual.positional_embedding", "visual.proj", "text_projection",
              "token_embedding.weight", "positional_embedding", "ln_final.weight")  # fmt: skip
    missing = [key for key in needed if key not in state]
    if missing:
        raise ItaclipError(
            f"{weights.path}: not the weights of a CLIP ViT; {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing among {len(state)} tensors."
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
        raise ItaclipError(f"{weights.path}: widths {width} and {text_width} are no multiples of OpenAI's heads of 64.")
    if quick_gelu is None:
        quick_gelu = True if weights.quick_gelu is None else weights.quick_gelu
    with torch.device("meta"):
        model = CLIP(
            embed_dim=state["text_projection"].shape[1],
            vision_cfg=dict(layers=_count_blocks(state, "visual."), width=width, patch_size=patch,
                            image_size=grid * patch),
            text_cfg=dict(context_length=state["positional_embedding"].shape[0],
                          vocab_size=state["token_embedding.weight"].shape[0], width=text_width,
                          heads=text_width // 64, layers=_count_blocks(state, "")),
            quick_gelu=quick_gelu,
        )  # fmt: skip
    return _fill(model, weights)


def _count_blocks(state: dict[str, Tensor], prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"transformer\.resblocks\.(\d+)\.")
    return 1 + max((int(m.group(1)) for key in state if (m := pattern.match(key))), default=-1)


def _fill(model: CLIP, weights: WeightFile) -> CLIP:
    """Give a model built on the meta device its tensors, every one of the right shape."""
    state = {key: value.float() for key, value in weights.state.items()}
    expected = {name: parameter.shape for name, parameter in model.named_parameters()}
    if "logit_scale" in state:
        state["logit_scale"] = state["logit_scale"].reshape(expected["logit_scale"])
    missing = sorted(expected.keys() - state.keys() - {"logit_scale"})
    unexpected = sorted(state.keys() - expected.keys() - {"logit_bias"})
    wrong = [f"{key} {tuple(state[key].shape)} instead of {tuple(shape)}"
             for key, shape in expected.items() if key in state and state[key].shape != shape]  # fmt: skip
    for what, keys in (("missing", missing), ("unexpected", unexpected), ("of a wrong shape", wrong)):
        if keys:
            raise ItaclipError(
                f"{weights.path}: {len(keys)} tensor{'s' if len(keys) > 1 else ''} {what}: "
                f"{', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}. Wrong model_name, or a damaged file?"
            )
    state.setdefault("logit_scale", torch.tensor(100.0).log().reshape(expected["logit_scale"]))
    state.pop("logit_bias", None)
    for name, buffer in model.named_buffers():  # the causal mask: made, not loaded
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, _causal_mask(buffer.shape[0]))
    model.load_state_dict(state, strict=True, assign=True)
    blocks: nn.ModuleList = model.visual.transformer.resblocks
    if not all(isinstance(block, ResidualAttentionBlock) for block in blocks):
        raise ItaclipError(f"{weights.path}: open_clip built blocks other than OpenAI's: {type(blocks[0]).__name__}.")
    return model.requires_grad_(False).eval()


def _causal_mask(length: int) -> Tensor:
    return torch.full((length, length), float("-inf")).triu(1)
