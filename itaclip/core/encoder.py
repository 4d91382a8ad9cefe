"""The dense image encoder: CLIP's image tower, read token by token."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from itaclip.core.choices import Turns
from itaclip.core.clip.blocks import attention_on_cpu
from itaclip.core.clip.encoded import EncodedWindows, Needs, Step, steps
from itaclip.core.clip.towers import Grid, Positions, as_tower
from itaclip.core.engines import OpenVINOBlocks
from itaclip.core.methods.method import Method, StitchedBlocks, StitchedFeatures, Window
from itaclip.core.whole_image import read_windows
from itaclip.errors import ItaclipError

_FEW_VIEWS = 5  # in the smallest batch on a CPU: one window with its views

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class DenseEncoder(nn.Module):
    """Image tower that returns a feature for every patch (ITACLIP, section 3).

    Args:
        visual: the image tower of a CLIP, see `itaclip.core.clip.towers`.
        method: how to read it.

    Raises:
        ItaclipError: the tower cannot be read densely, or lacks a block that the method reads.
    """

    def __init__(self, visual: Any, method: Method) -> None:
        super().__init__()
        self.visual: Any = visual
        self.tower = as_tower(visual)
        self.method = method
        self.most_windows: int | None = None  # per pass; set when memory runs out
        self.engine: OpenVINOBlocks | None = None  # runs the blocks instead of PyTorch
        self.precision = "fp32"  # in which the blocks run, "int8" included
        self._compile = False
        self._turns: dict[tuple[Grid, int, str], Turns] = {}
        self._scale: Tensor
        self._shift: Tensor
        scale, shift = self.tower.conversion or ([1.0] * 3, [0.0] * 3)
        self.register_buffer("_scale", torch.tensor(scale).view(3, 1, 1), persistent=False)
        self.register_buffer("_shift", torch.tensor(shift).view(3, 1, 1), persistent=False)
        method.needs(self.depth)  # raises if the tower lacks a block
        self.tower.check_projection(method.patch_projection)
        self.tower.check_head(method.reads_head)

    def lower(self, precision: str) -> DenseEncoder:
        """Convert the weight matrices, which take most of the time, to another precision.

        The residual stream, the norms, the positions and the last projection stay in float32:
        rounding them too reduces agreement and saves nothing.

        Args:
            precision: a key of `DTYPES`.
        """
        self.tower.lower(DTYPES[precision])
        self.precision = precision
        return self

    def compiled(self) -> DenseEncoder:
        """Fuse the operations between the matrix products with torch.compile, on the first batch."""
        self._compile = True
        return self

    @property
    def is_compiled(self) -> bool:
        """Whether torch.compile fuses operations."""
        return self._compile

    @cached_property
    def structure(self) -> str:
        """A short hash of the modules of the image tower, without their weights."""
        return hashlib.sha256(repr(self.visual).encode()).hexdigest()[:16]

    def batch_turns(self, size: Grid, views: int) -> Turns:
        """Choose the windows per batch on a CPU by what batches take: the smallest number that is nearly as fast.

        Args:
            size: height and width of the windows in pixels.
            views: number of views of each window.
        """
        key = size, views, self.precision
        if key not in self._turns:
            numbers, most = [max(1, _FEW_VIEWS // views)], max(2 * _FEW_VIEWS, _FEW_VIEWS * torch.get_num_threads())
            while 2 * numbers[-1] * views <= most:
                numbers.append(2 * numbers[-1])
            about = {"model": self.structure, "engine": "openvino" if self.engine else "torch",
                     "precision": self.precision, "window": f"{size[0]} x {size[1]}", "views": views}  # fmt: skip
            self._turns[key] = Turns("windows per batch", about, [str(number) for number in numbers])
        return self._turns[key]

    @property
    def depth(self) -> int:
        """Number of blocks, L."""
        return self.tower.depth

    @property
    def channels(self) -> int:
        """Channels of the joint space, E."""
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
        """Compute the features of the patches in the joint space, before normalisation.

        Args:
            pixels: B x 3 x h x w, RGB, normalised with CLIP's mean and std instead of the
                tower's own; sides are multiples of the patch size.
            window: further inputs of the method; None if the pixels suffice.

        Returns:
            B x rows x columns x E, on the grid of CLIP's patches or of a second encoder's.

        Raises:
            ItaclipError: the sides are not multiples of the patch size, or an input of the
                method is missing.
        """
        return self.tokens(pixels, [(self.method, window or Window(pixels))])[0]

    def tokens(self, pixels: Tensor, methods: Sequence[tuple[Method, Window]]) -> list[Tensor]:
        """Compute the features of several methods in one batch: the ordinary blocks run only once.

        A method that reads whole images takes every window as an image of its own, in a batch of its own.

        Args:
            pixels: as for `forward`.
            methods: methods that resample positional embeddings alike, each with its further inputs.

        Returns:
            The result of `forward` for each method.

        Raises:
            ItaclipError: as for `forward` and the constructor; the methods resample
                positional embeddings in different ways; or torch.compile fails.
        """
        if len({method.positions for method, _ in methods}) > 1:
            raise ItaclipError("methods that resample positional embeddings differently cannot share a batch.")
        if not self._compile:
            return self._tokens(pixels, methods)
        torch._dynamo.maybe_mark_dynamic(pixels, 0)  # otherwise every number of views would recompile
        try:
            return _compiled_tokens()(self, pixels, methods)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).splitlines()[0]
            raise ItaclipError(
                f"compile = True: torch.compile failed ({reason}); it needs a C++ compiler, or Triton on a GPU. "
                "Without these, set compile=False."
            ) from error

    def _tokens(self, pixels: Tensor, methods: Sequence[tuple[Method, Window]]) -> list[Tensor]:
        first = methods[0][0]
        if self.engine and len(methods) == 1 and first.reads_blocks_alone:
            x, grid = self.embed(pixels, first.positions)
            if self.engine.takes(grid):
                return [self.engine.tokens(x, grid, first)]
        needs, encoded = Needs(), None
        for method, _ in methods:
            if not isinstance(method, StitchedBlocks):
                needs |= method.needs(self.depth)
        found = []
        for method, window in methods:
            if isinstance(method, StitchedFeatures):
                encoded = encoded or self.encode(pixels, needs, first.positions)
                found.append(self.joint(method.whole(method.tokens(encoded, window)), method))
            elif isinstance(method, StitchedBlocks):
                steps = self.steps(pixels, method.needs(self.depth), method.positions)
                found.append(read_windows(self.tower, steps, method, replace(window, pixels=pixels)))
            else:
                encoded = encoded or self.encode(pixels, needs, first.positions)
                found.append(method.tokens(encoded.projected_as(method.patch_projection or "values"), window))
        return found

    def window_features(self, pixels: Tensor, methods: Sequence[tuple[StitchedFeatures, Window]]) -> list[Tensor]:
        """Compute what is stitched for several methods in one batch: B x r x c x D for each; see `forward`."""
        needs = Needs()
        for method, _ in methods:
            needs |= method.needs(self.depth)
        encoded = self.encode(pixels, needs, methods[0][0].positions)
        return [method.tokens(encoded, window) for method, window in methods]

    def joint(self, features: Tensor, method: Method) -> Tensor:
        """Map normalised patches into the joint space as the method chooses: ... x D to ... x E."""
        return self.tower.joint(features, method.patch_projection or "values")

    def encode(self, pixels: Tensor, needs: Needs, positions: Positions = "scale") -> EncodedWindows:
        """Run the ordinary blocks on pixels as in `forward`, keeping only the outputs and projections needed."""
        x, grid = self.embed(pixels, positions)
        if self.engine and self.engine.takes(grid):
            return self.engine.encode(x, grid, needs)
        return EncodedWindows.run(self.tower, x, grid, needs)

    def steps(self, pixels: Tensor, needs: Needs, positions: Positions = "scale") -> Iterator[Step]:
        """Run all blocks on pixels as in `forward`, one by one, keeping nothing.

        Args:
            pixels: as for `forward`.
            needs: outputs that an engine, which runs all blocks at once, has to return; besides
                these, the first block's input is always there.
            positions: how positional embeddings are resampled.
        """
        x, grid = self.embed(pixels, positions)
        if self.engine and self.engine.takes(grid):
            every = Needs.of(outputs={0} | needs.outputs, projections=range(1, self.depth + 1))
            return self.engine.encode(x, grid, every).steps()
        return steps(self.tower, x, grid, self.depth)

    def embed(self, pixels: Tensor, positions: Positions = "scale") -> tuple[Tensor, Grid]:
        """Embed pixels as in `forward`: tokens before the first block, B x (P + N) x D, and their grid."""
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
    """Compile the method of the class, not of an instance: a copy of an encoder has its own weights."""
    torch.compiler.assume_constant_result(attention_on_cpu)
    return torch.compile(DenseEncoder._tokens)
