"""CLIP's image tower with deep visual prompts, shared by both methods.

Shapes: B images, N = h w patches, n prompts per block, D width of the tower, E width of the
joint space. The order of tokens is [class, n prompts, N patches, tokens of the method].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from itaclip.core.clip.blocks import Block, attend, feed_forward, merge_heads, project
from itaclip.errors import ItaclipError
from itaclip.research.zero_shot.settings import EncoderSettings

_PROMPT_NORM_EPS = 1e-6  # published; every other LayerNorm has 1e-5


@dataclass(frozen=True)
class ImageFeatures:
    """Output of an encoder; every vector has unit norm.

    Attributes:
        levels: features of some blocks in order, each B x N x E, patches row by row.
        whole: the class token, B x E.
        grid: number of rows and columns of patches, h and w.
        regions: CLIP-RC's region tokens, B x R x E, row by row; None for Cascade-CLIP.
    """

    levels: tuple[Tensor, ...]
    whole: Tensor
    grid: tuple[int, int]
    regions: Tensor | None = None


class PromptedEncoder(nn.Module):
    """A frozen ViT with learned prompt tokens in each block (VPT-deep; Jia et al., ECCV 2022).

    Only parameters with "prompt" in their name are trained. Parameter names are those of the
    published checkpoints.

    Args:
        visual: an image tower in OpenAI's layout; its modules are reused, not copied.
        settings: sizes of the encoder; the position table is resized to `image_size`.

    Raises:
        ItaclipError: `image_size` is not a multiple of the patch size.
    """

    def __init__(self, visual: Any, settings: EncoderSettings) -> None:
        super().__init__()
        self.settings = settings
        self.conv1 = visual.conv1
        self.class_embedding = visual.class_embedding
        self.ln_pre, self.ln_post = visual.ln_pre, visual.ln_post
        self.transformer = visual.transformer
        self.proj = visual.proj
        if settings.image_size % self.patch_size:
            raise ItaclipError(
                f"image_size = {settings.image_size}: expected a multiple of the patch size {self.patch_size}."
            )
        side = settings.image_size // self.patch_size
        table = visual.positional_embedding.detach()
        self.positional_embedding = nn.Parameter(resize_positions(table, (side, side)).clone())
        width, blocks = table.shape[1], len(self.blocks)
        self.prompt_embeddings = nn.Parameter(torch.empty(1, settings.prompts, width))
        self.deep_prompt_embeddings = nn.Parameter(torch.empty(blocks - 1, settings.prompts, width))
        self.prompt_proj = nn.Linear(width, width)
        self.prompt_norm = nn.LayerNorm(width, eps=_PROMPT_NORM_EPS)
        self._initialise()

    def _initialise(self) -> None:
        """Set the published initial values; other parameters keep PyTorch's defaults."""
        bound = (6 / (3 * self.patch_size**2 + self.positional_embedding.shape[1])) ** 0.5
        nn.init.uniform_(self.prompt_embeddings, -bound, bound)
        nn.init.uniform_(self.deep_prompt_embeddings, -bound, bound)
        nn.init.kaiming_normal_(self.prompt_proj.weight, mode="fan_out")

    def freeze(self) -> None:
        """Leave only the prompts trainable."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_("prompt" in name)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks."""
        blocks: nn.ModuleList = self.transformer.resblocks
        return blocks

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return int(self.conv1.kernel_size[0])

    @property
    def joint_width(self) -> int:
        """Width E of the joint space."""
        return int(self.proj.shape[1])

    def forward(self, pixels: Tensor) -> ImageFeatures:
        """Encode images.

        Args:
            pixels: B x 3 x H x W float RGB, normalised with ImageNet's statistics, as in the
                published training (not CLIP's); H = W is a multiple of the patch size.

        Raises:
            ItaclipError: sides that the method does not support.
        """
        raise NotImplementedError

    def run(self, tokens: Tensor, taps: tuple[int, ...] = (), mask: Tensor | None = None) -> list[Tensor]:
        """Pass embedded tokens through all blocks.

        Args:
            tokens: B x (1 + N ...) x D after ``ln_pre``, without prompts.
            taps: blocks, counted from 0, whose output to return in addition to the last one's.
            mask: T x T bool, True where a query may attend to a key; None for everywhere.

        Returns:
            Tokens with prompts after every tapped block and after the last one.
        """
        n, found = self.settings.prompts, []
        embeddings = torch.cat([self.prompt_embeddings, self.deep_prompt_embeddings])
        prompts = self.prompt_proj(embeddings).to(tokens.dtype)
        after = tokens[:, 1:]
        x = tokens
        for i, block in enumerate(self.blocks):
            own = prompts[i].expand(len(x), -1, -1)
            # the previous block's output for its prompts is discarded
            x = torch.cat([x[:, :1], F.dropout(own, self.settings.prompt_dropout, self.training), after], dim=1)
            if self.settings.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(_run_block, block, x, mask, use_reentrant=False)
            else:
                x = _run_block(block, x, mask)
            after = x[:, 1 + n :]
            if i in taps or i == len(self.blocks) - 1:
                found.append(x)
        return found

    def embed(self, pixels: Tensor, appended: Tensor | None = None) -> tuple[Tensor, tuple[int, int]]:
        """Embed images: class token, patches with positions, and appended tokens without, after ``ln_pre``.

        The class token is ``2 c + P_0``: the published models add the class embedding twice.

        Args:
            pixels: see `forward`.
            appended: R x D tokens to append after the patches.

        Returns:
            B x (1 + N + R) x D, and the grid.

        Raises:
            ItaclipError: sides that are unequal or not multiples of the patch size.
        """
        height, width = pixels.shape[-2:]
        if height != width or height % self.patch_size or not height:
            raise ItaclipError(
                f"input of {height} x {width} pixels: expected a square whose side is a multiple of {self.patch_size}."
            )
        patches = self.conv1(pixels)
        grid = (patches.shape[2], patches.shape[3])
        positions = resize_positions(self.positional_embedding, grid).to(patches.dtype)
        x = patches.flatten(2).transpose(1, 2) + positions[1:]
        first = (2 * self.class_embedding + positions[0]).to(x.dtype).expand(len(x), 1, -1)
        parts = [first, x] if appended is None else [first, x, appended.to(x.dtype).expand(len(x), -1, -1)]
        return self.ln_pre(torch.cat(parts, dim=1)), grid

    def to_joint_space(self, normed: Tensor) -> Tensor:
        """Map normalised tokens (... x D) to unit vectors of the joint space (... x E)."""
        return unit(self.ln_post(normed) @ self.proj)


def _run_block(block: Block, x: Tensor, mask: Tensor | None) -> Tensor:
    """Run CLIP's block with masked attention."""
    p = project(block, x)
    x = x + merge_heads(block, attend(p.query, p.key, p.value, bias=mask))
    return x + feed_forward(block, x)


def unit(x: Tensor) -> Tensor:
    """Normalise vectors along the last axis, in float32, without an epsilon."""
    x = x.float()
    return x / x.norm(dim=-1, keepdim=True)


def resize_positions(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize positional embeddings, (1 + side * side) x D, to another grid bilinearly; the first row stays."""
    side = round((table.shape[0] - 1) ** 0.5)
    if grid == (side, side):
        return table
    square = table[1:].T.reshape(1, -1, side, side)
    patches = F.interpolate(square, size=grid, mode="bilinear", align_corners=False)
    return torch.cat([table[:1], patches.flatten(2)[0].T])
