"""Regions from a second encoder's tokens: seeds far apart, and a softmax over them (GramSeg, 2026).

Needs no mask model. Shapes: r x c patches of an image, N = r c; K seeds; C channels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from itaclip.core.images import normalise
from itaclip.core.pamr import pamr
from itaclip.core.regions.files import renumbered
from itaclip.core.regions.maps import resize_map
from itaclip.core.regions.unsupervised import require_rgb
from itaclip.core.resizing import resize
from itaclip.core.second_encoders import load_second_encoder
from itaclip.core.second_encoders.encoder import TOKENS
from itaclip.devices import choose_device

ENCODER = "dinov3-vits16"
"""The encoder that GramSeg takes: DINOv3 ViT-S/16."""


@dataclass(frozen=True)
class Seeding:
    """How regions are made of tokens.

    Attributes:
        seeds: largest number of regions.
        patches: patches along the long side of the image: 56, which are 896 pixels with patches of 16.
        temperature: of the softmax over the cosines with the seeds.
        coarse: whether regions join that lie in the same region of a second pass, at half the size
            with half the seeds.
        join: least cosine between the means of a region and of the coarse one that it joins.
        rounds: rounds of PAMR on the maps of all regions; 0 keeps the edges of the patches.
        dilations: PAMR's, in pixels.
        long_side: pixels of the long side at which PAMR runs, if the image has more.
    """

    seeds: int = 64
    patches: int = 56
    temperature: float = 0.07
    coarse: bool = True
    join: float = 0.6
    rounds: int = 10
    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24)
    long_side: int = 1024


SEEDINGS = {"gram": Seeding(), "gram-fast": Seeding(coarse=False, rounds=0)}
"""GramSeg's settings by name: with all its steps, and its fast mode."""


class GramRegions:
    """Region maps from the patch tokens of a second encoder.

    Follows a description of GramSeg's mask generator (lpc-97/GramSeg at b56b5d5, Apache-2.0), which has
    published no scores yet; no recording of it exists here.

    Args:
        encoder: a name, file or folder for `itaclip.core.second_encoders.load_second_encoder`.
        seeding: a key of `SEEDINGS`.
        device: device of the encoder.

    Raises:
        ItaclipError: the weights cannot be found, downloaded or read.
    """

    def __init__(self, encoder: str = ENCODER, *, seeding: str = "gram", device: str = "cpu") -> None:
        self.name = f"{seeding}:{encoder}"
        self.seeding = SEEDINGS[seeding]
        self._device = choose_device(device)
        self._encoder = load_second_encoder(encoder, device=self._device)
        settings = ",".join(f"{key}={value}" for key, value in asdict(self.seeding).items())
        self.fingerprint = f"gram({settings}) of {self._encoder.fingerprint}"

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8], name: str | None = None) -> NDArray[np.int32]:
        """H x W int32, regions numbered from 1, covering every pixel; see `RegionSource`."""
        require_rgb(image, name)
        chosen = self.seeding
        tokens = self._tokens(image, chosen.patches)
        shares = region_shares(tokens.flatten(1).T, chosen.seeds, chosen.temperature).unflatten(1, tokens.shape[1:])
        if chosen.coarse:
            small = self._tokens(image, chosen.patches // 2)
            wide = region_shares(small.flatten(1).T, chosen.seeds // 2, chosen.temperature)
            shares = joined_regions(shares, tokens, wide.unflatten(1, small.shape[1:]), chosen.join)
        if chosen.rounds:
            height, width = fitted(image.shape[:2], chosen.long_side)
            guide = normalise(resize(image, (height, width))).to(self._device)
            large = F.interpolate(shares[None], size=(height, width), mode="bilinear", align_corners=False)[0]
            shares = pamr(large, guide, chosen.rounds, chosen.dilations)
        found = resize_map(shares.argmax(0).cpu().numpy(), image.shape[:2])
        return renumbered(found, unsegmented=-1)

    def _tokens(self, image: NDArray[np.uint8], patches: int) -> Tensor:
        """Compute unit tokens of the image with so many patches along its long side: C x r x c."""
        patch = self._encoder.patch_size
        rows, columns = grid_of(image.shape[:2], patches)
        pixels = normalise(resize(image, (rows * patch, columns * patch))).to(self._device)
        found = self._encoder(pixels[None], (TOKENS,)).tokens
        assert found is not None
        return F.normalize(found[0], dim=0)


def grid_of(size: tuple[int, ...], patches: int) -> tuple[int, int]:
    """Rows and columns of patches of an image of height and width `size`; the long side has `patches`."""
    rows, columns = (max(1, round(patches * side / max(size))) for side in size)
    return rows, columns


def fitted(size: tuple[int, ...], long_side: int) -> tuple[int, int]:
    """Height and width of an image whose long side has at most so many pixels."""
    factor = min(1.0, long_side / max(size))
    height, width = (max(1, round(side * factor)) for side in size)
    return height, width


def region_shares(tokens: Tensor, seeds: int, temperature: float) -> Tensor:
    """Compute the share of every region in every token: K x N, columns sum to 1.

    Args:
        tokens: N x C, unit rows.
        seeds: K, if there are as many tokens.
        temperature: of the softmax. It is taken once over the seeds, and once over the mean tokens
            of the regions that this gives.
    """
    centres = tokens[farthest_points(tokens, min(seeds, len(tokens)))]
    shares = (centres @ tokens.T / temperature).softmax(0)
    return (F.normalize(shares @ tokens, dim=1) @ tokens.T / temperature).softmax(0)


def farthest_points(tokens: Tensor, count: int) -> Tensor:
    """Choose tokens that are far apart, by cosine distance: `count` indices, int64.

    The first is the farthest from the mean token, each further one the farthest from those chosen
    before; ties go to the first token.

    Args:
        tokens: N x C, unit rows.
        count: at most N.
    """
    nearest = -(tokens @ F.normalize(tokens.mean(0), dim=0))  # cosines, negated: the largest is the farthest
    chosen = []
    for number in range(count):
        seed = nearest.argmax()
        chosen.append(seed)
        similarity = -(tokens @ tokens[seed])
        nearest = similarity if number == 0 else torch.minimum(nearest, similarity)
    return torch.stack(chosen)


def joined_regions(shares: Tensor, tokens: Tensor, coarse: Tensor, least: float) -> Tensor:
    """Join regions that lie in the same coarse region, if they resemble it.

    Args:
        shares: K x r x c.
        tokens: C x r x c, unit over C.
        coarse: L x h x w, shares of the coarse regions, of any size.
        least: least cosine of the means of a region and of the coarse region that it overlaps most.

    Returns:
        M x r x c: the shares of regions that join are summed; others stay. M is at most K.
    """
    wide = F.interpolate(coarse[None], size=shares.shape[1:], mode="bilinear", align_corners=False)[0].flatten(1)
    fine, points = shares.flatten(1), tokens.flatten(1).T
    overlap = F.one_hot(fine.argmax(0), len(fine)).T.to(fine.dtype) @ wide.T  # K x L
    home = overlap.argmax(1)
    alike = (F.normalize(fine @ points, dim=1) * F.normalize(wide @ points, dim=1)[home]).sum(1) >= least
    target = torch.where(alike, home, len(coarse) + torch.arange(len(fine), device=home.device))
    _, target = target.unique(return_inverse=True)
    summed = fine.new_zeros(int(target.max()) + 1, fine.shape[1]).index_add_(0, target, fine)
    return summed.unflatten(1, shares.shape[1:])
