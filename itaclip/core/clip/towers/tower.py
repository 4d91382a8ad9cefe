"""The interface of image towers that methods use, the same for all families.

Shapes: B windows, P tokens before the patches (class token, registers), N patches on a grid of
r x c, D width, E joint space, h heads of d channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.core.clip.blocks import Projections, attend
from itaclip.devices import kernel_device
from itaclip.errors import ItaclipError

Grid: TypeAlias = tuple[int, int]
Positions: TypeAlias = Literal["scale", "size", "antialias", "bilinear", "cut"]
PatchProjection: TypeAlias = Literal["values", "values_linear", "tokens"]

# CLIP's channel statistics of 0..255 RGB values, as every published configuration rounds them.
# The pipeline normalises all pixels with them; a tower that expects others converts.
MEAN = (122.771, 116.746, 104.094)
STD = (68.501, 66.632, 70.323)

_ALIKE = 1e-3  # CLIP's own statistics differ from the rounded ones by far less, other models' by more


class TowerBlock(ABC):
    """A pre-norm transformer block, bound to the positions of a token grid."""

    @abstractmethod
    def project(self, x: Tensor) -> Projections:
        """Compute queries, keys and values of ``norm_1(x)``, as the tower's attention compares them.

        Biases, norms and rotations are included.

        Args:
            x: B x (P + N) x D. The P tokens before the N patches have no place on the grid; P
                may be any number, including 0.
        """

    def query_of(self, x: Tensor) -> Tensor:
        """Compute only the queries, for M tokens without a place on the grid: B x h x M x d."""
        return self.project(x).query

    @abstractmethod
    def output(self, heads: Tensor) -> Tensor:
        """Apply all steps between the attention and the residual to concatenated heads, ... x (h d).

        These are a norm if the tower has one there, the output projection, and LayerScale: ... x D.
        """

    @abstractmethod
    def feed_forward(self, x: Tensor) -> Tensor:
        """Run the feed-forward network on ``norm_2(x)``, with LayerScale, without the residual."""

    @abstractmethod
    def lower(self, dtype: torch.dtype) -> None:
        """Convert the matrices to another precision; the norms before them stay in float32."""

    def merge_heads(self, heads: Tensor) -> Tensor:
        """Concatenate the heads, B x h x M x d, and apply `output`."""
        batch, _, tokens, _ = heads.shape
        return self.output(heads.transpose(1, 2).reshape(batch, tokens, -1))

    def run(self, x: Tensor, projections: Projections | None = None) -> Tensor:
        """Run the block as it was trained: attention and feed-forward network, each with a residual."""
        p = projections or self.project(x)
        x = x + self.merge_heads(attend(p.query, p.key, p.value))
        return x + self.feed_forward(x)

    def finish(self, x: Tensor, heads: Tensor, residual: bool, with_feed_forward: bool) -> Tensor:
        """Run the steps after the attention: output projection, residual, feed-forward network.

        Args:
            x: B x M x D, the block's input.
            heads: B x h x M x d, the output of its attention.
            residual: add the input.
            with_feed_forward: run the feed-forward network, with its residual.
        """
        update = self.merge_heads(heads).to(x.dtype)
        x = x + update if residual else update
        return x + self.feed_forward(x) if with_feed_forward else x


class Tower(ABC):
    """One image tower: embedding, blocks, last norm, and projection into the joint space.

    It has no weights of its own and uses those of the library's module, `visual`.

    Attributes:
        visual: the library's module.
        patch_size: side of a patch in pixels.
        table_side: side of the square token grid used in training.
        prefix: number of tokens before the patches, P; the class token comes first.
        depth: number of blocks, L.
        channels: channels of the joint space, E.
        resampling: how the library resamples positions to other grids. None for OpenAI's layout,
            where every method follows its own published code (`Method.positions`).
        patch_projections: ways in which a pooling head can map patches (`joint`); empty if tokens are
            simply projected into the joint space.
        rotates: whether queries and keys are rotated by the positions of their patches.
        vision_head: blocks and a norm that follow the tower itself (dino.txt); None if there are none.
        conversion: factors and offsets per channel from pixels normalised with `MEAN` and `STD` to
            those that the tower was trained on; None if they are the same.
    """

    patch_size: int
    table_side: int
    prefix: int
    depth: int
    channels: int
    resampling: ClassVar[Positions | None] = None
    patch_projections: tuple[PatchProjection, ...] = ()
    rotates: bool = False
    vision_head: Any = None

    def __init__(self, visual: Any) -> None:
        self.visual = visual
        mean, std = getattr(visual, "image_mean", None), getattr(visual, "image_std", None)
        self.conversion = None if mean is None or std is None else _conversion(mean, std)

    @property
    def image_size(self) -> int:
        """Side in pixels of the square images that the model was trained on."""
        return self.patch_size * self.table_side

    @property
    def device(self) -> torch.device:
        """Device of the tower."""
        found: torch.device = next(self.visual.parameters()).device
        return found

    @abstractmethod
    def embed(self, pixels: Tensor, grid: Grid, rule: Positions) -> Tensor:
        """Compute the tokens before the first block, B x (P + N) x D.

        Args:
            pixels: B x 3 x h x w, normalised for this tower, a whole number of patches.
            grid: rows and columns of patches.
            rule: how a table of positions is resampled to another grid.
        """

    @abstractmethod
    def blocks(self, grid: Grid) -> Sequence[TowerBlock]:
        """Get the L blocks for tokens on a grid; whatever depends on the grid is computed once."""

    @abstractmethod
    def norm(self, x: Tensor) -> Tensor:
        """Apply the last norm, which precedes pooling or projection."""

    @abstractmethod
    def joint(self, normed: Tensor, projection: PatchProjection = "values") -> Tensor:
        """Map tokens into the joint space one by one: ... x D to ... x E.

        If a class token is projected, so is every patch. A pooling head averages its values over
        the tokens; for it, ``"values"`` is what the head would return if it attended only to
        this token, ``"values_linear"`` omits the head's feed-forward network, and ``"tokens"``
        skips the head.
        """

    @abstractmethod
    def pooled(self, x: Tensor) -> Tensor:
        """Compute the library's feature of whole images, B x E, from the last block's output."""

    @abstractmethod
    def lower(self, dtype: torch.dtype) -> None:
        """Convert the matrices of the embedding and the blocks to another precision."""

    def check_head(self, reads_head: bool) -> None:
        """Refuse a method that reads a vision head where there is none.

        Raises:
            ItaclipError: this tower has none.
        """
        if reads_head and self.vision_head is None:
            raise ItaclipError("the method reads a vision head, which only dino.txt has (dinotxt-l16); choose another.")

    def check_projection(self, projection: PatchProjection | None) -> None:
        """Refuse a projection that this tower does not support.

        Raises:
            ItaclipError: it is not one of `patch_projections`.
        """
        if projection is not None and projection not in self.patch_projections:
            open_here = ", ".join(self.patch_projections)
            raise ItaclipError(
                f"patch_projection = {projection!r}: "
                + (f"this model's patches can be read as {open_here}." if open_here else
                   "this model has no pooling head; its patches are projected like its class token. Leave it None.")
            )  # fmt: skip


def patch_rows(pixels: Tensor, grid: Grid, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Embed the patches of B x 3 x h x w pixels with a convolution's weight (D x 3 x p x p): B x N x D.

    This is a matrix product because convolutions on a GPU round float32 to TF32 by default.
    """
    patch = weight.shape[-1]
    cut = pixels.to(weight.dtype).reshape(pixels.shape[0], -1, grid[0], patch, grid[1], patch)
    rows = cut.permute(0, 2, 4, 1, 3, 5).reshape(pixels.shape[0], grid[0] * grid[1], -1)
    return F.linear(rows, weight.flatten(1), bias)


def resample(table: Tensor, side: int, grid: Grid, rule: Positions) -> Tensor:
    """Resample a square table of positions to another token grid, bicubically unless the rule says otherwise.

    Args:
        table: (P + side^2) x D; the entries before the patches stay unchanged.
        side: side of the table's grid.
        grid: target rows and columns.
        rule: "scale" by the factor (n + 0.1) / side, as published dense codes do; "size" to the
            exact size; "antialias" also to the exact size, smoothed when shrinking, as open_clip
            and timm do; "bilinear" like "antialias", but bilinearly (TIPSv2); "cut" bilinearly to a
            square of the longer side, of which the first rows and columns are taken (RADIO).

    Returns:
        (P + rows * columns) x D.
    """
    if grid == (side, side):
        return table
    first, patches = table[: len(table) - side * side].float(), table[len(table) - side * side :].float()
    square = patches.T.reshape(1, -1, side, side)
    if rule == "scale":
        factors = [(n + 0.1) / side for n in grid]
        found = F.interpolate(square, scale_factor=factors, mode="bicubic", recompute_scale_factor=False)
    elif rule == "cut":
        longer = max(grid)
        found = F.interpolate(square, size=(longer, longer), mode="bilinear")[..., : grid[0], : grid[1]]
    elif rule in ("antialias", "bilinear"):
        mode = "bilinear" if rule == "bilinear" else "bicubic"
        place = kernel_device(f"_upsample_{mode}2d_aa", square.device)  # MPS has bicubic since PyTorch 2.8
        found = F.interpolate(square.to(place), size=grid, mode=mode, antialias=True).to(square.device)
    else:
        found = F.interpolate(square, size=grid, mode="bicubic")
    return torch.cat([first, found.flatten(2)[0].T])


def _conversion(mean: Sequence[float], std: Sequence[float]) -> tuple[list[float], list[float]] | None:
    """Compute scale and shift from CLIP's statistics to others for values in [0, 1]; None if they agree."""
    scale = [by / (255 * to) for by, to in zip(STD, std, strict=True)]
    shift = [(by / 255 - to) / s for by, to, s in zip(MEAN, mean, std, strict=True)]
    alike = max(abs(s - 1) for s in scale) < _ALIKE and max(map(abs, shift)) < _ALIKE
    return None if alike else (scale, shift)
