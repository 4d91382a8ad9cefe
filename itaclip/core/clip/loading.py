"""Load a CLIP with both towers by name, or from a file or a folder."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import torch

from itaclip.core.clip import architectures, facts, families
from itaclip.core.clip.download import OPEN_CLIP_CONFIG, fetch
from itaclip.core.clip.facts import Fact, measured_sizes, require_division, warn_of_assumptions
from itaclip.core.clip.names import DEMO, OPENAI_NAMES, OPENAI_WEIGHTS, is_path
from itaclip.core.clip.openai import CLIP, ImageTower, TransformerShape
from itaclip.core.clip.state_dict import fill, set_statistics
from itaclip.core.clip.weights import WeightFile, read_weights
from itaclip.errors import ItaclipError


def load_clip(
    model_name: str = "ViT-B/16",
    pretrained: str | None = None,
    quick_gelu: bool | None = None,
) -> Any:
    """Load a CLIP whose image tower is a ViT, frozen, float32, on the CPU.

    Args:
        model_name: ``"ViT-B/16"`` and its siblings, ``"demo"`` (bundled), any open_clip architecture
            with or without a tag (``"ViT-B-16-SigLIP2"``, ``"ViT-H-14-quickgelu:dfn5b"``), or a
            path: OpenAI's TorchScript archive, a state dict, a safetensors file, a Hugging Face
            CLIP folder, a folder with ``open_clip_config.json``. A file is read with the
            configuration beside it (``open_clip_config.json``, or Transformers' ``config.json``).
            Models that are not CLIP's relatives have names of their own (`itaclip.core.clip.families`).
        pretrained: open_clip's tag for a named model, or a path to its weights. None uses the
            tag in the name, else "openai" if it exists, else the only tag. Ignored if
            `model_name` is itself a path or ``"demo"``.
        quick_gelu: activation ``x * sigmoid(1.702 x)`` instead of GELU. None follows what the file
            (TorchScript archives, files of this project), the configuration beside it, or the name
            states; if nothing does, OpenAI's values are taken, with a warning.

    Returns:
        `itaclip.core.clip.openai.CLIP` in OpenAI's layout, `itaclip.core.clip.image_text.ImageTextModel` for
        `itaclip.core.clip.families`, else open_clip's ``CustomTextCLIP``; all have a
        `tokenizer_source`, and `facts`: what the tensors do not show, and where it was taken from.
        The image tower states the normalisation of pixels as in open_clip (`image_mean`, `image_std`).

    Raises:
        ItaclipError: unknown name or tag, missing or damaged weights, weights of another
            family, a wrong geometry, a configuration that contradicts the weights, a
            convolutional image tower.
    """
    if quick_gelu is not None and not isinstance(quick_gelu, bool):
        raise ItaclipError(f"quick_gelu = {quick_gelu!r}: expected True, False or None.")
    if model_name == DEMO:
        with resources.as_file(resources.files("itaclip.core.clip") / "demo_clip.safetensors") as bundled:
            return _from_file(read_weights(bundled), quick_gelu)
    if "://" in model_name:
        raise ItaclipError(f"{model_name}: an address; download the weights first, and name the file.")
    if families.named(model_name):
        return families.load_named(model_name, pretrained, quick_gelu)
    path = Path(model_name).expanduser() if is_path(model_name) else None
    if path and (path / OPEN_CLIP_CONFIG).is_file():
        from itaclip.core.clip import open_clip_models  # here, because it imports open_clip, with timm and transformers

        return open_clip_models.load_folder(path, quick_gelu)
    if path and families.kind_of(path):
        return families.load(path, quick_gelu)
    if path:
        weights = read_weights(path)
        if weights.stated.source or not (weights.path.parent / OPEN_CLIP_CONFIG).is_file():
            return _from_file(weights, quick_gelu)
        from itaclip.core.clip import open_clip_models

        return open_clip_models.load_folder(weights.path.parent, quick_gelu, weights)
    architecture = OPENAI_NAMES.get(model_name)
    if architecture and pretrained in (None, "openai"):
        weights = read_weights(fetch(architecture, "openai", OPENAI_WEIGHTS[architecture]))
        return _from_file(weights, quick_gelu, f"the name {model_name}")
    from itaclip.core.clip import open_clip_models

    return open_clip_models.load_named(model_name, pretrained, quick_gelu)


def load_openai_clip(
    model_name: str = "ViT-B/16", pretrained: str | None = None, quick_gelu: bool | None = None
) -> CLIP:
    """Load a CLIP with both towers in OpenAI's layout, for code that takes the model apart.

    Raises:
        ItaclipError: as for `load_clip`, or another layout.
    """
    model = load_clip(model_name, pretrained, quick_gelu)
    if not isinstance(model, CLIP):
        raise ItaclipError(
            f"{model_name}: not a CLIP of OpenAI's layout, which is needed here: use ViT-B-32, ViT-B-16 or ViT-L-14 "
            "with any training data."
        )
    return model


def _from_file(weights: WeightFile, quick_gelu: bool | None, published: str = "") -> CLIP:
    """Build a model of OpenAI's layout, inferring its geometry from the tensors.

    Args:
        weights: the file.
        quick_gelu: the activation; None follows the file.
        published: what says that these are OpenAI's own weights; empty if nothing does.
    """
    state, stated = weights.state, weights.stated
    needed = ("visual.conv1.weight", "visual.positional_embedding", "visual.proj", "text_projection",
              "token_embedding.weight", "positional_embedding", "ln_final.weight",
              "visual.transformer.resblocks.0.mlp.c_fc.weight", "transformer.resblocks.0.mlp.c_fc.weight")  # fmt: skip
    missing = [key for key in needed if key not in state]
    if missing:
        other = any(key.startswith(("visual.trunk.", "text.")) for key in state)
        raise ItaclipError(
            f"{weights.path}: not the weights of a CLIP ViT of OpenAI's layout; {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing among {len(state)} tensors."
            + (f" For another layout, name the architecture too: ViT-B-16-SigLIP2:{weights.path}" if other else "")
        )
    patches, positions = state["visual.conv1.weight"], state["visual.positional_embedding"]
    grid = round((positions.shape[0] - 1) ** 0.5)
    square = patches.ndim == 4 and patches.shape[1] == 3 and patches.shape[2] == patches.shape[3]
    if not square or positions.ndim != 2 or grid * grid + 1 != positions.shape[0]:
        raise ItaclipError(
            f"{weights.path}: wrong geometry: visual.conv1.weight {tuple(patches.shape)}, "
            f"visual.positional_embedding {tuple(positions.shape)} (expected square patches of three channels, a class "
            "token and a square grid). Weights that were fine-tuned on images of another shape are not supported."
        )
    if state["text_projection"].ndim != 2 or state["token_embedding.weight"].ndim != 2:
        raise ItaclipError(f"{weights.path}: wrong geometry: text_projection or token_embedding.weight is no matrix.")
    sizes = measured_sizes(state)
    like = architectures.like(sizes)
    words = sizes["vocabulary"]
    if stated.tokenizer is None and words != _BYTE_PAIRS:
        raise ItaclipError(
            f"{weights.path}: a vocabulary of {words} tokens, where CLIP's has {_BYTE_PAIRS}, so its tokenizer is "
            "unknown. Name the architecture (NAME:PATH), or put the model's configuration and tokenizer beside it."
        )
    image, image_heads = _shape(weights, "image")
    text, text_heads = _shape(weights, "text")
    active = _activation(weights, quick_gelu, published, like)
    quick = active.value == facts.name_of(True)
    with torch.device("meta"):
        model = CLIP(
            ImageTower(image, patches.shape[-1], grid, state["text_projection"].shape[1], quick), text,
            sizes["context length"], words, state["text_projection"].shape[1], quick,
        )  # fmt: skip
    fill(model, state, weights.path, "OpenAI's layout")
    if stated.mean and stated.std:
        set_statistics(model, {"mean": stated.mean, "std": stated.std})
        pixels = facts.normalisation(stated.mean, stated.std, stated.pixels_source)
    else:
        source = stated.pixels_source or published or (stated.source if stated.complete else "")
        pixels = facts.normalisation(None, None, source or "as OpenAI's weights have it", not source)
    if stated.tokenizer:
        model.tokenizer_source = stated.tokenizer
    model.facts = (active, image_heads, text_heads, pixels, _tokenizer(model, stated.source, words))
    names = {known.quick_gelu: known.name for known in reversed(like)}  # the nearest of either activation
    warn_of_assumptions(weights.path, model.facts, [names[quick] for quick in sorted(names)])
    return model


_BYTE_PAIRS = 49408  # tokens of CLIP's vocabulary


def _tokenizer(model: CLIP, source: str, words: int) -> Fact:
    if model.tokenizer_source.name:
        return Fact(facts.TOKENIZER, model.tokenizer_source.name, source)
    return Fact(facts.TOKENIZER, "CLIP's byte pairs", f"its {words} tokens")


def _activation(
    weights: WeightFile, quick_gelu: bool | None, published: str, like: list[architectures.Architecture]
) -> Fact:
    """Choose the activation: the caller's, else a stated one, else that of all known models of these shapes."""
    if quick_gelu is not None:
        return facts.activation(quick_gelu, f"quick_gelu={quick_gelu}")
    if weights.stated.quick_gelu is not None:
        return facts.activation(weights.stated.quick_gelu, weights.stated.source)
    if published:
        return facts.activation(True, published)
    if len({known.quick_gelu for known in like}) == 1:
        return facts.activation(like[0].quick_gelu, _known_as([known.name for known in like]))
    return facts.activation(True, "as OpenAI's weights have it", assumed=True)


def _shape(weights: WeightFile, tower: str) -> tuple[TransformerShape, Fact]:
    """Get the sizes of a tower's blocks. Its heads leave no trace in the tensors.

    Raises:
        ItaclipError: the heads do not divide the width, or known models of this shape have different ones.
    """
    sizes, stated, path = measured_sizes(weights.state), weights.stated, weights.path
    width, layers, hidden = (sizes[f"{part} of the {tower} tower"] for part in ("width", "blocks", "hidden width"))
    name = facts.IMAGE_HEADS if tower == "image" else facts.TEXT_HEADS
    count, eps = (stated.image_heads, stated.image_eps) if tower == "image" else (stated.text_heads, stated.text_eps)
    known = {} if count else architectures.heads_of(tower, sizes)
    if len(known) > 1:
        choices = "; ".join(f"{heads} in {', '.join(names[:3])}" for heads, names in known.items())
        raise ItaclipError(
            f"{path}: the number of heads of the {tower} tower cannot be told from its tensors: models of this shape "
            f"have {choices}. Name the architecture: {next(iter(known.values()))[0]}:{path}"
        )
    if count:
        require_division(stated.source, tower, width, count)
        fact = facts.heads(name, count, width, stated.source)
    elif known:
        ((count, names),) = known.items()
        fact = facts.heads(name, count, width, _known_as(names))
    elif width % _HEAD:
        raise ItaclipError(
            f"{path}: the {tower} tower is {width} channels wide, which is not a multiple of {_HEAD}, the width of "
            "OpenAI's heads. Name the architecture (ViT-H-14:PATH), or put the model's configuration beside the file."
        )
    else:
        count = width // _HEAD
        fact = facts.heads(name, count, width, f"OpenAI's rule of {_HEAD} channels", assumed=not stated.complete)
    return TransformerShape(width, layers, count, hidden, eps or facts.LAYOUT_EPS), fact


_HEAD = 64  # channels of a head in OpenAI's models


def _known_as(names: list[str]) -> str:
    shown = sorted(names, key=len)
    return f"the shape of {', '.join(shown[:3])}{' and others' if len(shown) > 3 else ''}"
