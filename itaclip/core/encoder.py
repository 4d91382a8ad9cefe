"""The dense image encoder: CLIP's ViT, read token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itaclip.clip.blocks import round_to_int8
from itaclip.clip.int8 import check_int8
from itaclip.clip.trunk import Grid, Needs, Trunk
from itaclip.core.methods.method import Method, Positions, Window
from itaclip.errors import ItaclipError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class DenseEncoder(nn.Module):
    """Image tower that returns a feature for every patch (ITACLIP, section 3).

    Args:
        visual: open_clip's image tower of OpenAI's layout.
        method: how it is read.

    Raises:
        ItaclipError: a block that the method reads and the tower does not have.
    """

    def __init__(self, visual: Any, method: Method) -> None:
        super().__init__()
        self.visual: Any = visual
        self.method = method
        self.blocks: nn.ModuleList = visual.transformer.resblocks
        self.most_windows: int | None = None  # that a pass has been found to hold; None: not tried
        self._compile = False
        method.needs(len(self.blocks))  # says what the tower lacks

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

    def forward(self, pixels: Tensor, window: Window | None = None) -> Tensor:
        """Features of the patches in the joint space, before normalisation.

        Args:
            pixels: B x 3 x h x w, RGB, normalised with CLIP's mean and std; sides are
                multiples of the patch size.
            window: what else the method reads; None where the pixels suffice.

        Returns:
            B x rows x columns x E, on the grid of CLIP's patches or of a second encoder's.

        Raises:
            ItaclipError: sides that are not multiples of the patch size, or something missing
                that the method reads.
        """
        return self.read(pixels, [(self.method, window or Window(pixels))])[0]

    def read(self, pixels: Tensor, readings: Sequence[tuple[Method, Window]]) -> list[Tensor]:
        """Features by several methods from one pass: the ordinary blocks run once for all.

        Args:
            pixels: as for `forward`.
            readings: methods that resample positional embeddings alike, each with what else it reads.

        Returns:
            What `forward` returns, per reading.

        Raises:
            ItaclipError: as `forward` and the constructor; or methods that resample
                positional embeddings in different ways; or a failure of torch.compile.
        """
        if len({method.positions for method, _ in readings}) > 1:
            raise ItaclipError("methods that resample positional embeddings differently cannot share a pass.")
        if not self._compile:
            return self._tokens(pixels, readings)
        torch._dynamo.maybe_mark_dynamic(pixels, 0)  # or every number of views would be compiled anew
        try:
            return _compiled_tokens()(self, pixels, readings)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).splitlines()[0]
            raise ItaclipError(
                f"compile = True: torch.compile failed ({reason}); it needs a C++ compiler, or Triton on a GPU. "
                "Or set compile=False."
            ) from error

    def _tokens(self, pixels: Tensor, readings: Sequence[tuple[Method, Window]]) -> list[Tensor]:
        needs = Needs()
        for method, _ in readings:
            needs |= method.needs(len(self.blocks))
        trunk = self.trunk(pixels, needs, readings[0][0].positions)
        return [method.tokens(trunk, window) for method, window in readings]

    def trunk(self, pixels: Tensor, needs: Needs, positions: Positions = "scale") -> Trunk:
        """The ordinary blocks' outputs and projections that are needed, for pixels as in `forward`."""
        x, grid = self._embed(pixels, positions)
        return Trunk.run(self.visual, x, grid, needs)

    def _embed(self, pixels: Tensor, positions: Positions) -> tuple[Tensor, Grid]:
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

    def positions(self, grid: Grid, rule: Positions) -> Tensor:
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
def _compiled_tokens() -> Callable[[DenseEncoder, Tensor, Sequence[tuple[Method, Window]]], list[Tensor]]:
    """Of the class, not of an encoder: a copy of an encoder has weights of its own."""
    return torch.compile(DenseEncoder._tokens)
