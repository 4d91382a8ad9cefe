"""OV-Stitcher on one image: seconds and memory, compared with a plain version and with CorrCLIP on the same windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.core.encoder import DenseEncoder
from itaclip.core.methods import Window, get_method
from itaclip.core.methods.stitcher import OVStitcher
from itaclip.core.regions.maps import Ids, dense_ranks, resize_map, window_regions
from itaclip.core.stitching import image_grid
from itaclip.core.whole_image import WholeImage, WindowReader, regions_shown
from itaclip.core.windows import WindowPlan, cut_windows
from itaclip.research.benchmark import plain_stitcher
from itaclip.research.benchmark.machine import measured

FINE, CHANNELS = 8, 768
"""Patches and channels of the second encoder, as DINO ViT-B/8 has them."""

_AT_ONCE = 10  # windows per pass, as the pipeline takes them on a CPU


def random_regions(size: tuple[int, int], count: int) -> Ids:
    """Divide an image among the nearest of random points, 0 the region of the first: H x W."""
    random = np.random.default_rng(0)
    points = random.uniform(size=(count, 2)) * size
    rows, columns = np.mgrid[: size[0], : size[1]]
    best, found = np.full(size, np.inf), np.zeros(size, np.int64)
    for number, (y, x) in enumerate(points):
        distance = (rows - y) ** 2 + (columns - x) ** 2
        found[distance < best] = number
        best = np.minimum(best, distance)
    return found


@torch.no_grad()
def whole_image_row(
    encoder: DenseEncoder, visual: Any, size: tuple[int, int] = (448, 597), crop: int = 336, stride: int = 112,
    regions: int = 100, repeats: int = 3,
) -> dict[str, Any]:  # fmt: skip
    """Measure OV-Stitcher on a random image; masks and the second encoder's features are given.

    Versions take turns, and the fastest of the repeats counts.

    Args:
        encoder: CLIP's image tower.
        visual: the same tower in open_clip's modules; None leaves the plain version out.
        size: height and width of the resized image.
        crop: side of a window.
        stride: step between windows.
        regions: number of regions.
        repeats: turns.

    Returns:
        Seconds and additional peak memory in MiB by version, ratios, and the largest difference of a
        unit token's coordinate from the plain version's.
    """
    stitcher, corrclip = get_method("ovstitcher", blocks=encoder.depth), get_method("corrclip", blocks=encoder.depth)
    assert isinstance(stitcher, OVStitcher)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(3, *size, generator=generator)
    plan = WindowPlan.of(size, crop, stride, encoder.patch_size, "centre")
    grid = image_grid(plan, FINE)
    ids = random_regions(size, regions)
    coarse = torch.randn(1, CHANNELS, grid[0] // 6 + 1, grid[1] // 6 + 1, generator=generator)
    features = F.normalize(F.interpolate(coarse, size=grid, mode="bilinear", align_corners=False), dim=1)

    def stitched() -> Tensor:
        ranks, count = dense_ranks(resize_map(ids, grid)[None])
        window = Window(pixels[None], features=features, regions=torch.from_numpy(ranks), region_count=count)
        shown = regions_shown(ranks[0], plan, encoder.patch_size)
        image = WholeImage(encoder.tower, stitcher, plan, window, FINE, shown, views=False)
        for first in range(0, plan.count, _AT_ONCE):
            last = min(first + _AT_ONCE, plan.count)
            reader = WindowReader(image, first, last)
            for step in encoder.steps(cut_windows(pixels, plan, first, last), image.needs):
                reader.see(step)
            reader.finish()
        return image.tokens()[0].flatten(0, 1)

    windows = cut_windows(pixels, plan, 0, plan.count)
    ranks, count = dense_ranks(window_regions(ids, plan, 0, plan.count, FINE))
    fine = plan.grid_of(FINE)
    upsampled = F.interpolate(features, size=size, mode="nearest")[0]
    seen = F.normalize(cut_windows(upsampled, plan, 0, plan.count)[:, :, ::FINE, ::FINE], dim=1)
    assert seen.shape[2:] == fine
    inputs = Window(windows, features=seen.contiguous(), regions=torch.from_numpy(ranks), region_count=count)

    def by_window() -> Tensor:
        parts = range(0, plan.count, _AT_ONCE)
        return torch.cat([encoder.tokens(windows[a : a + _AT_ONCE], [(corrclip, _part(inputs, a))])[0] for a in parts])

    plain = plain_stitcher.Image(pixels, torch.from_numpy(ids), features[0].flatten(1).T, crop, stride, FINE)

    def plainly() -> Tensor:
        return plain_stitcher.tokens(visual, stitcher, plain)

    versions = {"ovstitcher": stitched, "corrclip": by_window, **({"plainly": plainly} if visual else {})}
    device = pixels.device
    seconds, extra, results = dict.fromkeys(versions, float("inf")), dict.fromkeys(versions, 0.0), {}
    for _ in range(repeats):
        for name, version in versions.items():
            cost, results[name] = measured(version, device)
            seconds[name] = min(seconds[name], cost.seconds)
            extra[name] = max(extra[name], cost.extra_mib)
    row: dict[str, Any] = {
        "windows": plan.count, "regions": regions,
        **{f"{name}, s": round(value, 3) for name, value in seconds.items()},
        **{f"{name}, MiB": round(value) for name, value in extra.items()},
        "to corrclip": round(seconds["ovstitcher"] / seconds["corrclip"], 3),
    }  # fmt: skip
    if visual:
        units = [F.normalize(results[name], dim=-1) for name in ("ovstitcher", "plainly")]
        row |= {
            "times as fast": round(seconds["plainly"] / seconds["ovstitcher"], 2),
            "memory to plain": round(extra["ovstitcher"] / extra["plainly"], 2) if extra["plainly"] else "",
            "largest difference": f"{float((units[0] - units[1]).abs().max()):.0e}",
        }
    return row


def _part(inputs: Window, first: int) -> Window:
    """Take some windows of a batch."""
    assert inputs.features is not None
    assert inputs.regions is not None
    part = slice(first, first + _AT_ONCE)
    return Window(inputs.pixels[part], features=inputs.features[part], regions=inputs.regions[part],
                  region_count=inputs.region_count)  # fmt: skip
