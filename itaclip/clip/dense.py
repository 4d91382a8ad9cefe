"""The dense image encoder: CLIP's ViT, read token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itaclip.clip.blocks import Block, Projections, feed_forward, merge_heads, project, round_to_int8, run_block
from itaclip.clip.int8 import check_int8
from itaclip.clip.methods import Method, Positions
from itaclip.errors import ItaclipError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class _Stream:
    """What one method has made of the blocks so far.

    Attributes:
        method: whose it is.
        x: B x N x D, once the method has left the ordinary stream.
        middle: projections of the middle layers passed.
    """

    method: Method
    x: Tensor | None = None
    middle: list[Projections] = field(default_factory=list)


class DenseEncoder(nn.Module):
    """Image tower that returns a feature for every patch (ITACLIP, section 3).

    Args:
        visual: open_clip's image tower of OpenAI's layout.
        method: how the last block(s) are read.

    Raises:
        ItaclipError: a middle layer that the tower does not have.
    """

    def __init__(self, visual: Any, method: Method) -> None:
        super().__init__()
        self.visual: Any = visual
        self.method = method
        self.blocks: nn.ModuleList = visual.transformer.resblocks
        self.most_windows: int | None = None  # that a pass has been found to hold; None: not tried
        self._compile = False
        self._check(method)

    def _check(self, method: Method) -> None:
        layers = len(self.blocks)
        # The last block's own maps enter anyway, so a middle layer comes before it.
        beyond = [i for i in method.middle_layers if not 1 <= i < layers]
        if beyond:
            raise ItaclipError(
                f"middle_layers {list(method.middle_layers)}: {beyond} are not among 1..{layers - 1} of this "
                f"{layers}-block model; set middle_layers for it."
            )
        if method.depth > layers:
            raise ItaclipError(f"the method changes the last {method.depth} blocks; this model has {layers}.")

    def lower(self, precision: str) -> DenseEncoder:
        """Put the matrices, where the time goes, into another precision.

        The residual stream, the norms, the positions and the last projection stay in float32:
        rounding them as well costs agreement and saves nothing.

        Args:
            precision: fp32, bf16, fp16, or int8: matrices in 8 bits, the rest in bf16 where the
                processor has it.

        Raises:
            ItaclipError: int8 on a processor that is not made for it.
        """
        if precision == "int8":
            check_int8()
            dtype = torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
            for block in self.blocks:
                round_to_int8(block, dtype)
        else:
            dtype = DTYPES[precision]
            for block in self.blocks:
                block.attn.to(dtype)
                block.mlp.to(dtype)
        self.visual.conv1.to(dtype)
        return self

    def compiled(self) -> DenseEncoder:
        """Let torch.compile fuse what lies between the matrix products, from the first pass on."""
        self._compile = True
        return self

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return int(self.visual.conv1.kernel_size[0])

    @property
    def image_size(self) -> int:
        """Side in pixels of the square images that the model was trained on."""
        return self.patch_size * self.table_side

    @property
    def table_side(self) -> int:
        """Side of the square grid of positional embeddings."""
        return round((self.visual.positional_embedding.shape[0] - 1) ** 0.5)

    def forward(self, pixels: Tensor) -> Tensor:
        """Tokens in the joint space, before normalisation.

        Args:
            pixels: B x 3 x h x w, RGB, normalised with CLIP's mean and std; sides are
                multiples of the patch size.

        Returns:
            B x (1 + rows * columns) x E, class token first, patches row by row.

        Raises:
            ItaclipError: sides that are not multiples of the patch size.
        """
        return self.read(pixels, [self.method])[0]

    def read(self, pixels: Tensor, methods: Sequence[Method]) -> list[Tensor]:
        """Tokens of several methods from one pass: the ordinary blocks run once for all.

        Args:
            pixels: as for `forward`.
            methods: they resample positional embeddings alike.

        Returns:
            What `forward` returns, per method.

        Raises:
            ItaclipError: as `forward` and the constructor; or methods that resample
                positional embeddings in different ways; or a failure of torch.compile.
        """
        for method in methods:
            self._check(method)
        if len({method.positions for method in methods}) > 1:
            raise ItaclipError("methods that resample positional embeddings differently cannot share a pass.")
        if not self._compile:
            return self._tokens(pixels, methods)
        torch._dynamo.maybe_mark_dynamic(pixels, 0)  # or every number of views would be compiled anew
        try:
            return _compiled_tokens()(self, pixels, methods)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).splitlines()[0]
            raise ItaclipError(
                f"compile = True: torch.compile failed ({reason}); it needs a C++ compiler, or Triton on a GPU. "
                "Or set compile=False."
            ) from error

    def _tokens(self, pixels: Tensor, methods: Sequence[Method]) -> list[Tensor]:
        x, grid = self._embed(pixels, methods[0].positions)
        last = len(self.blocks) - 1
        streams = [_Stream(method) for method in methods]
        for i, block in enumerate(self.blocks):
            p = project(block, x)
            for stream in streams:
                self._follow(stream, i, x, p, grid)
            if i < last:
                x = run_block(block, x, p)
        return [self.visual.ln_post(stream.x) @ self.visual.proj for stream in streams]

    def _follow(self, stream: _Stream, i: int, x: Tensor, p: Projections, grid: tuple[int, int]) -> None:
        """Take a stream past block i, whose ordinary input is x."""
        last, method = len(self.blocks) - 1, stream.method
        if i + 1 in method.middle_layers:
            stream.middle.append(p)
        if i > last - method.depth:  # the first time, the stream leaves the ordinary one
            begun = x if stream.x is None else stream.x
            stream.x = _modified(self.blocks[i], method, begun, p, stream.middle if i == last else [], grid)

    def _embed(self, pixels: Tensor, positions: Positions) -> tuple[Tensor, tuple[int, int]]:
        """Patch, class and positional embedding, then ``ln_pre``; also the token grid."""
        patch = self.patch_size
        height, width = pixels.shape[-2:]
        if height % patch or width % patch or not height or not width:
            raise ItaclipError(f"input of {height} x {width} pixels is not a multiple of the patch size {patch}.")
        weight, grid = self.visual.conv1.weight, (height // patch, width // patch)
        # a matrix product, for a GPU's convolutions round float32 to TF32 unless told otherwise
        cut = pixels.to(weight.dtype).view(len(pixels), -1, grid[0], patch, grid[1], patch)
        rows = cut.permute(0, 2, 4, 1, 3, 5).reshape(len(pixels), grid[0] * grid[1], -1)
        first = self.visual.class_embedding
        x = F.linear(rows, weight.flatten(1)).to(first.dtype)
        x = torch.cat([first.expand(len(x), 1, -1), x], dim=1) + self.positions(grid, positions)
        return self.visual.ln_pre(x), grid

    def positions(self, grid: tuple[int, int], rule: Positions) -> Tensor:
        """Positional embeddings for a token grid, see `Method.positions`: (1 + rows * columns) x D."""
        table: Tensor = self.visual.positional_embedding
        side = self.table_side
        if grid == (side, side):
            return table
        square = table[1:].float().T.reshape(1, -1, side, side)
        if rule == "scale":
            factors = [(n + 0.1) / side for n in grid]
            patches = F.interpolate(square, scale_factor=factors, mode="bicubic", recompute_scale_factor=False)
        else:
            patches = F.interpolate(square, size=grid, mode="bicubic", antialias=rule == "antialias")
        return torch.cat([table[:1].float(), patches.flatten(2)[0].T])


@lru_cache(maxsize=1)
def _compiled_tokens() -> Callable[[DenseEncoder, Tensor, Sequence[Method]], list[Tensor]]:
    """Of the class, not of an encoder: a copy of an encoder has weights of its own."""
    return torch.compile(DenseEncoder._tokens)


def _modified(block: Block, method: Method, x: Tensor, p: Projections, middle: list[Projections],
              grid: tuple[int, int]) -> Tensor:  # fmt: skip
    """One modified block. With middle layers its maps are half of the fused one:
    ``A* = A_L / 2 + mean(A_l) / 2`` (ITACLIP, eq. 5), applied to the last values."""
    out = method.recipe(p, p.value, grid)
    if middle:
        out = 0.5 * out + sum(method.recipe(m, p.value, grid) for m in middle) * (0.5 / len(middle))
    update = merge_heads(block, out).to(x.dtype)
    x = x + update if method.residual else update
    return x + feed_forward(block, x) if method.feed_forward else x
