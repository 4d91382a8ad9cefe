"""The dense image encoder: CLIP's image tower, read token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from itaclip.clip.towers import Grid, Positions, as_tower
from itaclip.clip.trunk import Needs, Trunk
from itaclip.core.methods.method import Method, Window
from itaclip.engines import OpenVINOBlocks
from itaclip.errors import ItaclipError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class DenseEncoder(nn.Module):
    """Image tower that returns a feature for every patch (ITACLIP, section 3).

    Args:
        visual: the image tower of a CLIP, see `itaclip.clip.towers`.
        method: how it is read.

    Raises:
        ItaclipError: a tower that cannot be read densely, or a block that the method reads and
            the tower does not have.
    """

    def __init__(self, visual: Any, method: Method) -> None:
        super().__init__()
        self.visual: Any = visual
        self.tower = as_tower(visual)
        self.method = method
        self.most_windows: int | None = None  # that a pass has been found to hold; None: not tried
        self.engine: OpenVINOBlocks | None = None  # in the place of PyTorch
        self._compile = False
        self._scale: Tensor
        self._shift: Tensor
        scale, shift = self.tower.conversion or ([1.0] * 3, [0.0] * 3)
        self.register_buffer("_scale", torch.tensor(scale).view(3, 1, 1), persistent=False)
        self.register_buffer("_shift", torch.tensor(shift).view(3, 1, 1), persistent=False)
        method.needs(self.depth)  # says what the tower lacks
        self.tower.check_reading(method.patch_reading)

    def lower(self, precision: str) -> DenseEncoder:
        """Put the matrices, where the time goes, into another precision.

        The residual stream, the norms, the positions and the last projection stay in float32:
        rounding them as well costs agreement and saves nothing.

        Args:
            precision: a key of `DTYPES`.
        """
        self.tower.lower(DTYPES[precision])
        return self

    def compiled(self) -> DenseEncoder:
        """Let torch.compile fuse what lies between the matrix products, from the first pass on."""
        self._compile = True
        return self

    @property
    def depth(self) -> int:
        """Number of blocks, L."""
        return self.tower.depth

    @property
    def channels(self) -> int:
        """Of the joint space, E."""
        return self.tower.channels

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.tower.patch_size

    @property
    def image_size(self) -> int:
        """Side in pixels of the square images that the model was trained on."""
        return self.tower.image_size

    def forward(self, pixels: Tensor, window: Window | None = None) -> Tensor:
        """Features of the patches in the joint space, before normalisation.

        Args:
            pixels: B x 3 x h x w, RGB, normalised with CLIP's mean and std whatever the tower
                was trained with; sides are multiples of the patch size.
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
        first = readings[0][0]
        if self.engine and len(readings) == 1 and first.reads_trunk_alone:
            x, grid = self.embed(pixels, first.positions)
            if self.engine.takes(grid):
                return [self.engine.tokens(x, grid, first)]
        needs = Needs()
        for method, _ in readings:
            needs |= method.needs(self.depth)
        trunk = self.trunk(pixels, needs, first.positions)
        return [method.tokens(trunk.read_as(method.patch_reading or "values"), window) for method, window in readings]

    def trunk(self, pixels: Tensor, needs: Needs, positions: Positions = "scale") -> Trunk:
        """The ordinary blocks' outputs and projections that are needed, for pixels as in `forward`."""
        x, grid = self.embed(pixels, positions)
        if self.engine and self.engine.takes(grid):
            return self.engine.trunk(x, grid, needs)
        return Trunk.run(self.tower, x, grid, needs)

    def embed(self, pixels: Tensor, positions: Positions = "scale") -> tuple[Tensor, Grid]:
        """Tokens before the first block, B x (P + N) x D, and their grid, for pixels as in `forward`."""
        patch = self.patch_size
        height, width = pixels.shape[-2:]
        if height % patch or width % patch or not height or not width:
            raise ItaclipError(f"input of {height} x {width} pixels is not a multiple of the patch size {patch}.")
        if self.tower.conversion:
            pixels = pixels * self._scale + self._shift
        grid = height // patch, width // patch
        return self.tower.embed(pixels, grid, positions), grid


@lru_cache(maxsize=1)
def _compiled_tokens() -> Callable[[DenseEncoder, Tensor, Sequence[tuple[Method, Window]]], list[Tensor]]:
    """Of the class, not of an encoder: a copy of an encoder has weights of its own."""
    return torch.compile(DenseEncoder._tokens)
