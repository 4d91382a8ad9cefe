"""OV-Stitcher as one would write it first.

One window at a time through open_clip's own modules, a region token for every region of the image as
a further row of every block, maps over all positions of the image stored. The measure that
`itaclip.core.methods.OVStitcher` is timed against, and an oracle for it.

Shapes: one image of H x W pixels; patches of p pixels on (H // p) x (W // p); M positions of the second
encoder on its grid of the image; D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.core.methods.stitcher import OVStitcher
from itaclip.research.benchmark.plain_methods import Grid, attend, heads, merged, nearest


@dataclass(frozen=True)
class Image:
    """An image and what is given with it.

    Attributes:
        pixels: 3 x H x W, normalised.
        regions: H x W integers; the smallest is "unsegmented".
        features: M x C unit rows of the second encoder.
        crop: side of a window; windows are at most as large as the image. Whole patches.
        stride: step from one window to the next.
        fine: side of the second encoder's patches.
    """

    pixels: Tensor
    regions: Tensor
    features: Tensor
    crop: int
    stride: int
    fine: int = 8

    @property
    def size(self) -> Grid:
        """Height and width."""
        return tuple(self.pixels.shape[1:])

    @property
    def window(self) -> Grid:
        """Height and width of a window."""
        return tuple(min(side, self.crop) for side in self.size)

    def grid(self, patch: int) -> Grid:
        """Count rows and columns of whole patches."""
        return self.size[0] // patch, self.size[1] // patch

    def corners(self) -> list[tuple[int, int]]:
        """List the first row and column of every window."""
        starts = [sorted({min(at, side - own) for at in range(0, side, self.stride)})
                  for side, own in zip(self.size, self.window, strict=True)]  # fmt: skip
        return [(y, x) for y in starts[0] for x in starts[1]]


def stitched(image: Image, maps: Sequence[Tensor], patch: int) -> Tensor:
    """Average the windows' maps, each r x c x D, on the image's grid of patches: rows x columns x D."""
    total = torch.zeros(*image.grid(patch), maps[0].shape[-1])
    count = torch.zeros(*image.grid(patch), 1)
    for (y, x), one in zip(image.corners(), maps, strict=True):
        place = slice(y // patch, y // patch + one.shape[0]), slice(x // patch, x // patch + one.shape[1])
        total[place] += one
        count[place] += 1
    return total / count


def last_block(penultimate: Tensor, qkv: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """Run a second encoder's last block on stitched tokens, map by map: unit rows, M x C.

    Args:
        penultimate: M x C, the normalised output of the block before.
        qkv: M x 3C.
        weights: of the block, by the names of the recording.
    """
    count = int(weights["heads"])
    q, k, v = (part.unflatten(1, (count, -1)).transpose(0, 1) for part in qkv.chunk(3, dim=1))
    attention = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
    mixed = (attention @ v).transpose(0, 1).flatten(1)
    y = penultimate + F.linear(mixed, weights["proj_w"], weights["proj_b"])
    normed = F.layer_norm(y, y.shape[1:], weights["n2_w"], weights["n2_b"], 1e-6)
    hidden = F.gelu(F.linear(normed, weights["fc1_w"], weights["fc1_b"]))
    return F.normalize(y + F.linear(hidden, weights["fc2_w"], weights["fc2_b"]), dim=1)


def merged_regions(image: Image, method: OVStitcher) -> Tensor:
    """Lay the regions on the second encoder's grid, similar ones merged, 0 unsegmented: M."""
    ids = nearest(image.regions, image.grid(image.fine)).flatten()
    return merged(image.features, ids - ids.min(), method.merging)


def embedded(visual: Any, pixels: Tensor) -> Tensor:
    """Compute the tokens of a window before the first block: (1 + N) x D."""
    patches = visual.conv1(pixels[None])[0]
    grid, side = patches.shape[1:], round((len(visual.positional_embedding) - 1) ** 0.5)
    table = visual.positional_embedding
    if tuple(grid) != (side, side):
        square = table[1:].T.reshape(1, -1, side, side)
        factors = [(n + 0.1) / side for n in grid]
        square = F.interpolate(square, scale_factor=factors, mode="bicubic", recompute_scale_factor=False)
        table = torch.cat([table[:1], square[0].flatten(1).T])
    x = torch.cat([visual.class_embedding[None], patches.flatten(1).T]) + table
    found: Tensor = visual.ln_pre(x)
    return found


@dataclass(frozen=True)
class WindowParts:
    """What is kept of a window: per spatial block the patches' inputs and projections, values, region tokens."""

    layers: dict[int, Tensor]
    values: Tensor
    semantic: Tensor


def read_window(visual: Any, method: OVStitcher, image: Image, corner: tuple[int, int], ids: Tensor) -> WindowParts:
    """Run a window with a token for every region of the image through all blocks.

    Args:
        visual: open_clip's image tower.
        method: its options.
        image: the image.
        corner: first row and column of the window.
        ids: H x W merged regions.
    """
    y, x = corner
    patch, names = visual.conv1.kernel_size[0], ids.unique()
    down, right = slice(y, y + image.window[0]), slice(x, x + image.window[1])
    grid, fine = (tuple(side // p for side in image.window) for p in (patch, image.fine))
    regions = nearest(ids[down, right], grid).flatten()
    tokens = embedded(visual, image.pixels[:, down, right])
    copies, count = len(names), len(tokens)
    blocked = torch.ones(copies + count, copies + count, dtype=torch.bool)
    blocked[:, copies:] = False
    blocked[:copies, copies + 1 :] = regions != names[:, None]
    bias = torch.zeros(blocked.shape).masked_fill(blocked, -torch.inf)
    z = torch.cat([tokens[:1].expand(copies, -1), tokens])
    first, last = method.spatial_layers
    layers = {}
    for number, block in enumerate(visual.transformer.resblocks, 1):
        if first <= number <= last:
            joint = F.linear(block.ln_1(z), block.attn.in_proj_weight, block.attn.in_proj_bias)
            layers[number] = torch.cat([z, joint], dim=1)[copies + 1 :].unflatten(0, grid)
        if number == len(visual.transformer.resblocks):
            values = heads(block, z)[2].transpose(0, 1).flatten(1)[copies + 1 :].unflatten(0, grid)
        z = block(z[None], attn_mask=bias)[0]
    own = nearest(regions.unflatten(0, grid), fine)
    return WindowParts(layers, values, z[:copies][torch.searchsorted(names, own)])


def spatial_branch(visual: Any, method: OVStitcher, layers: Callable[[int], Tensor]) -> Tensor:
    """Average the outputs of some blocks that read the stitched grid with a single head: N x D.

    Args:
        visual: open_clip's image tower.
        method: its options.
        layers: gives a block's stitched input and projections, rows x columns x 4D.
    """
    first, last = method.spatial_layers
    found = []
    for number in range(first, last + 1):
        block = visual.transformer.resblocks[number - 1]
        x, q, k, v = layers(number).flatten(0, 1).chunk(4, dim=1)
        attention = (q @ k.T / (q.shape[1] // block.attn.num_heads) ** 0.5).softmax(-1)
        x = x + block.attn.out_proj(attention @ v)
        found.append(x + block.mlp(block.ln_2(x)))
    return torch.stack(found).mean(0)


def branches(visual: Any, method: OVStitcher, image: Image) -> tuple[Tensor, Tensor, Tensor]:
    """Compute main, spatial and semantic branch before the last norm, each M x D."""
    patch, fine = visual.conv1.kernel_size[0], image.grid(image.fine)
    similarity = image.features @ image.features.T
    regions = merged_regions(image, method)
    either = (regions[:, None] == 0) | (regions == 0)
    allowed = torch.where(either, similarity > similarity.mean(), regions[:, None] == regions)
    attention = (method.scale * similarity).masked_fill(~allowed, -torch.inf).softmax(-1)

    ids = nearest(regions.unflatten(0, fine), image.size)
    parts = [read_window(visual, method, image, corner, ids) for corner in image.corners()]
    last = visual.transformer.resblocks[-1]

    def on_fine(values: Tensor) -> Tensor:
        maps = F.interpolate(values.permute(2, 0, 1)[None], size=fine, mode="bilinear", align_corners=False)
        return attend(last, attention, maps[0].flatten(1).T[None])

    main = on_fine(stitched(image, [part.values for part in parts], patch))
    mean = spatial_branch(visual, method, lambda n: stitched(image, [part.layers[n] for part in parts], patch))
    value = heads(last, mean)[2].transpose(0, 1).flatten(1)
    spatial = on_fine(value.unflatten(0, image.grid(patch)))
    semantic = stitched(image, [part.semantic for part in parts], image.fine).flatten(0, 1)
    return main, spatial, semantic


def tokens(visual: Any, method: OVStitcher, image: Image) -> Tensor:
    """Compute the features of the image before normalisation, M x E."""
    main, spatial, semantic = branches(visual, method, image)
    x = visual.ln_post(main) + visual.ln_post(spatial) + method.semantic_weight * visual.ln_post(semantic)
    found: Tensor = x @ visual.proj
    return found
