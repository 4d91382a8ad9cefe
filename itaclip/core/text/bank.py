"""The text bank: one feature per query word, mixed with its class's auxiliary text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.core.text.cache import TextCache, text_key
from itaclip.core.text.class_names import ClassNames
from itaclip.core.text.class_prompts import ClassPrompts
from itaclip.core.text.encoder import TextEncoder
from itaclip.core.text.templates import TEMPLATE_SETS, TEMPLATES
from itaclip.errors import ItaclipError

_TEXTS_AT_ONCE = 64
"""Bounds the memory of long lists; an interrupted computation keeps the blocks that are done."""


@dataclass(frozen=True)
class TextBank:
    """The text features that image features are compared with.

    Attributes:
        features: Q x E float32; unit norm, or less when mixed with auxiliary texts.
        class_names: the classes with their Q query words.
    """

    features: Tensor
    class_names: ClassNames

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""
        return len(self.class_names)


def ensemble(
    encoder: TextEncoder,
    texts: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
    prompts: ClassPrompts | None = None,
) -> Tensor:
    """Encode texts with prompt templates, by default the 80 of OpenAI's ImageNet evaluation.

    The features of the prompts are normalised and averaged, and the mean is normalised again.
    Texts in the encoder's cache are not encoded again.

    Args:
        encoder: CLIP's text tower.
        texts: texts to insert for ``{}``.
        templates: sentences with ``{}``.
        prompts: further sentences of single texts, which count like the filled templates.

    Returns:
        len(texts) x E, float32, unit norm.
    """
    cache = encoder.cache or TextCache()
    own = prompts or {}
    keys = [text_key(encoder.fingerprint, templates, encoder.device, text, own.get(text, ())) for text in texts]
    known = cache.get(keys)
    missing = list({key: text for key, text in zip(keys, texts, strict=True) if key not in known}.items())
    for start in range(0, len(missing), _TEXTS_AT_ONCE):
        block = missing[start : start + _TEXTS_AT_ONCE]
        filled = [[*(template.replace("{}", text) for template in templates), *own.get(text, ())] for _, text in block]
        features = encoder([prompt for some in filled for prompt in some]).split([len(some) for some in filled])
        means = torch.stack([some.mean(dim=0) for some in features])
        fresh = dict(zip((key for key, _ in block), F.normalize(means, dim=-1), strict=True))
        cache.put(fresh)
        known |= fresh
    return torch.stack([known[key].to(encoder.device) for key in keys])


def build_text_bank(
    encoder: TextEncoder,
    classes: ClassNames,
    auxiliary: Sequence[str | None] | None = None,
    coefficient: float = 0.0,
    background: bool = False,
    prompts: ClassPrompts | None = None,
    templates: str = "imagenet",
) -> TextBank:
    """Encode all queries and mix in the auxiliary texts (ITACLIP, section 2).

    ``t_q = (1 - coefficient) * name_q + coefficient * aux_class(q)``, not normalised again.

    Args:
        encoder: the text tower.
        classes: classes with their synonyms.
        auxiliary: one text per class except the background; None for a class without a text.
        coefficient: weight of the auxiliary texts, in [0, 1].
        background: whether class 0 is the background, whose queries stay unmixed.
        prompts: class-biased prompts by query word (OV-Stitcher), for some or all queries.
        templates: a key of `TEMPLATE_SETS`.

    Raises:
        ItaclipError: the number of auxiliary texts does not match the classes.
    """
    sentences = TEMPLATE_SETS[templates]
    features = ensemble(encoder, classes.queries, sentences, prompts)
    if auxiliary is not None:
        first = 1 if background else 0
        if len(auxiliary) != len(classes) - first:
            raise ItaclipError(
                f"{len(auxiliary)} auxiliary texts for {len(classes) - first} classes of {classes.source}."
            )
        described = [i for i, text in enumerate(auxiliary, first) if text is not None]
        given = [text for text in auxiliary if text is not None]
        texts = ensemble(encoder, given, sentences) if described else features[:0]
        firsts = [0, *itertools.accumulate(classes.queries_per_class)]
        for i, text in zip(described, texts, strict=True):
            mixed = slice(firsts[i], firsts[i + 1])
            features[mixed] = (1 - coefficient) * features[mixed] + coefficient * text
    return TextBank(features, classes)
