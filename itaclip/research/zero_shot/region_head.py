"""CLIP-RC's head: queries per region and class, two-way decoding and recovery."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itaclip.research.zero_shot.decoder import Decoder, DecoderLayer
from itaclip.research.zero_shot.encoder import ImageFeatures
from itaclip.research.zero_shot.settings import HeadSettings

_RECOVERY_STD = 0.02  # published initialisation of the recovery decoder's linear layers


class RecoveryDecoder(nn.Module):
    """Recovers CLIP's queries and patches from the decoded ones, so that decoding forgets less.

    Used only in training.

    Args:
        width: width E.
        settings: sizes of the two decoder layers.
    """

    def __init__(self, width: int, settings: HeadSettings) -> None:
        super().__init__()
        self.linear_q_in, self.linear_k_in = nn.Linear(width, width), nn.Linear(width, width)
        self.decouple_q = nn.ModuleList([DecoderLayer(width, settings)])
        self.decouple_v = nn.ModuleList([DecoderLayer(width, settings)])
        self.linear_q_out, self.linear_k_out = nn.Linear(width, 2 * width), nn.Linear(width, width)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=_RECOVERY_STD)
                nn.init.zeros_(module.bias)

    def forward(self, query: Tensor, lateral: Tensor) -> tuple[Tensor, Tensor]:
        """Map decoded queries B x RK x E and patches B x N x E to B x RK x 2E and B x N x E."""
        q, v = self.linear_q_in(query), self.linear_k_in(lateral)
        q, v = self.decouple_q[0](q, v), self.decouple_v[0](v, q)
        return self.linear_q_out(q), self.linear_k_out(v)


class RegionHead(nn.Module):
    """CLIP-RC (Zhang et al., CVPR 2024): region alignment module and two-way decoder.

    The query of region l and class k has index l K + k.

    Args:
        width: width E of the joint space.
        settings: sizes of the decoders.
    """

    def __init__(self, width: int, settings: HeadSettings) -> None:
        super().__init__()
        self.q_proj, self.lateral_proj = nn.Linear(2 * width, width), nn.Linear(3 * width, width)
        self.decoder_q, self.decoder_v = Decoder(width, settings), Decoder(width, settings)
        self.recovery_decoder = RecoveryDecoder(width, settings)

    @staticmethod
    def raw_queries(features: ImageFeatures, text: Tensor) -> Tensor:
        """Compute ``u_lk = [(z_l + G) * t_k ; t_k]``: B x RK x 2E."""
        assert features.regions is not None
        related = (features.regions + features.whole[:, None])[:, :, None] * text
        return torch.cat([related, text.expand_as(related)], dim=-1).flatten(1, 2)

    @staticmethod
    def raw_laterals(features: ImageFeatures) -> Tensor:
        """Compute ``[Z resized to the token grid ; G ; f]`` for every patch: B x N x 3E."""
        assert features.regions is not None
        patches = features.levels[-1]
        across = round(features.regions.shape[1] ** 0.5)
        square = features.regions.transpose(1, 2).unflatten(-1, (across, across))
        resized = F.interpolate(square, size=features.grid, mode="bilinear", align_corners=False)
        return torch.cat(
            [resized.flatten(2).transpose(1, 2), features.whole[:, None].expand_as(patches), patches], dim=-1
        )

    def decode(self, query: Tensor, lateral: Tensor) -> tuple[Tensor, Tensor]:
        """Decode queries B x RK x E and patches B x N x E jointly; each layer updates both from the old pair."""
        for layer_q, layer_v in zip(self.decoder_q.layers, self.decoder_v.layers, strict=True):
            query, lateral = layer_q(query, lateral), layer_v(lateral, query)
        return query, lateral

    def forward(self, features: ImageFeatures, text: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mask logits on the token grid.

        Args:
            features: output of a `RegionEncoder`.
            text: K x E class embeddings.

        Returns:
            B x K x h x w logits (inner products, averaged over regions), and in training the two
            unweighted recovery losses.
        """
        raw = self.raw_queries(features, text)
        query, lateral = self.decode(self.q_proj(raw), self.lateral_proj(self.raw_laterals(features)))
        # the mean of the products over regions equals the product with the mean query
        mean_query = query.unflatten(1, (-1, len(text))).mean(1)
        logits = (mean_query @ lateral.transpose(1, 2)).unflatten(-1, features.grid)
        if not self.training:
            return logits, {}
        recovered_query, recovered_lateral = self.recovery_decoder(query, lateral)
        return logits, {
            "recovery_loss_q": (recovered_query.float() - raw.detach().float()).abs().mean(),
            "recovery_loss_k": (recovered_lateral.float() - features.levels[-1].detach().float()).abs().mean(),
        }
