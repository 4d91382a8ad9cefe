"""The settings of the trained methods, with reasons for their defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from itaclip.errors import ItaclipError

Mode: TypeAlias = Literal["inductive", "transductive", "fully"]
MODES: tuple[Mode, ...] = ("inductive", "transductive", "fully")


@dataclass(frozen=True)
class EncoderSettings:
    """The prompted image encoder.

    Raises:
        ItaclipError: a value outside its range.
    """

    image_size: int = 512
    """Side of crops and windows in pixels; positional embeddings are resized to it once."""
    prompts: int = 10
    """Prompt tokens per block. Published: 10 (VOC), 35 (Context), 50 or 100 (COCO)."""
    prompt_dropout: float = 0.1
    """Dropout on projected prompts in training, as published."""
    regions: int = 16
    """Region tokens of CLIP-RC: a square number that divides the token grid evenly."""
    gradient_checkpointing: bool = False
    """Recompute the blocks in the backward pass instead of storing their activations."""

    def __post_init__(self) -> None:
        _require(self.image_size > 0, "image_size", self.image_size, "a positive number of pixels")
        _require(self.prompts > 0, "prompts", self.prompts, "one or more tokens")
        _require(0 <= self.prompt_dropout < 1, "prompt_dropout", self.prompt_dropout, "in [0, 1)")
        _require(round(self.regions**0.5) ** 2 == self.regions > 0, "regions", self.regions, "a square number")


@dataclass(frozen=True)
class HeadSettings:
    """The decoders.

    Raises:
        ItaclipError: a value outside its range.
    """

    layers: int = 3
    """Layers per decoder, as published."""
    heads: int = 8
    """Attention heads, as published; a divisor of the width of CLIP's joint space."""
    hidden_ratio: int = 4
    """Hidden width of the feed-forward network relative to the decoder's width, as published."""
    dropout: float = 0.1
    """Dropout on attention maps and attention outputs and in feed-forward networks, as published."""

    def __post_init__(self) -> None:
        _require(self.layers > 0, "layers", self.layers, "one or more")
        _require(self.heads > 0, "heads", self.heads, "one or more")
        _require(self.hidden_ratio > 0, "hidden_ratio", self.hidden_ratio, "one or more")
        _require(0 <= self.dropout < 1, "dropout", self.dropout, "in [0, 1)")


@dataclass(frozen=True)
class LossSettings:
    """Weights of the losses.

    Raises:
        ItaclipError: a negative weight.
    """

    mask: float = 100.0
    """Focal loss. The weight is large because averaging over all pixels of all classes makes the loss small."""
    dice: float = 1.0
    """Dice loss over the classes that occur."""
    recovery: float = 2.0
    """CLIP-RC's two recovery losses; with 0 they are computed but do not count."""

    def __post_init__(self) -> None:
        for name in ("mask", "dice", "recovery"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")


@dataclass(frozen=True)
class WindowSettings:
    """Sliding-window inference.

    Raises:
        ItaclipError: a value outside its range.
    """

    stride: int = 426
    """Pixels between windows of `image_size`, as published: windows overlap by a sixth."""
    seen_shift: float = 0.1
    """Subtracted from the probability of every seen class, because training favours those; not
    applied to models trained with pseudo labels (as published)."""
    per_pass: int = 4
    """Windows per encoder pass; affects speed and memory, never the result."""

    def __post_init__(self) -> None:
        _require(self.stride > 0, "stride", self.stride, "a positive number of pixels")
        _require(self.seen_shift >= 0, "seen_shift", self.seen_shift, "0 or more")
        _require(self.per_pass > 0, "per_pass", self.per_pass, "one or more")


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise ItaclipError(f"{name} = {value!r}: expected {expected}.")
