"""From a model's name, a file or a folder to a CLIP with both towers, through open_clip."""

from __future__ import annotations

import copy
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub.constants import ENDPOINT
from open_clip.model import CLIP, CustomTextCLIP, convert_to_custom_text_state_dict
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from itaclip.clip.archives import WeightFile, check_tensors, read_weights
from itaclip.clip.finding import HUB_FILES, fetch, local_folder, quiet, require_network, weight_folders
from itaclip.clip.tokenizer import TokenizerSource
from itaclip.clip.towers import as_tower, refusal
from itaclip.clip.towers.openai import OpenAITower
from itaclip.errors import ItaclipError, did_you_mean

DEMO = "demo"
"""Name of the miniature CLIP that comes with the package."""

OPENAI_NAMES = {
    "ViT-B/32": "ViT-B-32",
    "ViT-B/16": "ViT-B-16",
    "ViT-L/14": "ViT-L-14",
    "ViT-L/14@336px": "ViT-L-14-336",
}
"""Published spellings of OpenAI's models, and open_clip's."""


def load_clip(
    model_name: str = "ViT-B/16",
    pretrained: str | None = None,
    quick_gelu: bool | None = None,
) -> Any:
    """Load a CLIP whose image tower is a ViT, frozen, float32, on the CPU.

    Args:
        model_name: ``"ViT-B/16"`` and its kin, ``"demo"`` (bundled), any open_clip architecture
            with or without a tag (``"ViT-B-16-SigLIP2"``, ``"ViT-H-14-quickgelu:dfn5b"``), or a
            path: OpenAI's TorchScript archive, a state dict, a safetensors file, a Hugging Face
            CLIP folder, a folder with ``open_clip_config.json``.
        pretrained: open_clip's tag for a named model, or a path to its weights. None takes the
            tag of the name, else "openai" where there is one, else the only one. Ignored when
            `model_name` is itself a path or ``"demo"``.
        quick_gelu: activation ``x * sigmoid(1.702 x)`` instead of GELU. None follows
            the weights: the file's own word where it has one (TorchScript archives and
            Hugging Face folders do), else open_clip's for the tag, else OpenAI's.

    Returns:
        open_clip's ``CLIP`` (OpenAI's layout) or ``CustomTextCLIP``, with `tokenizer_source`; its
        image tower tells the normalisation of pixels as open_clip's do (`image_mean`, `image_std`).

    Raises:
        ItaclipError: unknown name or tag, missing or damaged weights, weights of another
            family, a wrong geometry, a convolutional image tower.
    """
    if model_name == DEMO:
        with resources.as_file(resources.files("itaclip.demo") / "demo_clip.safetensors") as path:
            return _from_file(read_weights(path), quick_gelu)
    if is_path(model_name):
        path = Path(model_name).expanduser()
        if (path / "open_clip_config.json").is_file():
            return _from_folder(path, quick_gelu)
        return _from_file(read_weights(path), quick_gelu)
    name, _, named_tag = model_name.partition(":")
    if named_tag and pretrained:
        raise ItaclipError(f"{model_name}: names a tag, and pretrained = {pretrained!r} another; drop one.")
    architecture = OPENAI_NAMES.get(name, name)
    config = open_clip.get_model_config(architecture)
    if config is None:
        known = [DEMO, *OPENAI_NAMES, *open_clip.list_models()]
        raise ItaclipError(
            f"model_name {name!r} is neither a file nor a model that open_clip knows." + did_you_mean(name, known)
        )
    tag = pretrained or named_tag or default_tag(architecture)
    if is_path(tag):
        weights = read_weights(Path(tag).expanduser())
        stated = weights.quick_gelu if weights.quick_gelu is not None else config.get("quick_gelu")
        model = _build(config, bool(stated) if quick_gelu is None else quick_gelu, name)
        set_statistics(model, _usual_statistics(architecture))
        return _fill(model, weights, name)
    published = get_pretrained_cfg(architecture, tag)
    if not published:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise ItaclipError(
            f"{name} has no pretrained tag {tag!r}; open_clip knows: {', '.join(tags) or 'none'}."
            + did_you_mean(tag, tags)
        )
    stated = published.get("quick_gelu", config.get("quick_gelu", False))
    model = _build(config, bool(stated) if quick_gelu is None else quick_gelu, name)
    set_statistics(model, published)
    return _fill(model, read_weights(fetch(architecture, tag, published)), name)


def load_openai_clip(
    model_name: str = "ViT-B/16", pretrained: str | None = None, quick_gelu: bool | None = None
) -> CLIP:
    """The same for what takes the model apart, and so needs OpenAI's layout in both towers.

    Raises:
        ItaclipError: as `load_clip`, or another layout.
    """
    model = load_clip(model_name, pretrained, quick_gelu)
    if not isinstance(model, CLIP) or type(as_tower(model.visual)) is not OpenAITower or not all(
        isinstance(block, ResidualAttentionBlock) and isinstance(block.ls_1, nn.Identity)
        for block in model.visual.transformer.resblocks
    ):  # fmt: skip
        raise ItaclipError(
            f"{model_name}: not a CLIP of OpenAI's layout, which is needed here: take ViT-B-32, ViT-B-16 or ViT-L-14 "
            "of any training data."
        )
    return model


def default_tag(architecture: str) -> str:
    """The tag of an architecture that is named without one: "openai", or the only one.

    Raises:
        ItaclipError: it has none, or several.
    """
    tags: list[str] = open_clip.list_pretrained_tags_by_model(architecture)
    if "openai" in tags:
        return "openai"
    if len(tags) != 1:
        choice = f"one of {', '.join(tags)}, such as {architecture}:{tags[0]}" if tags else "a path to weights"
        raise ItaclipError(
            f"{architecture}: `pretrained` must say which weights: {choice}; random weights segment nothing."
        )
    return tags[0]


def is_path(name: str) -> bool:
    """A path exists, ends like a weight file, or starts like a path; 'ViT-B/16' does none."""
    looks = name.endswith((".pt", ".pth", ".bin", ".safetensors")) or name.startswith(("./", "../", "/", "~"))
    return (looks and ":" not in Path(name).parts[0]) or (Path(name).exists() and name not in OPENAI_NAMES)


# --- building ----------------------------------------------------------------


def _build(config: Mapping[str, Any], quick_gelu: bool, name: str, folder: Path | None = None) -> Any:
    """open_clip's model of a configuration, without weights.

    Args:
        config: open_clip's.
        quick_gelu: of both towers, where they are open_clip's own.
        name: for messages.
        folder: with a tokenizer and a text tower's configuration, in the place of named ones.

    Raises:
        ItaclipError: an image tower that cannot be read densely, or a text tower whose
            configuration cannot be had.
    """
    vision, text = dict(config["vision_cfg"]), copy.deepcopy(config["text_cfg"])
    if reason := refusal(vision):
        raise ItaclipError(f"{name}: {reason}")
    source = _tokenizer_source(text, folder)
    vision |= {"timm_model_pretrained": False, "output_tokens": False}
    text |= {"hf_model_pretrained": False, "output_tokens": False}
    if hub := text.get("hf_model_name"):
        text["hf_model_name"] = _text_configuration(hub, folder)
    # OpenAI's text tower lies flat in the model; any other is a module of its own
    causal = not text.get("no_causal_mask") and text.get("pool_type", "argmax") in ("argmax", "eos")
    own_text = config.get("custom_text") or hub or "multimodal_cfg" in config or not causal
    options = {key: config[key] for key in ("init_logit_bias", "nonscalar_logit_scale") if key in config}
    try:
        with _without_weights():
            model = (CustomTextCLIP if own_text else CLIP)(
                config["embed_dim"], vision, text, quick_gelu=quick_gelu, **options
            )
    except (TypeError, RuntimeError, ValueError, AssertionError) as error:
        raise ItaclipError(f"{name}: open_clip cannot build it ({type(error).__name__}: {error}).") from error
    try:
        as_tower(model.visual)
    except ItaclipError as error:
        raise ItaclipError(f"{name}: {error}") from error
    model.tokenizer_source = source
    return model


def _tokenizer_source(text: Mapping[str, Any], folder: Path | None) -> TokenizerSource:
    hub = text.get("hf_tokenizer_name")
    options = tuple(sorted(text.get("tokenizer_kwargs", {}).items()))
    where = str(folder) if hub and folder else hub
    return TokenizerSource(where, text.get("context_length", 77), text.get("tokenizer_mode"), options)


def _text_configuration(hub: str, folder: Path | None) -> str:
    """Where transformers finds the layout of a text tower of its own: a folder, or the hub's name.

    Raises:
        ItaclipError: nowhere.
    """
    from transformers import AutoConfig

    found = next((f for f in (folder, local_folder(hub)) if f and (f / "config.json").is_file()), None)
    try:
        with quiet("huggingface_hub", "httpx", "transformers"):
            if found is None:
                try:
                    AutoConfig.from_pretrained(hub, local_files_only=True, trust_remote_code=False)
                except OSError:
                    require_network(ENDPOINT)
                    AutoConfig.from_pretrained(hub, trust_remote_code=False)
            else:
                AutoConfig.from_pretrained(found, trust_remote_code=False)
    except Exception as error:  # whatever transformers and the network raise
        raise ItaclipError(
            f"{hub}: the text tower's configuration could not be loaded ({type(error).__name__}).\n"
            f"  expected file: config.json\n"
            f"  put it in:     {' or '.join(str(f / hub.rsplit('/', 1)[-1]) for f in weight_folders())}\n"
            f"  address:       {ENDPOINT}/{hub}"
        ) from error
    return str(found or hub)


@contextmanager
def _without_weights() -> Iterator[None]:
    """Parameters of modules made meanwhile, in this thread, hold no memory; buffers are computed."""
    thread = threading.get_ident()

    def emptied(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or threading.get_ident() != thread:
            return parameter
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    handle = register_module_parameter_registration_hook(emptied)  # type: ignore[arg-type]
    try:
        with torch.random.fork_rng(
            devices=[]
        ):  # what they would have begun with draws no random numbers of the caller's
            yield
    finally:
        handle.remove()


def set_statistics(model: Any, preprocessing: Mapping[str, Any]) -> None:
    """Note the mean and deviation of pixels where open_clip notes them."""
    if "mean" in preprocessing and "std" in preprocessing:
        model.visual.image_mean, model.visual.image_std = preprocessing["mean"], preprocessing["std"]


def _usual_statistics(architecture: str) -> Mapping[str, Any]:
    """Those of an architecture's published weights, if all of them have the same."""
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    found = [get_pretrained_cfg(architecture, tag) for tag in tags]
    distinct = {(tuple(f["mean"]), tuple(f["std"])) for f in found if "mean" in f and "std" in f}
    return dict(zip(("mean", "std"), distinct.pop(), strict=True)) if len(distinct) == 1 else {}


def _from_folder(folder: Path, quick_gelu: bool | None) -> Any:
    """A model as the hub holds open_clip's: configuration, weights, tokenizer."""
    path = folder / "open_clip_config.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        config, preprocessing = described["model_cfg"], described.get("preprocess_cfg", {})
        stated = bool(config.get("quick_gelu", False))
        model = _build(config, stated if quick_gelu is None else quick_gelu, str(folder), folder)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ItaclipError(f"{path}: not the configuration of an open_clip model ({error!r}).") from error
    set_statistics(model, preprocessing)
    weights = next((folder / name for name in HUB_FILES if (folder / name).is_file()), None)
    if weights is None:
        raise ItaclipError(f"{folder}: holds none of {', '.join(HUB_FILES)}.")
    return _fill(model, read_weights(weights), str(folder))


def _from_file(weights: WeightFile, quick_gelu: bool | None) -> CLIP:
    """Build the model of OpenAI's layout whose geometry the tensors themselves tell."""
    state = weights.state
    needed = ("visual.conv1.weight", "visual.positional_embedding", "visual.proj", "text_projection",
              "token_embedding.weight", "positional_embedding", "ln_final.weight")  # fmt: skip
    missing = [key for key in needed if key not in state]
    if missing:
        other = any(key.startswith(("visual.trunk.", "text.")) for key in state)
        raise ItaclipError(
            f"{weights.path}: not the weights of a CLIP ViT of OpenAI's layout; {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing among {len(state)} tensors."
            + (f" For another layout name the architecture too: ViT-B-16-SigLIP2:{weights.path}" if other else "")
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
    config = dict(
        embed_dim=state["text_projection"].shape[1],
        vision_cfg=dict(layers=_count_blocks(state, "visual."), width=width, patch_size=patch, image_size=grid * patch),
        text_cfg=dict(context_length=state["positional_embedding"].shape[0],
                      vocab_size=state["token_embedding.weight"].shape[0], width=text_width,
                      heads=text_width // 64, layers=_count_blocks(state, "")),
    )  # fmt: skip
    return _fill(_build(config, quick_gelu, str(weights.path)), weights, "OpenAI's layout")


def _count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"transformer\.resblocks\.(\d+)\.")
    return 1 + max((int(m.group(1)) for key in state if (m := pattern.match(key))), default=-1)


def _fill(model: Any, weights: WeightFile, name: str) -> Any:
    """Give a model its tensors, every one of the right shape."""
    state = {key: value.float() for key, value in weights.state.items()}
    if isinstance(model, CustomTextCLIP):
        state = convert_to_custom_text_state_dict(state)
    expected = {key: tensor.shape for key, tensor in model.state_dict().items()}
    for key in ("logit_scale", "logit_bias"):
        if key in state and key in expected:
            state[key] = state[key].reshape(expected[key])
    # what is computed or never read: rotary tables and masks, CoCa's captioning, a bias that softmax drops
    unread = {key for key, _ in model.named_buffers()} | {"logit_bias"}
    state = {
        key: value
        for key, value in state.items()
        if key in expected or not (key in unread or key.startswith("text_decoder.") or key.endswith("position_ids"))
    }
    missing = sorted(expected.keys() - state.keys() - {"logit_scale", "logit_bias"})
    unexpected = sorted(state.keys() - expected.keys())
    wrong = [f"{key} {tuple(state[key].shape)} instead of {tuple(shape)}"
             for key, shape in expected.items() if key in state and state[key].shape != shape]  # fmt: skip
    theirs, ours = _layout(state), _layout(expected)
    if missing and theirs and theirs != ours:
        raise ItaclipError(
            f"{weights.path}: weights of another family: {theirs}, where {name} has {ours}. Name the model they are of."
        )
    problems = {"missing": missing, "unexpected": unexpected, "of a wrong shape": wrong}
    check_tensors(weights.path, problems, "Wrong model_name, or a damaged file?")
    if "logit_bias" in expected:
        state.setdefault("logit_bias", torch.zeros(expected["logit_bias"]))
    state.setdefault("logit_scale", torch.full(expected["logit_scale"], 100.0).log())
    model.load_state_dict(state, strict=True, assign=True)
    return model.requires_grad_(False).eval()


def _layout(keys: Mapping[str, Any]) -> str:
    """Which family's names an image tower's parameters have; empty where they tell nothing."""
    if any(key.startswith("visual.transformer.") for key in keys):
        return "open_clip's own image tower"
    if "visual.trunk.attn_pool.latent" in keys and "visual.trunk.cls_token" not in keys:
        return "timm's image tower with a pooling head alone"
    if "visual.trunk.attn_pool.latent" in keys:
        return "timm's image tower with a class token and a pooling head"
    return "timm's image tower with a class token" if "visual.trunk.cls_token" in keys else ""
