"""What the tensors of a CLIP cannot say, and where it was taken from."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from itaclip.core.clip.tokenizer_source import TokenizerSource
from itaclip.errors import ItaclipError

_LOG = logging.getLogger(__name__)

LAYOUT_EPS = 1e-5
"""Epsilon of the norms in OpenAI's layout."""


@dataclass(frozen=True)
class Stated:
    """What a weight file or the configuration beside it says about the model.

    Attributes:
        source: the file that says it, for messages; empty if nothing does.
        complete: whether the format settles whatever it does not mention: OpenAI's archives and files
            written by this project follow OpenAI's conventions.
        quick_gelu: whether the activation is QuickGELU; None if not stated. So for all that follows.
        image_heads: attention heads of the image tower.
        text_heads: attention heads of the text tower.
        image_eps: epsilon of the image tower's norms.
        text_eps: epsilon of the text tower's norms.
        mean: mean of each RGB channel, for values in [0, 1].
        std: standard deviation of each RGB channel, likewise.
        pixels_source: the file that states mean and deviation.
        tokenizer: the tokenizer.
        sizes: sizes that the tensors must have, under the names of `measured_sizes`.
    """

    source: str = ""
    complete: bool = False
    quick_gelu: bool | None = None
    image_heads: int | None = None
    text_heads: int | None = None
    image_eps: float | None = None
    text_eps: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    pixels_source: str = ""
    tokenizer: TokenizerSource | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Fact:
    """One property of a loaded model that its tensors do not show.

    Attributes:
        name: the property.
        value: its value, in words.
        source: where it was taken from.
        assumed: nothing states it; a usual value was taken.
    """

    name: str
    value: str
    source: str
    assumed: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {self.value} ({'assumed: ' if self.assumed else ''}{self.source})"


ACTIVATION, NORMALISATION, TOKENIZER = "activation", "normalisation", "tokenizer"
IMAGE_HEADS, TEXT_HEADS = "heads of the image tower", "heads of the text tower"


def activation(quick_gelu: bool, source: str, assumed: bool = False) -> Fact:
    """Describe the activation."""
    return Fact(ACTIVATION, name_of(quick_gelu), source, assumed)


def name_of(quick_gelu: bool) -> str:
    """Name an activation."""
    return "QuickGELU" if quick_gelu else "GELU"


def heads(name: str, count: int, width: int, source: str, assumed: bool = False) -> Fact:
    """Describe the attention heads of a tower."""
    return Fact(name, f"{count} of {width // count} channels", source, assumed)


def normalisation(
    mean: Sequence[float] | None, std: Sequence[float] | None, source: str, assumed: bool = False
) -> Fact:
    """Describe the normalisation of pixels; None stands for OpenAI's."""
    if mean is None or std is None:
        return Fact(NORMALISATION, "OpenAI's mean and deviation", source, assumed)
    values = (f"{' '.join(f'{value:.4g}' for value in part)}" for part in (mean, std))
    return Fact(NORMALISATION, "mean {}, deviation {}".format(*values), source, assumed)


def warn_of_assumptions(path: Path, facts: Iterable[Fact], names: Sequence[str] | None) -> None:
    """Log one warning that names everything assumed about a file, and how to state it.

    Args:
        path: the weight file.
        facts: the model's facts.
        names: architectures to name before the path, one per activation; None if naming one would not help.
    """
    assumed = [fact for fact in facts if fact.assumed]
    if not assumed:
        return
    ways = []
    if names is not None:
        examples = names or ("ViT-B-16", "ViT-B-16-quickgelu")
        ways.append(f"name the architecture before the path ({' or '.join(f'{name}:{path}' for name in examples)})")
    if any(fact.name == ACTIVATION for fact in assumed):
        ways.append("set quick_gelu to True or False")
    ways.append(
        "put the model's open_clip_config.json, or its config.json and preprocessor_config.json, beside the file"
    )
    _LOG.warning(
        "%s does not state its %s. Taken: %s. If that is not how the model was trained, all its results are wrong. "
        "To state it, %s.",
        path, " and its ".join(fact.name for fact in assumed),
        "; ".join(f"{fact.value} ({fact.source})" for fact in assumed), ", or ".join(ways),
    )  # fmt: skip


# --- sizes -------------------------------------------------------------------


def measured_sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Measure the sizes of a model in OpenAI's layout; a tower in another layout is left out."""
    found: dict[str, int] = {}
    patches, positions = state.get("visual.conv1.weight"), state.get("visual.positional_embedding")
    if patches is not None and patches.ndim == 4:
        found |= {"width of the image tower": patches.shape[0], "patch size": patches.shape[-1]}
        found["blocks of the image tower"] = count_blocks(state, "visual.")
        if positions is not None and positions.ndim == 2:
            found["patches per image"] = positions.shape[0] - 1
        if (hidden := state.get("visual.transformer.resblocks.0.mlp.c_fc.weight")) is not None:
            found["hidden width of the image tower"] = hidden.shape[0]
        if (projection := state.get("visual.proj")) is not None:
            found["channels of the joint space"] = projection.shape[-1]
    state = {key.removeprefix("text."): value for key, value in state.items()}
    words, places = state.get("token_embedding.weight"), state.get("positional_embedding")
    if words is not None and words.ndim == 2:
        found |= {"width of the text tower": words.shape[1], "vocabulary": words.shape[0]}
        found["blocks of the text tower"] = count_blocks(state, "")
        if places is not None and places.ndim == 2:
            found["context length"] = places.shape[0]
        if (hidden := state.get("transformer.resblocks.0.mlp.c_fc.weight")) is not None:
            found["hidden width of the text tower"] = hidden.shape[0]
    return found


def count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    """Count the blocks of a tower in OpenAI's layout."""
    start = f"{prefix}transformer.resblocks."
    numbers = (key[len(start) :].split(".")[0] for key in state if key.startswith(start))
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)


def require_agreement(path: Path, source: str, stated: Mapping[str, int], state: Mapping[str, Tensor]) -> None:
    """Refuse tensors that do not have the sizes that a configuration states.

    Args:
        path: the weight file.
        source: the configuration, or the name of the architecture.
        stated: sizes by name.
        state: the tensors, under OpenAI's names or open_clip's.

    Raises:
        ItaclipError: they contradict each other.
    """
    found = measured_sizes(state)
    different = [f"{name} {size}, the tensors have {found[name]}"
                 for name, size in stated.items() if found.get(name, size) != size]  # fmt: skip
    if different:
        raise ItaclipError(
            f"{path}: its tensors contradict {source}, which states {'; '.join(different)}. Name the architecture that "
            "the file belongs to (NAME:PATH), or put the file beside its own configuration."
        )


def require_division(source: str, tower: str, width: int, count: int) -> None:
    """Refuse a number of heads that does not divide a tower's width.

    Raises:
        ItaclipError: it does not.
    """
    if count < 1 or width % count:
        raise ItaclipError(f"{source}: {count} heads do not divide the {tower} tower's width of {width} channels.")
