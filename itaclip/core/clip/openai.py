"""CLIP in OpenAI's layout (Radford et al., 2021): the parameters of both towers under their published names.

These modules hold parameters only. `itaclip.core.clip.blocks`, `itaclip.core.clip.towers.openai` and
`itaclip.core.text.encoder` compute with them. open_clip builds all other layouts; not importing it for
this one halves the start time.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from itaclip.core.clip.facts import Fact
from itaclip.core.clip.tokenizer_source import TokenizerSource


@dataclass(frozen=True)
class TransformerShape:
    """Sizes of a tower's blocks.

    Attributes:
        width: channels of a token, D.
        layers: number of blocks, L.
        heads: attention heads per block, h; they divide the width.
        hidden: channels inside the feed-forward network.
        eps: epsilon of the norms.
    """

    width: int
    layers: int
    heads: int
    hidden: int
    eps: float = 1e-5


class QuickGELU(nn.Module):
    """``x sigmoid(1.702 x)``, the activation of OpenAI's weights."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """A pre-norm transformer block; `itaclip.core.clip.blocks` computes with it."""

    def __init__(self, shape: TransformerShape, quick_gelu: bool) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(shape.width, shape.eps)
        self.attn = nn.MultiheadAttention(shape.width, shape.heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(shape.width, shape.eps)
        self.mlp = nn.Sequential(OrderedDict(
            c_fc=nn.Linear(shape.width, shape.hidden),
            gelu=QuickGELU() if quick_gelu else nn.GELU(),
            c_proj=nn.Linear(shape.hidden, shape.width),
        ))  # fmt: skip


class Transformer(nn.Module):
    """The blocks of a tower."""

    def __init__(self, shape: TransformerShape, quick_gelu: bool) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(shape, quick_gelu) for _ in range(shape.layers))


class ImageTower(nn.Module):
    """The image tower: a ViT with a class token.

    Args:
        shape: sizes of the blocks.
        patch: side of a patch in pixels.
        grid: side of the square token grid used in training.
        channels: channels of the joint space, E.
        quick_gelu: `QuickGELU` instead of GELU.
    """

    def __init__(self, shape: TransformerShape, patch: int, grid: int, channels: int, quick_gelu: bool) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.empty(shape.width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + grid**2, shape.width))
        self.proj = nn.Parameter(torch.empty(shape.width, channels))
        self.conv1 = nn.Conv2d(3, shape.width, patch, stride=patch, bias=False)
        self.ln_pre = nn.LayerNorm(shape.width, shape.eps)
        self.transformer = Transformer(shape, quick_gelu)
        self.ln_post = nn.LayerNorm(shape.width, shape.eps)


class CLIP(nn.Module):
    """Both towers. The causal text tower has no module of its own, as in the published weights.

    Args:
        visual: the image tower.
        shape: sizes of the text tower's blocks.
        context_length: tokens of a prompt.
        vocabulary: number of tokens.
        channels: channels of the joint space, E.
        quick_gelu: `QuickGELU` instead of GELU, in the text tower.

    Attributes:
        tokenizer_source: the tokenizer that the text tower was trained with.
        facts: what the tensors do not show, and where it was taken from.
        logit_bias: None; models trained with a sigmoid have one.
    """

    logit_bias = None

    def __init__(
        self,
        visual: ImageTower,
        shape: TransformerShape,
        context_length: int,
        vocabulary: int,
        channels: int,
        quick_gelu: bool,
    ) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.empty(context_length, shape.width))
        self.text_projection = nn.Parameter(torch.empty(shape.width, channels))
        self.logit_scale = nn.Parameter(torch.empty([]))
        self.visual = visual
        self.transformer = Transformer(shape, quick_gelu)
        # not nn.Embedding(...), whose random initialisation imports PyTorch's compiler on the meta device
        self.token_embedding = nn.Embedding.from_pretrained(torch.empty(vocabulary, shape.width), freeze=False)
        self.ln_final = nn.LayerNorm(shape.width, shape.eps)
        self.tokenizer_source = TokenizerSource(context_length=context_length)
        self.facts: tuple[Fact, ...] = ()

    @property
    def quick_gelu(self) -> bool:
        """Whether the activation is `QuickGELU`."""
        return any(isinstance(module, QuickGELU) for module in self.transformer.modules())
