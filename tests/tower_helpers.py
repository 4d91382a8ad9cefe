"""Small models of every family, with random weights, as files that open_clip's users have."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from safetensors.torch import save_file
from timm.layers import LayerNorm
from timm.models import register_model
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WIDTH, DEPTH, CHANNELS, SIDE, PATCH = 64, 6, 48, 64, 16
"""Of the image towers; the joint space has `CHANNELS`, or the tower's width where nothing projects."""

_SIZES: dict[str, Any] = dict(img_size=SIDE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=2)

SIMPLE_TEXT: dict[str, Any] = dict(context_length=16, vocab_size=49408, width=32, heads=2, layers=2)
HF_TEXT: dict[str, Any] = SIMPLE_TEXT | dict(vocab_size=100, hf_tokenizer_name="somebody/words")

WORDS = ["a", "photo", "of", "cat", "dog", "sofa", "wall", "the", "background", "small", "."]


def _made(kind: Any, options: dict[str, Any], kwargs: dict[str, Any]) -> Any:
    """A model as timm's registry makes it, but for what concerns published weights."""
    wanted = {k: v for k, v in kwargs.items() if k not in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")}
    model = kind(**_SIZES | options | wanted)
    model.default_cfg = {}
    return model


@register_model
def tower_of_siglip(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    return _made(VisionTransformer, dict(class_token=False, global_pool="map"), kwargs)


@register_model
def tower_of_means(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    options: dict[str, Any] = dict(global_pool="avg", qk_norm=True, init_values=0.3, reg_tokens=2, no_embed_class=True)
    return _made(VisionTransformer, options, kwargs)


@register_model
def tower_of_eva01(pretrained: bool = False, **kwargs: Any) -> Eva:
    return _made(Eva, dict(global_pool="token"), kwargs)


@register_model
def tower_of_eva02(pretrained: bool = False, **kwargs: Any) -> Eva:
    options: dict[str, Any] = dict(qkv_fused=False, mlp_ratio=8 / 3, swiglu_mlp=True, scale_mlp=True)
    options |= dict(scale_attn_inner=True, use_rot_pos_emb=True, ref_feat_shape=(16, 16), global_pool="token")
    return _made(Eva, options, kwargs)


@register_model
def tower_of_eva_post_norm(pretrained: bool = False, **kwargs: Any) -> Eva:
    return _made(Eva, dict(use_post_norm=True, global_pool="token"), kwargs)


@register_model
def tower_of_pe(pretrained: bool = False, **kwargs: Any) -> Eva:
    options: dict[str, Any] = dict(global_pool="map", attn_type="rope", use_pre_transformer_norm=True)
    options |= dict(use_rot_pos_emb=True, ref_feat_shape=(4, 4), rope_grid_offset=1.0, rope_grid_indexing="xy")
    options |= dict(attn_pool_num_heads=4, attn_pool_mlp_ratio=4.0, norm_layer=partial(LayerNorm, eps=1e-5))
    return _made(Eva, options, kwargs)


@register_model
def tower_of_pe_without_class(pretrained: bool = False, **kwargs: Any) -> Eva:
    return tower_of_pe(class_token=False, init_values=0.3, **kwargs)


def _timm(name: str, pool: str, **more: Any) -> dict[str, Any]:
    return dict(timm_model_name=name, timm_pool=pool, timm_proj=None, image_size=SIDE) | more


def _open_clip(**more: Any) -> dict[str, Any]:
    return dict(image_size=SIDE, layers=DEPTH, width=WIDTH, head_width=32, patch_size=PATCH) | more


def _config(vision: dict[str, Any], text: dict[str, Any] = SIMPLE_TEXT, **more: Any) -> dict[str, Any]:
    return dict(embed_dim=CHANNELS, vision_cfg=vision, text_cfg=text) | more


_SIGLIP_TEXT = HF_TEXT | dict(no_causal_mask=True, proj_bias=True, pool_type="last", norm_kwargs={"eps": 1e-6})
_SIGLIP_TEXT |= dict(act_kwargs={"approximate": "tanh"}, tokenizer_kwargs={"clean": "canonicalize"})
_CUSTOM = dict(qk_norm=True, scale_heads=True, scale_attn_inner=True, scale_attn=True, scale_fc=True)
_CLIPA_TEXT = HF_TEXT | dict(pool_type="last", no_causal_mask=True)

FAMILIES: dict[str, dict[str, Any]] = {
    "openai": _config(_open_clip()),
    "layer_scale": _config(_open_clip(ls_init_value=0.3)),
    "worldwide": _config(_open_clip(), HF_TEXT | dict(pool_type="eos", eos_id=2)),
    "clipa": _config(_open_clip(no_ln_pre=True, pool_type="avg", final_ln_after_pool=True), _CLIPA_TEXT),
    "custom": _config(_open_clip(**_CUSTOM)),
    "coca": _config(_open_clip(attentional_pool=True, attn_pooler_queries=5, attn_pooler_heads=4, output_tokens=True),
                    SIMPLE_TEXT | dict(embed_cls=True, output_tokens=True), custom_text=True,
                    multimodal_cfg=dict(context_length=16, vocab_size=49408, width=32, heads=2, layers=1)),
    "siglip": _config(_timm("tower_of_siglip", "map", timm_proj="none"), _SIGLIP_TEXT, embed_dim=WIDTH,
                      custom_text=True, init_logit_bias=-10),
    "means": _config(_timm("tower_of_means", "avg", timm_proj="linear"), custom_text=True),
    "eva01": _config(_timm("tower_of_eva01", "token"), custom_text=True),
    "eva02": _config(_timm("tower_of_eva02", "token"), custom_text=True),
    "eva_post_norm": _config(_timm("tower_of_eva_post_norm", "token"), custom_text=True),
    "pe": _config(_timm("tower_of_pe", "map"), custom_text=True),
    "pe_without_class": _config(_timm("tower_of_pe_without_class", "map"), custom_text=True),
}  # fmt: skip

STATISTICS = {"siglip": (0.5, 0.5), "pe": (0.5, 0.5), "pe_without_class": (0.5, 0.5), "clipa": (0.45, 0.22)}
"""Mean and deviation of pixels of the families that do not have CLIP's."""

TIMM = ("siglip", "means", "eva01", "eva02", "eva_post_norm", "pe", "pe_without_class")


def their_model(family: str, seed: int = 0) -> Any:
    """open_clip's own model; weights are drawn so that no part of it is an identity or a constant."""
    config = copy.deepcopy(FAMILIES[family])
    torch.manual_seed(seed)
    if "multimodal_cfg" in config:
        config.pop("custom_text")
        model = CoCa(**config)
    else:
        own = config.pop("custom_text", False) or config["text_cfg"].get("no_causal_mask")
        model = (CustomTextCLIP if own else CLIP)(**config)
    randomise(model)
    return model.eval().requires_grad_(False)


def randomise(model: torch.nn.Module) -> None:
    """Every parameter away from zeros and ones."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            elif "logit" not in name:
                parameter.add_(0.1 * torch.randn_like(parameter))


def folder_of(family: str, where: Path, seed: int = 0) -> Path:
    """The model as a folder with `open_clip_config.json`, weights and tokenizer."""
    where.mkdir(parents=True)
    mean, std = STATISTICS.get(family, (None, None))
    preprocessing = {} if mean is None else {"mean": [mean] * 3, "std": [std] * 3}
    described = {"model_cfg": FAMILIES[family], "preprocess_cfg": preprocessing}
    (where / "open_clip_config.json").write_text(json.dumps(described))
    model = their_model(family, seed)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, where / "open_clip_model.safetensors")
    if "hf_tokenizer_name" in FAMILIES[family]["text_cfg"]:
        tokenizer_files(where)
    return where


def tokenizer_files(where: Path) -> None:
    """A tokenizer of a few words: 0 pads, 2 ends a text, unknown words are 1."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", "</s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", padding_side="right"
    )
    wrapped.save_pretrained(where)
