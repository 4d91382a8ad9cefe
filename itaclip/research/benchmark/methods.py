"""Seconds of every method for the same windows, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.core.encoder import DenseEncoder
from itaclip.core.methods import Method, Window, get_method
from itaclip.core.regions.maps import dense_ranks
from itaclip.research.benchmark import plain_methods
from itaclip.research.benchmark.machine import timed


def random_windows(count: int, side: int, width: int, queries: int) -> list[Window]:
    """Make batches of one: random pixels, text bank, second features with patches of 8 pixels, blocks as regions."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(count, 3, side, side, generator=generator)
    text = F.normalize(torch.randn(queries, width, generator=generator), dim=-1)
    places = side // 8
    features = F.normalize(torch.randn(count, 64, places, places, generator=generator).cumsum(3), dim=1)
    blocks = torch.arange(places).div(6, rounding_mode="floor")
    ids, regions = dense_ranks((blocks[:, None] * 5 + blocks).expand(count, -1, -1).numpy())
    return [
        Window(pixels[i : i + 1], text, 40.0, features[i : i + 1], torch.from_numpy(ids[i : i + 1]), regions)
        for i in range(count)
    ]


def joined(windows: Sequence[Window]) -> Window:
    """Join all in one batch."""
    first = windows[0]

    def cat(parts: Sequence[Tensor | None]) -> Tensor:
        return torch.cat([part for part in parts if part is not None])

    features, regions = cat([w.features for w in windows]), cat([w.regions for w in windows])
    pixels = cat([w.pixels for w in windows])
    return Window(pixels, first.text, first.logit_scale, features, regions, first.region_count)


@torch.no_grad()
def method_seconds(
    encoder: DenseEncoder, names: Sequence[str], windows: int, queries: int, visual: Any = None, repeats: int = 3
) -> list[dict[str, Any]]:
    """Measure the seconds a window of some methods: all windows in a pass, and plainly.

    Methods take turns, so that whatever else the machine does meets all of them; the fastest of
    the repeats counts. What a method reads besides CLIP is random and given.

    Args:
        encoder: CLIP's image tower.
        names: keys of `METHODS`; the first is what ratios are told against.
        windows: windows of a pass, of the size that the model was trained on.
        queries: of the text bank.
        visual: the same tower in open_clip's modules, for the plain versions; None leaves them out.
        repeats: turns.

    Returns:
        One row a method: seconds a window, the ratio to the first, and where there is a plain
        version (`plain_methods`) its seconds, how many times as fast this is, and the largest
        difference of a unit token's coordinate.
    """
    given = random_windows(windows, encoder.image_size, encoder.channels, queries)
    batch = joined(given)
    methods = {name: get_method(name, blocks=encoder.depth) for name in names}
    plain = {name for name, method in methods.items() if visual and isinstance(method, plain_methods.HAVE_ONE)}

    def together(method: Method) -> Tensor:
        return encoder.tokens(batch.pixels, [(method, batch)])[0]

    def plainly(method: Method) -> Tensor:
        return torch.stack([plain_methods.tokens(visual, method, window) for window in given[:3]])

    best: dict[tuple[str, Callable[..., Tensor]], float] = {}
    apart = {}
    for _ in range(repeats):
        for name, method in methods.items():
            seconds, fast = timed(lambda m=method: together(m), 1)  # type: ignore[misc]
            best[name, together] = min(seconds / windows, best.get((name, together), float("inf")))
            if name in plain:
                seconds, slow = timed(lambda m=method: plainly(m), 1)  # type: ignore[misc]
                best[name, plainly] = min(seconds / len(slow), best.get((name, plainly), float("inf")))
                apart[name] = float((F.normalize(fast[: len(slow)], dim=-1) - F.normalize(slow, dim=-1)).abs().max())
    rows = []
    for name in names:
        fastest, slow_one = best[name, together], best.get((name, plainly))
        rows.append(
            {
                "method": name,
                "seconds_per_window": round(fastest, 4),
                f"ratio_to_{names[0]}": round(fastest / best[names[0], together], 3),
                "plainly": round(slow_one, 4) if slow_one else "",
                "times_as_fast": round(slow_one / fastest, 2) if slow_one else "",
                "largest_difference": f"{apart[name]:.0e}" if slow_one else "",
            }
        )
    return rows
