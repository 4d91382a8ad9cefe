"""Build the modules of a model that open_clip describes, without weights, in either library's form."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub.constants import ENDPOINT
from open_clip.model import CustomTextCLIP
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, TextTransformer, VisionTransformer
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from itaclip.common.logs import quiet
from itaclip.core.clip.download import local_folder, require_network, weight_folders
from itaclip.core.clip.openai import CLIP, ImageTower, TransformerShape
from itaclip.core.clip.tokenizer_source import TokenizerSource
from itaclip.core.clip.towers import as_tower
from itaclip.core.clip.towers.libraries import refusal
from itaclip.errors import ItaclipError


def build(config: Mapping[str, Any], quick_gelu: bool, name: str, folder: Path | None = None) -> Any:
    """Build the model of a configuration, without weights: `CLIP` in OpenAI's layout, else open_clip's own.

    Args:
        config: open_clip's configuration.
        quick_gelu: activation of those towers that are open_clip's own.
        name: name of the model, for messages.
        folder: folder with a tokenizer and a text tower's configuration, instead of named ones.

    Raises:
        ItaclipError: the image tower cannot be read densely, or the text tower's configuration
            is not available.
    """
    vision, text = dict(config["vision_cfg"]), copy.deepcopy(config["text_cfg"])
    if reason := refusal(vision):
        raise ItaclipError(f"{name}: {reason}")
    source = _tokenizer_source(text, folder)
    vision |= {"timm_model_pretrained": False, "output_tokens": False}
    text |= {"hf_model_pretrained": False, "output_tokens": False}
    if hub := text.get("hf_model_name"):
        text["hf_model_name"] = _text_configuration(hub, folder)
    options = {key: config[key] for key in ("init_logit_bias", "nonscalar_logit_scale") if key in config}
    try:
        with _without_weights():
            model = CustomTextCLIP(config["embed_dim"], vision, text, quick_gelu=quick_gelu, **options)
    except (TypeError, RuntimeError, ValueError, AssertionError) as error:
        raise ItaclipError(f"{name}: open_clip cannot build it ({type(error).__name__}: {error}).") from error
    try:
        as_tower(model.visual)
    except ItaclipError as error:
        raise ItaclipError(f"{name}: {error}") from error
    found = _in_openai_layout(model) or model
    found.tokenizer_source = source
    return found


def _tokenizer_source(text: Mapping[str, Any], folder: Path | None) -> TokenizerSource:
    hub = text.get("hf_tokenizer_name")
    options = tuple(sorted(text.get("tokenizer_kwargs", {}).items()))
    where = str(folder) if hub and folder else hub
    return TokenizerSource(where, text.get("context_length", 77), text.get("tokenizer_mode"), options)


def _text_configuration(hub: str, folder: Path | None) -> str:
    """Find the configuration of a transformers text tower: a folder, or the name on the hub.

    Raises:
        ItaclipError: it is not available.
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
    except Exception as error:  # transformers and the network raise many types
        raise ItaclipError(
            f"{hub}: the text tower's configuration could not be loaded ({type(error).__name__}).\n"
            f"  expected file: config.json\n"
            f"  put it in:     {' or '.join(str(f / hub.rsplit('/', 1)[-1]) for f in weight_folders())}\n"
            f"  address:       {ENDPOINT}/{hub}"
        ) from error
    return str(found or hub)


@contextmanager
def _without_weights() -> Iterator[None]:
    """Create modules in this thread whose parameters take no memory; buffers are computed.

    `torch.device("meta")` would leave buffers, such as masks and rotary tables, without values too.
    """
    thread = threading.get_ident()

    def emptied(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or threading.get_ident() != thread:
            return parameter
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    handle = register_module_parameter_registration_hook(emptied)  # type: ignore[arg-type]
    try:
        with torch.random.fork_rng(devices=[]):  # initialisation must not use up the caller's random numbers
            yield
    finally:
        handle.remove()


def _in_openai_layout(model: CustomTextCLIP) -> CLIP | None:
    """Convert a model to this project's modules; None if it has parts that OpenAI's layout lacks."""
    visual, text = model.visual, model.text
    if not isinstance(visual, VisionTransformer) or not isinstance(text, TextTransformer):
        return None
    blocks = [*visual.transformer.resblocks, *text.transformer.resblocks]
    activations = {_activation(block) for block in blocks}
    usual = all(norm.eps == nn.LayerNorm(1).eps for norm in model.modules() if isinstance(norm, nn.LayerNorm))
    pooled = visual.attn_pool is None and visual.pool_type == "tok" and text.pool_type == "argmax"
    if not (pooled and usual and text.attn_mask is not None and activations in ({"quick_gelu"}, {"gelu"})):
        return None
    quick_gelu, tower = activations == {"quick_gelu"}, as_tower(visual)
    with torch.device("meta"):
        found = CLIP(
            ImageTower(shape_of(visual), tower.patch_size, tower.table_side, tower.channels, quick_gelu),
            shape_of(text), text.context_length, text.vocab_size, tower.channels, quick_gelu,
        )  # fmt: skip
    theirs = {name.removeprefix("text."): value.shape for name, value in model.named_parameters()}
    ours = {name: value.shape for name, value in found.named_parameters()}
    different = {name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name)}
    return None if different - {"logit_scale"} else found


def _activation(block: Any) -> str:
    """Get the activation of a block; empty if OpenAI's layout does not have it."""
    kind = getattr(block.mlp, "gelu", None) if isinstance(block, ResidualAttentionBlock) else None
    if isinstance(kind, nn.GELU):
        return "gelu" if kind.approximate == "none" else ""
    return "quick_gelu" if isinstance(kind, QuickGELU) else ""


def shape_of(tower: Any) -> TransformerShape:
    """Read the sizes of a tower's blocks."""
    blocks = tower.transformer.resblocks
    return TransformerShape(
        blocks[0].ln_1.weight.shape[0],
        len(blocks),
        blocks[0].attn.num_heads,
        blocks[0].mlp.c_fc.out_features,
        blocks[0].ln_1.eps,
    )


def as_open_clip(clip: CLIP) -> open_clip.CLIP:
    """Put the weights into open_clip's modules, the reference in checks and benchmarks."""
    image, text, tower = shape_of(clip.visual), shape_of(clip), as_tower(clip.visual)
    with _without_weights():
        found = open_clip.CLIP(
            tower.channels,
            dict(width=image.width, layers=image.layers, head_width=image.width // image.heads,
                 mlp_ratio=image.hidden / image.width, patch_size=tower.patch_size, image_size=tower.image_size,
                 norm_kwargs={"eps": image.eps}),
            dict(width=text.width, layers=text.layers, heads=text.heads, mlp_ratio=text.hidden / text.width,
                 context_length=len(clip.positional_embedding), vocab_size=clip.token_embedding.num_embeddings,
                 norm_kwargs={"eps": text.eps}),
            quick_gelu=clip.quick_gelu,
        )  # fmt: skip
    found.load_state_dict(clip.state_dict(), assign=True)
    return found.requires_grad_(False).eval()
