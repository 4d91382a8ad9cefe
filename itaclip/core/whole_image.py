"""Read whole images: windows -> stitched tensors -> one computation for the whole image.

A method asks for it by being a `StitchedBlocks`. Ordinary blocks run on windows; what the method reads
of them is stitched as it comes (`itaclip.core.stitching`), so memory is bounded by the image.

Shapes: L views of an image, cut alike into windows; P tokens before N patches; D width; h heads of d.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.core.clip.blocks import Projections
from itaclip.core.clip.encoded import EncodedWindows, Needs, Step
from itaclip.core.clip.towers import Tower
from itaclip.core.methods.corrclip import RegionTokens, on_places
from itaclip.core.methods.method import StitchedBlocks, Window
from itaclip.core.methods.proxyclip import required
from itaclip.core.regions.maps import Ids, dense_ranks
from itaclip.core.stitching import Canvas, image_grid, shown_places
from itaclip.core.views import turn_views
from itaclip.core.windows import WindowPlan

_OUTPUT, _PROJECTED = "output", ("query", "key", "value")


class WholeImage:
    """One image on its way through one method.

    Args:
        tower: CLIP's image tower.
        method: the method.
        plan: the windows.
        window: its inputs for the whole image: features L x C x H x W and regions L x H x W on the
            second encoder's grid of the image (`itaclip.core.stitching.image_grid`).
        fine: side of the second encoder's patches in pixels.
        shown: the largest number of regions that a window shows (`regions_shown`).
        views: whether the L images are the views of one image, of which some windows are flipped.

    Raises:
        ItaclipError: features or regions are missing.
    """

    def __init__(
        self, tower: Tower, method: StitchedBlocks, plan: WindowPlan, window: Window, fine: int, shown: int,
        views: bool,
    ) -> None:  # fmt: skip
        self.tower, self.method, self.plan, self.fine, self.shown, self.views = tower, method, plan, fine, shown, views
        self.needs = method.needs(tower.depth)
        if tower.rotates:  # queries and keys get the positions on the image's grid
            self.needs |= Needs.of(outputs=[number - 1 for number in self.needs.projections])
        features = required(window.features, "features of a second encoder")
        regions = required(window.regions, "region masks")
        self.regions = method.merged(features, regions, window.region_count)
        self._window = replace(window, regions=self.regions)
        self._canvases: dict[tuple[str, int], Canvas] = defaultdict(lambda: Canvas(plan, tower.patch_size))
        self._semantic = Canvas(plan, fine)
        self._dtype = torch.float32  # of the blocks' matrices

    def add(self, part: str, number: int, maps: Tensor, first: int) -> None:
        """Stitch a part of a block's windows: L x n x r x c x ..., the first of them number `first`."""
        self._canvases[part, number].add(maps, first)
        if part != _OUTPUT:
            self._dtype = maps.dtype

    def add_region_tokens(self, maps: Tensor, first: int) -> None:
        """Stitch the region tokens of windows, L x n x H x W x D on the second encoder's grid."""
        self._semantic.add(maps, first)

    def tokens(self) -> Tensor:
        """Read the image when all windows have been added: L x H x W x E, no view flipped."""
        encoded, window = self.stitched()
        return self.method.tokens(encoded.projected_as(self.method.patch_projection or "values"), window)

    def stitched(self) -> tuple[EncodedWindows, Window]:
        """Get what the method reads of the whole image; once, since the memory of the windows is reused."""
        grid = image_grid(self.plan, self.tower.patch_size)
        blocks = self.tower.blocks(grid)
        found = {key: canvas.mean().flatten(1, 2) for key, canvas in self._canvases.items()}
        outputs = {number: maps for (part, number), maps in found.items() if part == _OUTPUT}
        projections = {}
        for number in self.needs.projections:
            if self.tower.rotates:
                projections[number] = blocks[number - 1].project(outputs[number - 1])
            else:
                query, key, value = (found[part, number].transpose(1, 2).to(self._dtype) for part in _PROJECTED)
                projections[number] = Projections(query, key, value, torch.empty(0))  # no method reads the input
        encoded = EncodedWindows(self.tower, grid, outputs, projections, prefix=0)
        return encoded, replace(self._window, region_tokens=self._semantic.mean())


class WindowReader:
    """Consecutive windows of an image, in all its views, on their way through the ordinary blocks.

    Only regions that a window shows get a token there: nothing reads the others.

    Args:
        image: receives what is stitched.
        first: number of the first window.
        last: number after the last one.
    """

    def __init__(self, image: WholeImage, first: int, last: int) -> None:
        self._image, self._first, self._count = image, first, last - first
        patch, grid = image.tower.patch_size, (image.regions.shape[1], image.regions.shape[2])
        places = torch.from_numpy(shown_places(image.plan, patch, grid)[first:last].copy())
        places = places.to(image.regions.device, non_blocking=True)
        ids = F.pad(image.regions.flatten(1), (0, 1))[:, places]  # padding is unsegmented
        self._regions = ranked(ids.flatten(0, 1).flatten(1)).view_as(ids)
        self._tokens: RegionTokens | None = None

    def see(self, step: Step) -> None:
        """Read one block of (L * n) x (P + N) x D tokens; blocks come in their order."""
        image, needs, number = self._image, self._image.needs, step.number
        if self._tokens is None:
            self._tokens = RegionTokens(step.input, self._turned(self._regions).flatten(0, 1).flatten(1), self._shown())
        if number - 1 in needs.outputs:
            image.add(_OUTPUT, number - 1, self._on_grid(step.input), self._first)
        if number in needs.projections and not image.tower.rotates:
            for part in _PROJECTED:
                image.add(part, number, self._on_grid(getattr(step.projections, part).transpose(1, 2)), self._first)
        self._tokens.take(step.block, step.projections)

    def finish(self) -> None:
        """Stitch the region tokens, after the last block."""
        assert self._tokens is not None
        image = self._image
        size = image.plan.grid_of(image.fine)
        maps = on_places(self._tokens.x, self._regions.flatten(0, 1), size).unflatten(0, (-1, self._count))
        image.add_region_tokens(maps, self._first)

    def _shown(self) -> int:
        """Count the region tokens; on a GPU, counting the merged regions would make the host wait."""
        regions = self._regions
        return int(regions.max()) + 1 if regions.device.type == "cpu" else self._image.shown

    def _on_grid(self, tokens: Tensor) -> Tensor:
        """Lay the patches of (L * n) x (P + N) x ... tokens on their grid with flips undone: L x n x r x c x ..."""
        patches = tokens[:, self._image.tower.prefix :].unflatten(1, self._image.plan.grid)
        return self._turned(patches.unflatten(0, (-1, self._count)))

    def _turned(self, maps: Tensor) -> Tensor:
        """Flip the windows of flipped views, or undo it: L x n x r x c x ..."""
        return turn_views(maps) if self._image.views else maps


def ranked(ids: Tensor) -> Tensor:
    """Renumber the ids of every row from 0, keeping their order, without gaps: B x N int64.

    On a GPU nothing waits for the host, which `torch.unique` would.
    """
    found, order = ids.sort(dim=1)
    steps = F.pad((found.diff(dim=1) > 0).long(), (1, 0)).cumsum(1)
    return torch.empty_like(steps).scatter_(1, order, steps)


def regions_shown(ids: Ids, plan: WindowPlan, patch: int) -> int:
    """Count the regions that a window shows at most, padding included.

    Args:
        ids: H x W, on the second encoder's grid of the image.
        plan: the windows.
        patch: side of CLIP's patches in pixels.
    """
    found = np.append(ids.ravel(), ids.min())[shown_places(plan, patch, (ids.shape[0], ids.shape[1]))]
    return dense_ranks(found)[1]


def read_windows(tower: Tower, steps: Iterable[Step], method: StitchedBlocks, window: Window) -> Tensor:
    """Read a batch of windows, each as an image of its own: B x H x W x E.

    Args:
        tower: CLIP's image tower.
        steps: blocks at work on the windows, whose sides are whole patches of both encoders.
        method: the method.
        window: its inputs.
    """
    size, features = window.pixels.shape[2:], required(window.features, "features of a second encoder")
    plan = WindowPlan.of((size[0], size[1]), 0, 1, tower.patch_size)
    image = WholeImage(tower, method, plan, window, size[0] // features.shape[2], window.region_count, views=False)
    reader = WindowReader(image, 0, 1)
    for step in steps:
        reader.see(step)
    reader.finish()
    return image.tokens()
