"""The options of concept segmenters: what `method_options` sets. Needs no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from itaclip.errors import ItaclipError, did_you_mean

SAM3 = "sam3"
"""Name of the model and of the method."""


@dataclass(frozen=True)
class Sam3Options:
    """How SAM 3 becomes a segmenter.

    Attributes:
        confidence: instances with a lower score are left out, in [0, 1] (SegEarth-OV3: 0.5).
        preview: whether a smaller pass of the image drops prompts that it hardly shows (ActiveSAM,
            first version).
        preview_side: side in pixels of that pass, a multiple of SAM 3's windows of 24 patches of 14.
        preview_share: share of the prompts that stay.
        preview_most: most prompts that stay; with as few from the start, there is no preview.
        bucket: prompts that are decoded together; None takes 32 on a GPU, as published, and 4 on a CPU.
    """

    confidence: float = 0.5
    preview: bool = True
    preview_side: int = 672
    preview_share: float = 0.2
    preview_most: int = 40
    bucket: int | None = None

    def __post_init__(self) -> None:
        checks = [
            (0 <= self.confidence <= 1, "confidence", "a score in [0, 1]"),
            (self.preview_side > 0, "preview_side", "a positive number of pixels"),
            (0 < self.preview_share <= 1, "preview_share", "a share above 0, at most 1"),
            (self.preview_most > 0, "preview_most", "1 or more prompts"),
            (self.bucket is None or self.bucket > 0, "bucket", "None, or 1 or more prompts"),
        ]
        for holds, name, expected in checks:
            if not holds:
                raise ItaclipError(f"method_options: {name} = {getattr(self, name)!r}: expected {expected}.")


FREE_FORM: Mapping[str, Any] = dict(
    method=SAM3, background=True, prob_thd=0.4, closing=False, img_engineering=False, pamr_steps=0
)
"""Settings for class lists of one's own: below 0.4, SegEarth-OV3's value for VOC21, pixels are background."""

CONCEPTS = {SAM3: Sam3Options}
"""Methods that are models of their own, and the classes of their options."""


def concept_options(method: str, options: Mapping[str, Any]) -> Sam3Options:
    """Make the options of a method of `CONCEPTS` from `method_options`.

    Raises:
        ItaclipError: an option that the method does not have, or a bad value.
    """
    own = [field.name for field in fields(CONCEPTS[method])]
    for option in options:
        if option not in own:
            raise ItaclipError(
                f"method {method!r} has no option {option!r}.{did_you_mean(option, own)} Its options: {', '.join(own)}."
            )
    try:
        return CONCEPTS[method](**options)
    except TypeError as error:  # a value that cannot be compared with a number
        raise ItaclipError(f"method {method!r}: {error}.") from error


def is_concept_model(name: str) -> bool:
    """Tell whether a model's name is a concept segmenter's: ``"sam3"`` or ``"sam3:NAME"``."""
    return name.partition(":")[0] == SAM3
