"""Seconds of every method for the same windows, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from itaclip.benchmark.machine import timed
from itaclip.core.encoder import DenseEncoder
from itaclip.core.methods import Method, Window, get_method
from itaclip.core.regions import dense_ranks


@torch.no_grad()
def method_seconds(
    encoder: DenseEncoder, names: Sequence[str], windows: int, queries: int, repeats: int = 3
) -> list[dict[str, Any]]:
    """Seconds a window of some methods, all windows in a pass and one by one.

    Methods take turns, so that whatever else the machine does meets all of them; the fastest of
    the repeats counts. What lies beside CLIP (second features with patches of 8 pixels, regions,
    text bank) is random and given.

    Args:
        encoder: CLIP's image tower.
        names: keys of `METHODS`; the first is what ratios are told against.
        windows: windows of a pass, of the size that the model was trained on.
        queries: of the text bank.
        repeats: turns.

    Returns:
        One row a method: seconds a window in a pass and one by one, and their ratios.
    """
    generator = torch.Generator().manual_seed(0)
    side, width = encoder.image_size, encoder.visual.proj.shape[1]
    pixels = torch.randn(windows, 3, side, side, generator=generator)
    text = F.normalize(torch.randn(queries, width, generator=generator), dim=-1)
    places = side // 8
    features = F.normalize(torch.randn(windows, 64, places, places, generator=generator).cumsum(3), dim=1)
    blocks = torch.arange(places).div(6, rounding_mode="floor")
    ids, count = dense_ranks((blocks[:, None] * 5 + blocks).expand(windows, -1, -1).numpy())
    regions = torch.from_numpy(ids)
    methods = {name: get_method(name, blocks=len(encoder.blocks)) for name in names}

    def read(method: Method, first: int, last: int) -> None:
        part = slice(first, last)
        window = Window(pixels[part], text, 40.0, features[part], regions[part], count)
        encoder.read(pixels[part], [(method, window)])

    def one_by_one(method: Method) -> None:
        for number in range(windows):
            read(method, number, number + 1)

    together, alone = dict.fromkeys(names, float("inf")), dict.fromkeys(names, float("inf"))
    for _ in range(repeats):
        for name, method in methods.items():
            together[name] = min(together[name], timed(lambda m=method: read(m, 0, windows), 1)[0])  # type: ignore[misc]
            alone[name] = min(alone[name], timed(lambda m=method: one_by_one(m), 1)[0])  # type: ignore[misc]
    return [
        {
            "method": name,
            "seconds_per_window": round(together[name] / windows, 4),
            f"ratio_to_{names[0]}": round(together[name] / together[names[0]], 3),
            "one_by_one": round(alone[name] / windows, 4),
            "one_by_one_over_together": round(alone[name] / together[name], 3),
        }
        for name in names
    ]
