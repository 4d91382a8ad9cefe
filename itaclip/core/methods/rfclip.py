"""RF-CLIP: denoised blocks, a guide from all of them, and texts moved towards the image (AAAI 2026, arXiv 2511.16170).

As released: single CLIP, no second model. Shapes: B windows of N patches on r x c, D width, E joint space,
h heads of d channels, Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.core.clip.blocks import Projections, attend
from itaclip.core.clip.encoded import EncodedWindows, Needs
from itaclip.core.clip.towers import Grid
from itaclip.core.methods.method import Method, Window
from itaclip.core.methods.proxyclip import required
from itaclip.errors import ItaclipError

SINK_CHANNELS = {
    768: (4, 162, 189, 326, 429, 474, 633, 713),
    1024: (250, 261, 437, 650, 720, 779, 936, 1005),
}
"""Channels in which sink tokens of OpenAI's ViT-B/16 and ViT-L/14 stand out, by width."""

_SINK_LEVEL = 5.0  # times a token's mean, after its minimum is subtracted
_SINK_SHARE = 0.4  # of the neighbourhood's mean in a denoised sink
_WEAK = 0.4  # cosines below this do not enhance

# The refocusing that no released run switches on.
_HEAD_LEVEL = 0.1  # a head is refocused if sinks receive more than this share of its attention
_KEPT = 0.6  # the share of their attention that sinks keep


@dataclass(frozen=True)
class RFCLIP(Method):
    """Denoise the patches after every block; read the last one with the mean of all blocks' k-k maps.

    Attributes:
        sink_channels: channels that identify sink tokens; None takes the published ones of the width
            (`SINK_CHANNELS`), or none, which switches denoising off, for a width that was not published.
        text_step: how far a text moves towards its two best patches, in [0, 1]; 0 leaves the texts alone.
        text_distance: classes closer than this cosine distance form a cluster (complete linkage), of
            which only the class that fits the image best moves.
        class_weight: share of the class token's logits in those of every patch, in [0, 1].
        class_token: "image" takes the class token from a further pass over the whole image, as
            released for all data sets but Cityscapes; "window" takes the window's own.
        refocus: moves attention from sink tokens to the others, in the heads where sinks receive much
            of it. The paper is named after this step, yet it is off in every released run, and
            therefore here. The released code holds it; this version follows a description and was
            not compared with it.
    """

    sink_channels: tuple[int, ...] | None = None
    text_step: float = 0.03
    text_distance: float = 0.1
    class_weight: float = 0.1
    class_token: Literal["image", "window"] = "image"
    refocus: bool = False

    reads_text: ClassVar[bool] = True
    returns_logits: ClassVar[bool] = True

    def __post_init__(self) -> None:
        shares = {"text_step": self.text_step, "class_weight": self.class_weight}
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ItaclipError(f"method_options: {name} = {value!r}: expected a share in [0, 1].")
        if self.class_token not in ("image", "window"):
            raise ItaclipError(f"method_options: class_token = {self.class_token!r}: expected 'image' or 'window'.")

    @property
    def reads_image(self) -> bool:
        return self.class_token == "image" and bool(self.text_step or self.class_weight)

    def needs(self, depth: int) -> Needs:
        return Needs.of(outputs=[0])  # the blocks run here, because each reads what was denoised before

    def tokens(self, encoded: EncodedWindows, window: Window) -> Tensor:
        """Compute logits, B x r x c x Q."""
        keys, outputs = self._run(encoded)
        guide = torch.stack(outputs).mean(0)
        before, mean = encoded.patches(outputs[-2] if len(outputs) > 1 else encoded.output(0)), encoded.patches(guide)
        weights = strong_cosines(mean)
        dense = self._last_block(encoded, keys, torch.cat([weights @ before, weights @ mean]))
        patches = F.normalize(encoded.joint(encoded.norm(dense)).float(), dim=-1)
        text = required(window.text, "the text bank").float()
        image = self._summary(encoded, outputs[-1]) if window.image is None else window.image
        return encoded.on_grid(self.compared(patches, F.normalize(image.float(), dim=-1), text))

    def image_feature(self, encoded: EncodedWindows) -> Tensor:
        return self._summary(encoded, self._run(encoded)[1][-1])

    def compared(self, patches: Tensor, image: Tensor, text: Tensor) -> Tensor:
        """Compare patches with texts, of which some move towards the image first.

        Args:
            patches: B x N x E, unit rows.
            image: B x E, unit rows: the class token.
            text: Q x E, unit rows.

        Returns:
            B x N x Q. The class token is compared with the unmoved texts.
        """
        whole = image @ text.T
        found = patches @ text.T
        if self.text_step:
            leads = leading(whole, clusters(text, self.text_distance))
            found = torch.where(leads[:, None], moved_texts(patches, found, self.text_step), found)
        return (1 - self.class_weight) * found + self.class_weight * whole[:, None]

    def _run(self, encoded: EncodedWindows) -> tuple[list[Tensor], list[Tensor]]:
        """Run all blocks on denoised tokens: their keys, and their outputs, B x (P + N) x D float32."""
        x = encoded.output(0)
        channels = SINK_CHANNELS.get(x.shape[2], ()) if self.sink_channels is None else self.sink_channels
        if channels and max(channels) >= x.shape[2]:
            raise ItaclipError(f"method_options: sink_channels = {channels}: this model has {x.shape[2]} channels.")
        keys, outputs = [], []
        for block in encoded.blocks:
            p = block.project(x)
            keys.append(p.key)
            if self.refocus and channels:
                sinks = F.pad(find_sinks(encoded.patches(x), channels), (encoded.prefix, 0))
                x = x + block.merge_heads(refocused(p, sinks)).to(x.dtype)
                x = x + block.feed_forward(x)
            else:
                x = block.run(x, p)
            if channels:
                clean = denoised(encoded.patches(x), encoded.grid, channels)
                x = torch.cat([x[:, : encoded.prefix], clean], dim=1)
            outputs.append(x)
        return keys, outputs

    def _last_block(self, encoded: EncodedWindows, keys: list[Tensor], both: Tensor) -> Tensor:
        """Average the k-k maps of all blocks over the last block's values of 2 B x N x D patches: B x N x D.

        The maps keep the share that they give to tokens before the patches. Attention is linear in its
        map, so none is stored.
        """
        block = encoded.last
        values = torch.cat(block.project(both).value.chunk(2), dim=-1)
        values = F.pad(values, (0, 0, encoded.prefix, 0))
        heads = attend(keys[0], keys[0], values)
        for key in keys[1:]:
            heads = heads + attend(key, key, values)
        heads = heads / len(keys)
        first, second = heads[:, :, encoded.prefix :].chunk(2, dim=-1)
        # the output projection is affine: the mean of two outputs is the output of the mean
        return block.merge_heads((first + second) / 2).float()

    def _summary(self, encoded: EncodedWindows, x: Tensor) -> Tensor:
        return encoded.joint(encoded.norm(encoded.summary(x)))[:, 0]


def find_sinks(patches: Tensor, channels: tuple[int, ...]) -> Tensor:
    """Find the tokens that stand out in one of the channels: B x N bool, for B x N x D."""
    shifted = patches.float() - patches.float().amin(-1, keepdim=True)
    share = shifted[..., list(channels)].amax(-1) / shifted.sum(-1).clamp(min=1e-12)
    return share > _SINK_LEVEL / patches.shape[-1]


def denoised(patches: Tensor, grid: Grid, channels: tuple[int, ...]) -> Tensor:
    """Mix every sink with the mean of the 3 x 3 patches around it, zeros beyond the window; B x N x D."""
    image = patches.mT.unflatten(2, grid)
    around = F.avg_pool2d(image, 3, stride=1, padding=1).flatten(2).mT
    mixed = (1 - _SINK_SHARE) * patches + _SINK_SHARE * around
    return torch.where(find_sinks(patches, channels)[..., None], mixed, patches)


def refocused(p: Projections, sinks: Tensor) -> Tensor:
    """Apply the ordinary attention with part of the sinks' share given to the other tokens, in proportion.

    Args:
        p: projections of B x M tokens.
        sinks: B x M bool.

    Returns:
        B x h x M x d. Heads of which sinks receive little are unchanged; each row still sums to 1.
    """
    weights = (p.query.float() @ p.key.float().mT * p.query.shape[-1] ** -0.5).softmax(-1)
    at_sinks = sinks[:, None, None]
    share = (weights * at_sinks).sum(-1, keepdim=True)  # B x h x M x 1
    kept = torch.where(share < 1, share * _KEPT, share)
    others = (1 - kept) / (1 - share).clamp(min=1e-12)
    changed = torch.where(at_sinks, weights * (kept / share.clamp(min=1e-12)), weights * others)
    chosen = share.mean(2, keepdim=True) > _HEAD_LEVEL
    return torch.where(chosen, changed, weights).to(p.value.dtype) @ p.value


def strong_cosines(patches: Tensor) -> Tensor:
    """Cosines of all pairs, B x N x N; weak ones are 0, and rows are not normalised."""
    unit = F.normalize(patches, dim=-1)
    found = unit @ unit.mT
    return found.masked_fill(found < _WEAK, 0)


def moved_texts(patches: Tensor, found: Tensor, step: float) -> Tensor:
    """Cosines after each text ``t`` moved: ``unit((1 - step) t + step unit(mean of its 2 best patches))``.

    The moved texts, a set per window, are never stored: cosines of the patches with each other suffice.

    Args:
        patches: B x N x E, unit rows.
        found: B x N x Q, their cosines with the texts.
        step: in [0, 1].

    Returns:
        B x N x Q.
    """
    best = found.topk(min(2, found.shape[1]), dim=1)
    gram = patches @ patches.mT
    seen = [gram.gather(2, one[:, None].expand(-1, gram.shape[1], -1)) for one in best.indices.unbind(1)]
    toward = seen[0] if len(seen) == 1 else seen[0] + seen[1]
    length = toward.gather(1, best.indices).sum(1, keepdim=True).clamp(min=1e-12).sqrt()  # of the sum of both
    aligned = best.values.sum(1, keepdim=True) / length
    moved = (1 - step) * found + step * toward / length
    return moved / ((1 - step) ** 2 + step**2 + 2 * step * (1 - step) * aligned).clamp(min=1e-12).sqrt()


def leading(scores: Tensor, cluster: Tensor) -> Tensor:
    """Find the entry with the highest score in each cluster, with its ties.

    Args:
        scores: B x Q.
        cluster: Q int64, from 0 without gaps.

    Returns:
        B x Q bool.
    """
    where = cluster.expand_as(scores)
    best = torch.full_like(scores, -torch.inf).scatter_reduce(1, where, scores, "amax")
    return scores >= best.gather(1, where)


@lru_cache(maxsize=8)
def clusters(text: Tensor, distance: float) -> Tensor:
    """Cluster texts by complete linkage of cosine distances: Q int64, numbered from 0.

    Args:
        text: Q x E unit rows. The same tensor is clustered once.
        distance: no cluster is wider than this.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(text) == 1:
        return torch.zeros(1, dtype=torch.int64, device=text.device)
    rows = text.cpu().double().numpy()  # MPS has no 64 bits
    found = fcluster(linkage(rows, "complete", "cosine"), distance, "distance")
    return torch.from_numpy(found - 1).to(text.device, torch.int64)
