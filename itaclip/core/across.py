"""Attention across windows: the last block sees the whole image (this project's own; after GLA-CLIP and OV-Stitcher).

Windows are encoded as usual up to the blocks that a method reads. The outputs of these blocks are
stitched into one grid of the whole image, averaging where windows overlap, and the method reads
that grid as if it were a window. Any method's last attention therefore spans the whole image.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.core.clip.towers import Grid
from itaclip.core.clip.trunk import Needs, Trunk
from itaclip.core.encoder import DenseEncoder
from itaclip.core.methods import Method, Window
from itaclip.core.views import turned
from itaclip.core.windows import WindowPlan, merge_patches


def whole_plan(plan: WindowPlan, patch: int, multiple: int) -> WindowPlan:
    """Plan the whole image as one window, padded at its end to a multiple of `multiple` pixels."""
    return WindowPlan.of((plan.rows.size, plan.columns.size), 0, 1, patch, "end", multiple)


def inputs_of(needs: Needs) -> Needs:
    """Get the outputs from which everything that a method needs can be recomputed."""
    return Needs(needs.outputs | {number - 1 for number in needs.projections})


def stitched_trunk(
    encoder: DenseEncoder, needs: Needs, outputs: dict[int, Tensor], plan: WindowPlan, entire: WindowPlan
) -> Trunk:
    """Combine the outputs of the windows into one trunk for the whole image.

    Args:
        encoder: provides the blocks.
        needs: the blocks that the method reads.
        outputs: per block, (V * n) x (P + N) x D: V views of n windows, flipped views still flipped.
        plan: the n windows.
        entire: the whole image as one window.

    Returns:
        A trunk of V images, unflipped. The tokens before the patches are averaged over the windows.
    """
    grid = entire.grid
    tower = encoder.tower
    whole = {number: _stitched(y, plan, grid, tower.patch_size, tower.prefix) for number, y in outputs.items()}
    blocks = tower.blocks(grid)
    projections = {n: blocks[n - 1].project(whole[n - 1]) for n in needs.projections}
    return Trunk(tower, grid, whole, projections)


def read_across(
    encoder: DenseEncoder,
    method: Method,
    outputs: dict[int, Tensor],
    plan: WindowPlan,
    entire: WindowPlan,
    image: Tensor,
    window: Window,
) -> Tensor:
    """Compute a method's features for the whole image: V x rows x columns x E, unflipped.

    Args:
        encoder: provides the blocks.
        method: the method that reads the trunk.
        outputs: see `stitched_trunk`.
        plan: the windows.
        entire: the whole image as one window.
        image: 3 x H x W, normalised.
        window: the text bank, a second encoder's features of the windows, and the regions of
            the whole image.
    """
    patch = encoder.patch_size
    trunk = stitched_trunk(encoder, method.needs(encoder.depth), outputs, plan, entire)
    views = len(outputs[min(outputs)]) // plan.count
    size = (trunk.grid[0] * patch, trunk.grid[1] * patch)
    pixels = F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)
    window = replace(window, pixels=pixels.expand(views, -1, -1, -1))
    if window.features is not None:
        places = window.features.movedim(1, 3)
        patch = plan.padded[0] // places.shape[1]
        merged = [merge_patches(view, plan, entire.grid_of(patch), patch) for view in _views(places, plan.count)]
        window = replace(window, features=F.normalize(torch.stack(merged).movedim(3, 1), dim=1))
    if window.regions is not None:
        window = replace(window, regions=window.regions.expand(views, -1, -1))
    return method.tokens(trunk.read_as(method.patch_reading or "values"), window)


def _stitched(y: Tensor, plan: WindowPlan, grid: Grid, patch: int, prefix: int) -> Tensor:
    """Stitch the windows of every view: (V * n) x (P + N) x D to V x (P + rows * columns) x D."""
    views = _views(y[:, prefix:].unflatten(1, plan.grid), plan.count)
    patches = torch.stack([merge_patches(view, plan, grid, patch).flatten(0, 1) for view in views])
    first = y[:, :prefix].unflatten(0, (-1, plan.count)).mean(1)
    return torch.cat([first, patches], dim=1)


def _views(maps: Tensor, count: int) -> list[Tensor]:
    """Split (V * n) x r x c x D by view, with flips undone."""
    return [turned(windows, view, 1) for view, windows in enumerate(maps.unflatten(0, (-1, count)))]
