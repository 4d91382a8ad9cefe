"""Load dino.txt on DINOv3 (Jose et al., CVPR 2025, arXiv 2412.16334): backbone, vision head and text tower.

Two files make one model: a backbone of DINOv3, and the file of torch.hub with the vision head and the text tower. Their
licence forbids to copy code, and weights are handed out after an application; modules and names of tensors are written
down as known, and no published file could be read here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itaclip.core.clip import facts
from itaclip.core.clip.blocks import run_block
from itaclip.core.clip.download import weight_folders
from itaclip.core.clip.facts import Fact
from itaclip.core.clip.image_text import ImageTextModel
from itaclip.core.clip.openai import Transformer, TransformerShape
from itaclip.core.clip.tokenizer_source import TokenizerSource
from itaclip.core.clip.weights import check_tensors, load_tensors, read_state
from itaclip.core.second_encoders.loading import trunk_of
from itaclip.core.second_encoders.weights import EVA, read_second_weights
from itaclip.errors import ItaclipError

HEAD_FILE = "*dinotxt_vision_head_and_text_encoder*"
"""Name of the file with vision head and text tower."""

_SUFFIXES = (".pth", ".pt", ".safetensors")
_HEAD = 64  # channels of an attention head, in both towers
_TEXT_NAMES = (
    (r"\battention_norm\.", "ln_1."), (r"\bffn_norm\.", "ln_2."), (r"\battention\.qkv\.weight", "attn.in_proj_weight"),
    (r"\battention\.qkv\.bias", "attn.in_proj_bias"), (r"\battention\.proj\.", "attn.out_proj."),
    (r"\bfeed_forward\.fc1\.", "mlp.c_fc."), (r"\bfeed_forward\.fc2\.", "mlp.c_proj."),
    (r"^backbone\.blocks\.", "transformer.resblocks."), (r"^backbone\.", ""),
    (r"^head\.linear_projection\.weight$", "text_projection"),
)  # fmt: skip


class HeadBlock(nn.Module):
    """A block of the vision head, with LayerScale and a gated feed-forward network, under its published names.

    Args:
        width: channels of a token.
        hidden: channels inside the feed-forward network.
        bias: whether queries, keys and values have biases.
    """

    def __init__(self, width: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width, bias=bias), "proj": nn.Linear(width, width)})
        self.ls1, self.ls2 = (nn.ParameterDict({"gamma": torch.ones(width)}) for _ in range(2))
        self.mlp = nn.ModuleDict({"w1": nn.Linear(width, hidden), "w2": nn.Linear(width, hidden),
                                  "w3": nn.Linear(hidden, width)})  # fmt: skip

    def values(self, x: Tensor) -> Tensor:
        """Compute the values of all heads, concatenated: ... x D."""
        qkv: Any = self.attn["qkv"]
        width = x.shape[-1]
        bias = None if qkv.bias is None else qkv.bias[2 * width :]
        return F.linear(self.norm1(x), qkv.weight[2 * width :], bias)

    def finish(self, x: Tensor, heads: Tensor) -> Tensor:
        """Add attended values, ... x D, and run the feed-forward network."""
        x = x + self.ls1["gamma"] * self.attn["proj"](heads)
        normed = self.norm2(x)
        return x + self.ls2["gamma"] * self.mlp["w3"](F.silu(self.mlp["w1"](normed)) * self.mlp["w2"](normed))

    def forward(self, x: Tensor) -> Tensor:
        """Run the block as it was trained: B x M x D."""
        qkv: Tensor = self.attn["qkv"](self.norm1(x))
        q, k, v = (part.unflatten(-1, (-1, _HEAD)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        return self.finish(x, F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class VisionHead(nn.Module):
    """The vision head: blocks over all tokens of the backbone, and a norm."""

    def __init__(self, width: int, hidden: int, blocks: int, bias: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(HeadBlock(width, hidden, bias) for _ in range(blocks))
        self.ln_final = nn.LayerNorm(width)


class DinoTxtImage(nn.Module):
    """A backbone of DINOv3 as timm has it, and the vision head."""

    def __init__(self, trunk: nn.Module, vision_head: VisionHead) -> None:
        super().__init__()
        self.trunk: Any = trunk
        self.head = nn.Identity()  # patches are in the joint space as they are
        self.vision_head = vision_head

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute features of B x 3 x h x w normalised pixels: class token and mean patch after the head, B x 2D."""
        x = self.trunk.forward_features(pixels)
        for block in self.vision_head.blocks:
            x = block(x)
        x = self.vision_head.ln_final(x)
        return torch.cat([x[:, 0], x[:, self.trunk.num_prefix_tokens :].mean(1)], dim=-1)


class CausalText(nn.Module):
    """A causal text tower in OpenAI's layout, whose projection keeps the half of the channels that patches meet."""

    def __init__(self, shape: TransformerShape, context_length: int, vocabulary: int, channels: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, shape.width)
        self.positional_embedding = nn.Parameter(torch.zeros(context_length, shape.width))
        self.transformer = Transformer(shape, False)
        self.ln_final = nn.LayerNorm(shape.width)
        self.text_projection = nn.Parameter(torch.zeros(shape.width, channels))

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode T x M tokens as T x E: the token with the highest id ends a text."""
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        for block in self.transformer.resblocks:
            x = run_block(block, x, causal=True)
        ends = self.ln_final(x[torch.arange(len(x), device=x.device), tokens.argmax(1)])
        return cast(Tensor, ends @ self.text_projection)


def load_dinotxt(folder: Path) -> ImageTextModel:
    """Load a folder with the two files of a model, one of them named like `HEAD_FILE`.

    The backbone may be in DINOv3's own layout, in timm's or in Transformers', see
    `itaclip.core.second_encoders.weights.read_second_weights`.

    Raises:
        ItaclipError: a file is missing, damaged or of another layout, or the two do not fit.
    """
    files = [path for path in sorted(folder.glob("*")) if path.suffix in _SUFFIXES] if folder.is_dir() else []
    heads = [path for path in files if path.match(HEAD_FILE)]
    trunks = [path for path in files if path not in heads]
    if len(heads) != 1 or len(trunks) != 1:
        raise ItaclipError(
            f"{folder}: expected two files: {HEAD_FILE} (found {len(heads)}) and a backbone of DINOv3 ViT-L/16 (found "
            f"{len(trunks)}). Meta hands them out after an application; put them into a folder dinotxt-l16 in "
            f"{' or '.join(map(str, weight_folders()))}, or name it: dinotxt-l16:FOLDER."
        )
    backbone = read_second_weights(trunks[0])
    if backbone.family != EVA:
        raise ItaclipError(f"{backbone.path}: not a backbone of DINOv3: it has a table of positions.")
    trunk: Any = trunk_of(backbone)
    path = heads[0]
    state = read_state(path) if path.suffix == ".safetensors" else load_tensors(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ItaclipError(f"{path}: expected a state dict (tensors by name), found {type(state).__name__}.")
    head = _vision_head(_part(state, "visual_model.head."), path)
    text = _text(_part(state, "text_model."), path)
    width = head.ln_final.weight.shape[0]
    if (trunk.embed_dim, text.text_projection.shape[1]) != (width, width):
        raise ItaclipError(
            f"{path}: patches of {width} channels meet texts of {text.text_projection.shape[1]}, and {trunks[0].name} "
            f"has {trunk.embed_dim}; these belong to different models."
        )
    visual = DinoTxtImage(trunk, head)
    learned = state.get("logit_scale")
    found = (
        facts.heads(facts.IMAGE_HEADS, width // _HEAD, width, "as all DINO models"),
        facts.heads(facts.TEXT_HEADS, text.token_embedding.embedding_dim // _HEAD, text.token_embedding.embedding_dim,
                    "as the published model"),
        facts.normalisation(backbone.mean, backbone.std, "as DINOv3"),
        Fact(facts.TOKENIZER, "CLIP's byte pairs", "its code"),
    )  # fmt: skip
    return ImageTextModel(
        visual, text, lambda pixels: visual(pixels)[:, width:],
        temperature=0.01 if learned is None else float(torch.exp(-learned.float())),
        tokenizer=TokenizerSource(context_length=len(text.positional_embedding)), facts=found,
        statistics=(tuple(backbone.mean), tuple(backbone.std)),
    )  # fmt: skip


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value.float() for key, value in state.items() if key.startswith(prefix)}


def _vision_head(state: dict[str, Tensor], path: Path) -> VisionHead:
    gate = _needed(state, "blocks.0.mlp.w1.weight", path, "visual_model.head.")
    blocks = {match[1] for key in state if (match := re.match(r"blocks\.(\d+)\.", key))}
    head = VisionHead(gate.shape[1], gate.shape[0], len(blocks), "blocks.0.attn.qkv.bias" in state)
    state = {key: value for key, value in state.items() if not key.endswith("bias_mask")}
    return cast(VisionHead, _filled(head, state, path, "visual_model.head."))


def _text(state: dict[str, Tensor], path: Path) -> CausalText:
    for pattern, ours in _TEXT_NAMES:
        state = {re.sub(pattern, ours, key): value for key, value in state.items()}
    words, places, projection, hidden = (
        _needed(state, key, path, "text_model, renamed: ")
        for key in ("token_embedding.weight", "positional_embedding", "text_projection",
                    "transformer.resblocks.0.mlp.c_fc.weight")
    )  # fmt: skip
    blocks = {match[1] for key in state if (match := re.match(r"transformer\.resblocks\.(\d+)\.", key))}
    half = projection.shape[0] // 2  # the first half of a text meets the class token, the second the patches
    state["text_projection"] = projection[half:].T.contiguous()
    for number in blocks:
        name = f"transformer.resblocks.{number}.attn.in_proj_bias"
        state.setdefault(name, torch.zeros(3 * words.shape[1]))
    shape = TransformerShape(words.shape[1], len(blocks), max(1, words.shape[1] // _HEAD), hidden.shape[0])
    text = CausalText(shape, places.shape[0], words.shape[0], half)
    return cast(CausalText, _filled(text, state, path, "text_model, renamed: "))


def _needed(state: Mapping[str, Tensor], key: str, path: Path, prefix: str) -> Tensor:
    check_tensors(path, {"missing": [] if key in state else [prefix + key]}, "Not the file of dino.txt for torch.hub?")
    return state[key]


def _filled(module: nn.Module, state: Mapping[str, Tensor], path: Path, prefix: str) -> nn.Module:
    expected = module.state_dict()
    wrong = [f"{prefix}{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}"
             for key, value in expected.items() if key in state and state[key].shape != value.shape]  # fmt: skip
    problems = {"missing": sorted(prefix + key for key in expected.keys() - state.keys()), "of a wrong shape": wrong,
                "unexpected": sorted(prefix + key for key in state.keys() - expected.keys())}  # fmt: skip
    check_tensors(path, problems, "Another version of dino.txt, or a damaged file?")
    module.load_state_dict(dict(state))
    return module
