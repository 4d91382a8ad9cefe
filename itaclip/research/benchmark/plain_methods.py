"""SC-CLIP, ResCLIP, ProxyCLIP, CorrCLIP and (in `plain_rfclip`) RF-CLIP as one would write them first.

One window at a time through open_clip's own modules, maps stored, loops over patches and regions
as in the published codes, every token of every branch through all blocks. The measure that the
methods of `itaclip/core/methods` are timed against, and an oracle for them.

Shapes: one window; N patches of r x c; places H x W of a second encoder; Q queries.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from itaclip.core.methods import RFCLIP, SCCLIP, CorrCLIP, Method, ProxyCLIP, ResCLIP, Window
from itaclip.core.settings import Settings
from itaclip.research.benchmark.plain import refine
from itaclip.research.benchmark.plain_rfclip import rfclip

Grid: TypeAlias = "tuple[int, ...]"

HAVE_ONE = (SCCLIP, ResCLIP, ProxyCLIP, CorrCLIP, RFCLIP)


def tokens(visual: Any, method: Method, window: Window) -> Tensor:
    """Compute features of a window of the trained size, before normalisation: rows x columns x E; RF-CLIP's logits.

    Args:
        visual: open_clip's image tower.
        method: one of `HAVE_ONE`.
        window: a batch of one.
    """
    grid = tuple(side // patch for side, patch in zip(window.pixels.shape[2:], visual.conv1.kernel_size, strict=True))
    if isinstance(method, SCCLIP):
        return scclip(visual, method, window.pixels, grid)
    if isinstance(method, ResCLIP):
        return resclip(visual, method, window, grid)
    if isinstance(method, ProxyCLIP):
        return proxyclip(visual, method, window, grid)
    if isinstance(method, CorrCLIP):
        return corrclip(visual, method, window, grid)
    if isinstance(method, RFCLIP):
        return rfclip(visual, method, window, grid)
    raise TypeError(f"{type(method).__name__} has no plain version here; those of HAVE_ONE have.")


def outputs(visual: Any, pixels: Tensor) -> list[Tensor]:
    """Compute the outputs of the embedding (0) and of every block, each (1 + N) x D."""
    x = visual.conv1(pixels).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(1, 1, -1), x], dim=1) + visual.positional_embedding
    found = [visual.ln_pre(x)]
    for block in visual.transformer.resblocks:
        found.append(block(found[-1]))
    return [y[0] for y in found]


def heads(block: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute queries, keys and values of n x D tokens: h x n x d each."""
    joint = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
    q, k, v = (part.unflatten(-1, (block.attn.num_heads, -1)).transpose(0, 1) for part in joint.chunk(3, dim=-1))
    return q, k, v


def attend(block: Any, attention: Tensor, v: Tensor) -> Tensor:
    """Project stored maps on values: n x D."""
    projected: Tensor = block.attn.out_proj((attention @ v).transpose(0, 1).flatten(1))
    return projected


# --- SC-CLIP ----------------------------------------------------------------------


def scclip(visual: Any, method: SCCLIP, pixels: Tensor, grid: Grid) -> Tensor:
    """Take steps 1 to 6 in their order."""
    y = outputs(visual, pixels)
    block, before_last = visual.transformer.resblocks[-1], y[-2]
    out = outliers(before_last[1:], method)
    unit = F.normalize(repair(y[method.similarity_layer][1:], out, grid), dim=-1)
    similarity = unit @ unit.T
    finer = F.normalize(y[method.refine_layer][1:], dim=-1)

    def branch(patches: Tensor, class_token: Tensor) -> Tensor:
        _, k, v = heads(block, patches)
        given = 3 * (similarity - similarity.mean())
        given = given.masked_fill(given < 0, -torch.inf).softmax(-1)
        own = (k @ k.transpose(1, 2) * k.shape[-1] ** -0.5).softmax(-1)
        return averaged(finer @ finer.T, attend(block, (given + own) / 2, v) + method.class_weight * class_token)

    first, last = method.fused_layers
    fused = torch.stack(y[first : last + 1]).sum(0)
    x = branch(averaged(similarity, repair(before_last[1:], out, grid)), before_last[0])
    x = x + branch(fused[1:], fused[0])
    return (visual.ln_post(x) @ visual.proj).unflatten(0, grid)


def outliers(patches: Tensor, method: SCCLIP) -> Tensor:
    """Compute the local outlier factor, neighbour by neighbour."""
    squared = torch.cdist(patches.double(), patches.double()).square()
    distance, near = squared.topk(min(method.neighbours, len(patches) - 1) + 1, largest=False)
    distance, near = distance[:, 1:], near[:, 1:]
    density = 1 / torch.maximum(distance, distance[:, -1:]).mean(1)
    factor = density[near].mean(1) / density
    return factor > factor.quantile(method.outlier_quantile)


def repair(patches: Tensor, out: Tensor, grid: Grid) -> Tensor:
    """Make every outlier the mean of its neighbours on the grid that are none."""
    rows, columns = grid
    repaired = patches.clone()
    for number in out.nonzero().flatten().tolist():
        y, x = divmod(number, columns)
        around = [j * columns + i for j in range(max(y - 1, 0), min(y + 2, rows))
                  for i in range(max(x - 1, 0), min(x + 2, columns)) if not out[j * columns + i]]  # fmt: skip
        if around:
            repaired[number] = patches[around].mean(0)
    return repaired


def averaged(similarity: Tensor, x: Tensor) -> Tensor:
    """Average x by similarities of at least 0.4."""
    strong = torch.where(similarity < 0.4, 0.0, similarity)
    return strong / (strong.sum(-1, keepdim=True) + 1e-6) @ x


# --- ResCLIP ----------------------------------------------------------------------


def resclip(visual: Any, method: ResCLIP, window: Window, grid: Grid) -> Tensor:
    """Compute the base with the middle blocks' map, its labels, and the base with both."""
    blocks, y = visual.transformer.resblocks, outputs(visual, window.pixels)
    middle = []
    for layer in method.layers:
        q, k, _ = heads(blocks[layer - 1], y[layer - 1])
        middle.append((q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1))
    residual = torch.stack(middle).mean(0)

    def read(feedback: Tensor | None) -> Tensor:
        q, k, v = heads(blocks[-1], y[-2])
        attention = torch.zeros_like(residual)
        for a in {"naclip": [k], "clearclip": [q], "sclip": [q, k]}[method.base]:
            x = a @ a.transpose(1, 2) * a.shape[-1] ** -0.5
            if feedback is not None and method.feedback_scale is not None:
                x = method.feedback_scale * ((1 - method.feedback_weight) * x + method.feedback_weight * feedback)
            if method.base == "naclip":
                places = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])).float()
                x = x + F.pad(torch.exp(-torch.cdist(places, places).square() / 50), (1, 0, 1, 0))
            attention = attention + x.softmax(-1)
        attention = method.residual_scale * (
            (1 - method.residual_weight) * attention + method.residual_weight * residual
        )
        x = attend(blocks[-1], attention, v)
        if method.base == "sclip":
            x = y[-2] + x
            x = x + blocks[-1].mlp(blocks[-1].ln_2(x))
        return (visual.ln_post(x) @ visual.proj)[1:].unflatten(0, grid)

    first = read(None)
    if method.feedback_scale is None:
        return first
    return read(feedback(patch_labels(first, method, window), method, grid))


def patch_labels(first: Tensor, method: ResCLIP, window: Window) -> Tensor:
    """Find the most frequent query of every patch: N."""
    assert window.text is not None
    maps = (F.normalize(first, dim=-1) @ window.text.T).permute(2, 0, 1)
    size = window.pixels.shape[2:]
    maps = F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
    patch = size[0] // first.shape[0]
    maps = refine(maps, window.pixels[0], Settings(pamr_steps=10, pamr_stride=(patch // 2, patch)))
    best, label = (maps * window.logit_scale).softmax(0).max(0)
    label[best < method.threshold] = 0
    found = [part.flatten().bincount().argmax() for rows in label.split(patch) for part in rows.split(patch, dim=1)]
    return torch.stack(found)


def feedback(labels: Tensor, method: ResCLIP, grid: Grid) -> Tensor:
    """Compute F / max F, patch by patch, rows smoothed: (1 + N) x (1 + N) float16."""
    rows, columns = grid
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    farthest = max(rows, columns) - 1
    steps = torch.linspace(0, 1, farthest + 1)[:, None, None]
    belong = (labels[:, None] == labels).float()
    for i, start in enumerate(places if method.decay else ()):
        distance = (start - places).abs().amax(1)
        line = torch.round(start * (1 - steps) + places * steps).long()  # (P + 1) x N x 2
        counts = torch.arange(farthest + 1)[:, None] <= distance
        crossed = ((labels[line[..., 0] * columns + line[..., 1]] != labels[i]) & counts).any(0)
        belong[i, crossed] *= torch.exp(-distance[crossed] / max(farthest, 1))
    count = len(labels)
    size = min(count, 31)
    reach = (size if size % 2 else size - 1) // 2
    kernel = torch.exp(-torch.arange(-reach, reach + 1).float().square() / 50)
    smooth = F.conv1d(belong[:, None], kernel[None, None], padding=reach)[:, 0]
    smooth = smooth / (smooth.sum(1, keepdim=True) + 1e-8)
    return F.pad((smooth / smooth.max()).half(), (1, 0, 1, 0))


# --- ProxyCLIP and CorrCLIP -------------------------------------------------------


def proxyclip(visual: Any, method: ProxyCLIP, window: Window, grid: Grid) -> Tensor:
    """Apply another encoder's similarities to CLIP's last values."""
    assert window.features is not None
    features = window.features[0].flatten(1)
    similarity = features.T @ features
    weights = method.scale * (similarity - method.shift * similarity.mean())
    attention = weights.masked_fill(weights < 0, -torch.inf).softmax(-1)
    size = tuple(window.features.shape[2:])
    x = on_values(visual.transformer.resblocks[-1], outputs(visual, window.pixels)[-2], attention, grid, size)
    return (visual.ln_post(x) @ visual.proj).unflatten(0, size)


def on_values(block: Any, x: Tensor, attention: Tensor, grid: Grid, size: Grid) -> Tensor:
    """Apply one map for all heads to the patches' values, resized: HW x D."""
    _, _, v = heads(block, x)
    maps = v[:, 1:].transpose(1, 2).unflatten(2, grid)
    finer = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    return attend(block, attention, finer.flatten(2).transpose(1, 2))


def corrclip(visual: Any, method: CorrCLIP, window: Window, grid: Grid) -> Tensor:
    """Compute merging, scope, region tokens through all blocks, and the three branches."""
    assert window.features is not None
    assert window.regions is not None
    size = tuple(window.features.shape[2:])
    features = window.features[0].flatten(1).T
    similarity = features @ features.T
    regions = merged(features, window.regions[0].flatten(), method.merging)
    either = (regions[:, None] == 0) | (regions == 0)
    allowed = torch.where(either, similarity > similarity.mean(), regions[:, None] == regions)
    attention = (method.scale * similarity).masked_fill(~allowed, -torch.inf).softmax(-1)

    y, last = outputs(visual, window.pixels), visual.transformer.resblocks[-1]
    main = on_values(last, y[-2], attention, grid, size)
    first, end = method.spatial_layers
    spatial = on_values(last, torch.stack(y[first : end + 1]).mean(0), attention, grid, size)

    patches = nearest(regions.unflatten(0, size), grid).flatten()
    names = patches.unique()
    semantic = region_tokens(visual, y[0], [patches == name for name in names])
    back = nearest(patches.unflatten(0, grid), size).flatten()
    semantic = semantic[torch.searchsorted(names, back)]
    x = visual.ln_post(main) + visual.ln_post(spatial) + method.semantic_weight * visual.ln_post(semantic)
    return (x @ visual.proj).unflatten(0, size)


def merged(features: Tensor, regions: Tensor, distance: float) -> Tensor:
    """Merge regions in reach of each other into the first of them."""
    ids = regions.unique()
    if len(ids) <= 2:
        return regions
    ids = ids[ids > 0]
    means = F.normalize(torch.stack([features[regions == i].mean(0) for i in ids]), dim=-1)
    similarity = means @ means.T
    _, clusters = connected_components((similarity.max() - similarity <= distance).numpy())
    found = regions.clone()
    for cluster in range(clusters.max() + 1):
        members = ids[torch.from_numpy(clusters == cluster)]
        found[torch.isin(regions, members)] = members.min()
    return found


def region_tokens(visual: Any, embedded: Tensor, members: list[Tensor]) -> Tensor:
    """Run copies of the class token through all blocks, before all other tokens: R x D."""
    copies, count = len(members), len(embedded)
    blocked = torch.ones(copies + count, copies + count, dtype=torch.bool)
    blocked[:, copies:] = False
    for number, member in enumerate(members):
        blocked[number, copies + 1 :] = ~member
    bias = torch.zeros(blocked.shape).masked_fill(blocked, -torch.inf)
    x = torch.cat([embedded[:1].expand(copies, -1), embedded])[None]
    for block in visual.transformer.resblocks:
        x = block(x, attn_mask=bias)
    return x[0, :copies]


def nearest(ids: Tensor, size: Grid) -> Tensor:
    """Resize ids by the nearest neighbour."""
    return F.interpolate(ids[None, None].double(), size=size, mode="nearest")[0, 0].long()
