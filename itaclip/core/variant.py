"""Variants of the same windows, and which of their steps they share.

A variant is a method, its image engineering and a text bank. Variants with the same windows
share the views, the ordinary blocks and a second encoder's features; variants with the same
method also share its features.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from itaclip.core.methods import Method, StitchedFeatures, WholeImageMethod
from itaclip.core.query_maps import FEATURES_FROM, PatchLogits
from itaclip.core.settings import Settings


@dataclass(frozen=True, eq=False)
class Variant:
    """What leads from windows to patch logits.

    Attributes:
        settings: settings of the windows and the image engineering.
        method: the result of `Settings.resolved_method`.
        text: Q x E text bank; variants with the same bank hold the same tensor.
        multiple: window sides are rounded up to a multiple of this many pixels.
    """

    settings: Settings
    method: Method
    text: Tensor
    multiple: int

    @property
    def as_features(self) -> bool:
        """Whether patches are kept as features."""
        weighted = self.settings.alias_temperature is not None
        many = len(self.text) >= FEATURES_FROM * self.text.shape[1]
        return not self.method.returns_logits and (weighted or many)

    @property
    def channels(self) -> int:
        """Numbers kept per patch: Q logits or E features."""
        return self.text.shape[1] if self.as_features else len(self.text)

    def text_on(self, device: torch.device) -> Tensor | None:
        """Give the text bank that makes logits of features at once, or None: features are kept, or are logits."""
        return None if self.as_features or self.method.returns_logits else self.text.to(device)

    def patch_logits(self, values: Tensor) -> PatchLogits:
        """Logits of patches from what is kept of them."""
        return PatchLogits(values, self.text.to(values.device) if self.as_features else None)

    @property
    def second_encoder(self) -> str | None:
        """Name of the second encoder, or None if the method reads none."""
        return self.settings.second_encoder if self.method.reads_features else None

    @property
    def batch_key(self) -> Hashable:
        """Variants with equal keys can share batches of the image tower."""
        s = self.settings
        return (s.slide_crop, s.slide_stride, s.padding, s.dtype, self.method.positions, self.multiple,
                isinstance(self.method, WholeImageMethod), isinstance(self.method, StitchedFeatures))  # fmt: skip

    @property
    def feature_key(self) -> Hashable:
        """Variants that share batches and have equal keys have equal features."""
        s, m = self.settings, self.method
        text = (id(self.text), s.logit_scale) if m.reads_text else None
        return m, self.second_encoder, s.regions if m.reads_regions else None, text

    @property
    def view_key(self) -> Hashable:
        """Key of the views' pixels, None for the plain view only; all others that share batches have the same key."""
        s = self.settings
        return (s.blur_kernel, s.blur_sigma) if s.img_engineering else None

    @property
    def logits_key(self) -> Hashable:
        """Variants with equal keys have equal logits."""
        s = self.settings
        weight = s.img_eng_coefficient if s.img_engineering else None
        return self.batch_key, self.view_key, self.feature_key, weight, id(self.text), self.as_features


def grouped(variants: Sequence[Variant]) -> list[list[int]]:
    """Group the indices of variants that can share batches."""
    groups: list[list[int]] = []
    for place, variant in enumerate(variants):
        for group in groups:
            first = variants[group[0]]
            blurs = {variants[i].view_key for i in group} | {variant.view_key}
            if first.batch_key == variant.batch_key and len(blurs - {None}) <= 1:
                group.append(place)
                break
        else:
            groups.append([place])
    return groups
