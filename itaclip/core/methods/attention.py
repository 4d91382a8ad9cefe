"""Attention functions of the training-free family, as pure functions.

An attention function computes what the modified block's attention returns for given projections:
``function(projections, value, grid) -> B x h x N x d``. The value is a separate argument
because ITACLIP applies the maps of middle layers to the values of the last layer.
No attention function stores an N x N map: attention is linear in its map, so sums of maps are
sums of outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.core.clip.blocks import Projections, attend
from itaclip.core.clip.towers import Grid
from itaclip.errors import ItaclipError

Attention = Callable[[Projections, Tensor, Grid], Tensor]


def query_key(p: Projections, value: Tensor, grid: Grid) -> Tensor:
    """Compute softmax(q k' s) v: CLIP itself."""
    return attend(p.query, p.key, value)


def query_query(p: Projections, value: Tensor, grid: Grid) -> Tensor:
    """Compute softmax(q q' s) v: ClearCLIP (Lan et al., ECCV 2024)."""
    return attend(p.query, p.query, value)


def key_key(p: Projections, value: Tensor, grid: Grid) -> Tensor:
    """Compute softmax(k k' s) v."""
    return attend(p.key, p.key, value)


def value_value(p: Projections, value: Tensor, grid: Grid) -> Tensor:
    """Compute softmax(v v' s) v, with the similarity of the block's own values."""
    return attend(p.value, p.value, value)


def sum_of(first: Attention, *more: Attention) -> Attention:
    """Sum several attention functions without averaging them: with n maps, rows sum to n."""

    def function(p: Projections, value: Tensor, grid: Grid) -> Tensor:
        out = first(p, value, grid)
        for other in more:
            out = out + other(p, value, grid)
        return out

    return function


def value_only(p: Projections, value: Tensor, grid: Grid) -> Tensor:
    """Return v: every token keeps its value, as in MaskCLIP (Zhou et al., ECCV 2022)."""
    return value


def neighbour(std: float) -> Attention:
    """Compute softmax(k k' s + G) v with G a Gaussian window on the grid: NACLIP (Hajimiri et al., WACV 2025)."""

    def function(p: Projections, value: Tensor, grid: Grid) -> Tensor:
        prefix = p.key.shape[-2] - grid[0] * grid[1]
        bias = gaussian_window(grid, std, prefix, p.key.device).to(p.key.dtype)
        return attend(p.key, p.key, value, bias=bias)

    return function


def generalised(p: Projections, value: Tensor, grid: Grid) -> Tensor:
    """Compute GEM's iterated self-self attention over v, k and q (Bousselham et al., CVPR 2024).

    Each of the three is normalised, attends to itself once and is normalised again; its
    self-similarity then weights the values. The temperature grows with the mean norm of
    the block's input; the three outputs are averaged.
    """
    scale = p.query.shape[-1] ** -0.5
    temperature = (scale * p.normed.norm(dim=-1).mean(dim=1))[:, None, None, None].to(p.query.dtype)

    def refine(a: Tensor, onto: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(a * temperature, a, onto, scale=1.0)

    outputs = []
    for a in (p.value, p.key, p.query):
        a = F.normalize(a, dim=-1)
        a = F.normalize(refine(a, a), dim=-1)
        outputs.append(refine(a, value))
    return (outputs[0] + outputs[1] + outputs[2]) / 3


PAIRS: dict[str, Attention] = {"qk": query_key, "qq": query_query, "kk": key_key, "vv": value_value}
"""The similarities that a name such as "qq+kk" combines."""


@lru_cache(maxsize=32)
def named(sum_of_pairs: str) -> Attention:
    """Look up the attention function of a name: pairs of `PAIRS` joined by "+", as in the ablation of ITACLIP's paper.

    The same name always gives the same function, so that equal methods compare equal.

    Raises:
        ItaclipError: a part that is not one of `PAIRS`.
    """
    parts = sum_of_pairs.split("+")
    unknown = [part for part in parts if part not in PAIRS]
    if unknown:
        raise ItaclipError(
            f"attention = {sum_of_pairs!r}: {unknown[0]!r} is not one of {', '.join(PAIRS)}; join several with '+'."
        )
    found = [PAIRS[part] for part in parts]
    return found[0] if len(found) == 1 else sum_of(*found)


self_self = named("qq+kk")
"""(softmax(q q' s) + softmax(k k' s)) v: SCLIP (Wang et al., ECCV 2024) and ITACLIP, eq. 3."""


@lru_cache(maxsize=32)
def gaussian_window(grid: Grid, std: float, prefix: int, device: torch.device) -> Tensor:
    """Compute the bias exp(-d^2 / (2 std^2)), d in patches: (P + N) x (P + N), 0 for the P tokens before the
    patches."""
    y, x = torch.meshgrid(*(torch.arange(side, device=device) for side in grid), indexing="ij")
    places = torch.stack([y.flatten(), x.flatten()], dim=1).float()
    squared = (places[:, None] - places[None]).square().sum(-1)
    return F.pad(torch.exp(-squared / (2 * std**2)), (prefix, 0, prefix, 0))
