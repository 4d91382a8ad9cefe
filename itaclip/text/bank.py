"""The text bank: one feature per query word, mixed with its class's auxiliary text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip import OPENAI_IMAGENET_TEMPLATES
from torch import Tensor

from itaclip.errors import ItaclipError
from itaclip.text.cache import text_key
from itaclip.text.class_names import ClassNames
from itaclip.text.encoder import TextEncoder


@dataclass(frozen=True)
class TextBank:
    """What the image features are compared with.

    Attributes:
        features: Q x E float32; unit norm without auxiliary texts, shorter with.
        query_to_class: Q, int64: the class of every query, ascending.
        class_names: the words behind it.
    """

    features: Tensor
    query_to_class: Tensor
    class_names: ClassNames

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)


def ensemble(encoder: TextEncoder, texts: Sequence[str]) -> Tensor:
    """Encode texts in the 80 templates of OpenAI's ImageNet evaluation.

    Each prompt's feature is normalised, the mean over templates is normalised again.
    Texts that the encoder's cache knows are not encoded again.

    Returns:
        len(texts) x E, float32, unit norm.
    """
    if encoder.cache is None:
        return _ensemble(encoder, texts)
    written = [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]
    keys = [text_key(encoder.fingerprint, written, encoder.device, text) for text in texts]
    known = encoder.cache.get(keys)
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    if missing:
        fresh = dict(zip(missing, _ensemble(encoder, list(missing.values())), strict=True))
        encoder.cache.put(fresh)
        known |= fresh
    return torch.stack([known[key].to(encoder.device) for key in keys])


def _ensemble(encoder: TextEncoder, texts: Sequence[str]) -> Tensor:
    prompts = [template(text) for text in texts for template in OPENAI_IMAGENET_TEMPLATES]
    features = encoder(prompts).view(len(texts), len(OPENAI_IMAGENET_TEMPLATES), -1)
    return F.normalize(features.mean(dim=1), dim=-1)


def build_text_bank(
    encoder: TextEncoder,
    classes: ClassNames,
    auxiliary: Sequence[str | None] | None = None,
    coefficient: float = 0.0,
    background: bool = False,
) -> TextBank:
    """Encode all queries and mix in the auxiliary texts (ITACLIP, section 2).

    ``t_q = (1 - coefficient) * name_q + coefficient * aux_class(q)``, not normalised again.

    Args:
        encoder: the text tower.
        classes: classes with their synonyms.
        auxiliary: one text per class, without the background's; None leaves a class unmixed.
        coefficient: weight of the auxiliary texts, in [0, 1].
        background: class 0 is the background; its queries are left unmixed.

    Raises:
        ItaclipError: the number of auxiliary texts does not fit the classes.
    """
    features = ensemble(encoder, classes.queries)
    query_to_class = torch.tensor(classes.query_to_class, device=features.device)
    if auxiliary is not None:
        first = 1 if background else 0
        if len(auxiliary) != len(classes) - first:
            raise ItaclipError(
                f"{len(auxiliary)} auxiliary texts for {len(classes) - first} classes of {classes.source}."
            )
        described = [i for i, text in enumerate(auxiliary, first) if text is not None]
        texts = ensemble(encoder, [text for text in auxiliary if text is not None]) if described else features[:0]
        for i, text in zip(described, texts, strict=True):
            mixed = query_to_class == i
            features[mixed] = (1 - coefficient) * features[mixed] + coefficient * text
    return TextBank(features, query_to_class, classes)
