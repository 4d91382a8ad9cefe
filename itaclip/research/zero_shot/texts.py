"""Class embeddings: one or fifteen prompts per class, encoded once and cached on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from itaclip.core.text import TextEncoder
from itaclip.core.text.bank import ensemble
from itaclip.errors import ItaclipError

_SIZES = ("", "small ", "medium ", "large ")

TEMPLATES: dict[str, tuple[str, ...]] = {
    "single": ("a photo of a {}",),
    "multi": (
        *(f"a photo of a {size}{{}}." for size in _SIZES),
        *(f"This is a photo of a {size}{{}}." for size in _SIZES),
        "a {} in the scene.",
        "a photo of a {} in the scene.",
        "There is a {} in the scene.",
        "There is the {} in the scene.",
        "This is a {} in the scene.",
        "This is the {} in the scene.",
        "This is one {} in the scene.",
    ),
}
"""Published prompts: "single" (no full stop) for VOC, "multi" for Context and COCO-Stuff."""


def class_embeddings(
    encoder: TextEncoder, classes: Sequence[str], templates: str, words: Mapping[str, str] | None = None
) -> Tensor:
    """Compute normalised text features, averaged over the templates and normalised again.

    Classes in the encoder's cache are not encoded again.

    Args:
        encoder: CLIP's text tower.
        classes: class names as spelled in the data set.
        templates: a key of `TEMPLATES`.
        words: words to use for some classes instead of their names.

    Returns:
        K x E float32, unit norm.

    Raises:
        ItaclipError: unknown templates, or words for an unknown class.
    """
    if templates not in TEMPLATES:
        raise ItaclipError(f"templates = {templates!r}: expected one of {', '.join(TEMPLATES)}.")
    words = words or {}
    if unknown := [name for name in words if name not in classes]:
        raise ItaclipError(f"words for {unknown[0]!r}: no such class.")
    return ensemble(encoder, [words.get(name, name) for name in classes], TEMPLATES[templates])
