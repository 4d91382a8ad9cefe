"""Load models that open_clip describes: by name and tag, or from a folder with its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transformer import VisionTransformer
from torch import Tensor

from itaclip.core.clip import facts
from itaclip.core.clip.architectures import stated_sizes
from itaclip.core.clip.download import HUB_FILES, OPEN_CLIP_CONFIG, fetch
from itaclip.core.clip.facts import Fact, Stated, warn_of_assumptions
from itaclip.core.clip.names import DEMO, OPENAI_NAMES, is_path
from itaclip.core.clip.open_clip_modules import build, shape_of
from itaclip.core.clip.openai import CLIP, ImageTower
from itaclip.core.clip.state_dict import fill, set_statistics
from itaclip.core.clip.transformers_config import read_object, statistics
from itaclip.core.clip.weights import WeightFile, read_weights
from itaclip.errors import ItaclipError, did_you_mean


def load_named(model_name: str, pretrained: str | None, quick_gelu: bool | None) -> Any:
    """Load a model by name; see `itaclip.core.clip.load_clip`.

    Raises:
        ItaclipError: unknown name or tag, missing or damaged weights, a convolutional image tower.
    """
    name, _, named_tag = model_name.partition(":")
    if named_tag and pretrained:
        raise ItaclipError(f"{model_name}: names a tag, and pretrained = {pretrained!r} another; drop one.")
    architecture = OPENAI_NAMES.get(name, name)
    config = open_clip.get_model_config(architecture)
    if config is None:
        known = [DEMO, *OPENAI_NAMES, *open_clip.list_models()]
        raise ItaclipError(
            f"model_name {name!r} is neither a file nor a model that open_clip knows." + did_you_mean(name, known)
        )
    tag = pretrained or named_tag or default_tag(architecture)
    if is_path(tag):
        return _load_own(name, config, Path(tag).expanduser(), quick_gelu)
    published = get_pretrained_cfg(architecture, tag)
    if not published:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise ItaclipError(
            f"{name} has no pretrained tag {tag!r}; open_clip knows: {', '.join(tags) or 'none'}."
            + did_you_mean(tag, tags)
        )
    stated, source = published.get("quick_gelu", config.get("quick_gelu", False)), f"the tag {tag} of {name}"
    active = _chosen(quick_gelu) or facts.activation(bool(stated), source)
    model = build(config, active.value == facts.name_of(True), name)
    set_statistics(model, published)
    _fill(model, read_weights(fetch(architecture, tag, published)), name, config)
    return _told(model, active, f"the name {name}", _pixels(model, source))


def _load_own(name: str, config: Mapping[str, Any], path: Path, quick_gelu: bool | None) -> Any:
    """Load a weight file of the user's own for a named architecture.

    What the file states itself must agree with the name; an archive of OpenAI's, which always has QuickGELU, decides,
    because open_clip's name for its architecture is the one with GELU.

    Raises:
        ItaclipError: the file and the name contradict each other, or the file does not fit.
    """
    architecture, source = OPENAI_NAMES.get(name, name), f"the name {name}"
    held = next((path / file for file in HUB_FILES if (path / file).is_file()), path)
    weights = read_weights(held)
    stated = weights.stated
    if quick_gelu is not None:
        active = facts.activation(quick_gelu, f"quick_gelu={quick_gelu}")
    elif name in OPENAI_NAMES and stated.quick_gelu is None:  # it names a shape that others have trained with GELU
        active = facts.activation(True, "as OpenAI's weights have it", assumed=True)
    else:
        named = bool(config.get("quick_gelu", False))
        if stated.quick_gelu not in (None, named) and not stated.complete and name not in OPENAI_NAMES:
            raise ItaclipError(
                f"{weights.path}: {stated.source} states {facts.name_of(bool(stated.quick_gelu))}, where {name} has "
                f"{facts.name_of(named)}. Give the path alone, or set quick_gelu to True or False."
            )
        said = stated.quick_gelu is not None
        active = facts.activation(bool(stated.quick_gelu) if said else named, stated.source if said else source)
    model = build(config, active.value == facts.name_of(True), name)
    usual = _usual_statistics(architecture)
    if stated.mean and stated.std:
        set_statistics(model, {"mean": stated.mean, "std": stated.std})
        pixels = _pixels(model, stated.pixels_source)
    else:
        set_statistics(model, usual)
        pixels = _pixels(model, source if usual else "as OpenAI's weights have it", not usual)
    _fill(model, weights, name, config)
    _require_the_same_blocks(model, stated, name, weights.path)
    _told(model, active, source, pixels)
    names = [architecture, f"{architecture}-quickgelu"] if name in OPENAI_NAMES else None
    warn_of_assumptions(weights.path, model.facts, names)
    return model


def _require_the_same_blocks(model: Any, stated: Stated, name: str, path: Path) -> None:
    """Refuse heads and norms that a file states differently from the name.

    Raises:
        ItaclipError: they differ.
    """
    if not isinstance(model, CLIP):
        return
    image, text = shape_of(model.visual), shape_of(model)
    for what, value, found in (
        (facts.IMAGE_HEADS, stated.image_heads, image.heads),
        (facts.TEXT_HEADS, stated.text_heads, text.heads),
        ("epsilon of the image tower's norms", stated.image_eps, image.eps),
        ("epsilon of the text tower's norms", stated.text_eps, text.eps),
    ):
        if value not in (None, found):
            raise ItaclipError(
                f"{path}: {stated.source} states {what} {value}, where {name} has {found}. Give the path alone."
            )


def default_tag(architecture: str) -> str:
    """Choose the tag of an architecture that is named without one: "openai", or the only one.

    Raises:
        ItaclipError: it has none, or several.
    """
    tags: list[str] = open_clip.list_pretrained_tags_by_model(architecture)
    if "openai" in tags:
        return "openai"
    if len(tags) != 1:
        choice = f"one of {', '.join(tags)}, such as {architecture}:{tags[0]}" if tags else "a path to weights"
        raise ItaclipError(
            f"{architecture}: `pretrained` must name the weights: {choice}; random weights segment nothing."
        )
    return tags[0]


def load_folder(folder: Path, quick_gelu: bool | None, weights: WeightFile | None = None) -> Any:
    """Load a folder in the format of open_clip's models on the hub: configuration, weights, tokenizer.

    Args:
        folder: contains ``open_clip_config.json``.
        quick_gelu: the activation; None follows the configuration.
        weights: a file of the folder; None reads the one with open_clip's name.

    Raises:
        ItaclipError: a damaged configuration, or weights that are missing or contradict it.
    """
    path = folder / OPEN_CLIP_CONFIG
    described = read_object(path)
    try:
        config, preprocessing = described["model_cfg"], described.get("preprocess_cfg", {})
        _require_sizes(config, path)
        active = _chosen(quick_gelu) or facts.activation(bool(config.get("quick_gelu", False)), str(path))
        model = build(config, active.value == facts.name_of(True), str(path), folder)
        if mean := preprocessing.get("mean"):
            mean, std = statistics(path, "mean", mean), statistics(path, "std", preprocessing.get("std"))
            set_statistics(model, {"mean": mean, "std": std})
    except (KeyError, TypeError, AttributeError) as error:
        raise ItaclipError(f"{path}: not the configuration of an open_clip model ({error!r}).") from error
    if weights is None:
        file = next((folder / name for name in HUB_FILES if (folder / name).is_file()), None)
        if file is None:
            raise ItaclipError(f"{folder}: holds none of {', '.join(HUB_FILES)}.")
        weights = read_weights(file)
    _fill(model, weights, str(path), config)
    return _told(model, active, str(path), _pixels(model, str(path)))


def _require_sizes(config: Mapping[str, Any], path: Path) -> None:
    """Refuse sizes that open_clip would round down or that are no sizes.

    Raises:
        ItaclipError: heads that do not divide the width, patches that are not square, a bad number.
    """
    vision, text = config["vision_cfg"], config["text_cfg"]
    if not vision.get("timm_model_name") and not isinstance(vision.get("layers"), list):
        side = vision.get("image_size", 224)
        if isinstance(side, list) and len(set(side)) > 1:
            raise ItaclipError(f"{path}: vision_cfg.image_size = {side}: only squares are supported.")
        for key in ("width", "layers", "patch_size", "head_width"):
            _require_count(vision, key, 1, path, "vision_cfg")
        width, head = vision.get("width", 768), vision.get("head_width", 64)
        if width % head:
            raise ItaclipError(f"{path}: vision_cfg.head_width = {head} does not divide the width of {width} channels.")
    if not text.get("hf_model_name"):
        for key in ("width", "layers", "heads", "context_length", "vocab_size"):
            _require_count(text, key, 1, path, "text_cfg")
        facts.require_division(f"{path}: text_cfg", "text", text.get("width", 512), text.get("heads", 8))


def _require_count(part: Mapping[str, Any], key: str, default: int, path: Path, name: str) -> None:
    value = part.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ItaclipError(f"{path}: {name}.{key} = {value!r:.40}: expected a positive whole number.")


# --- facts -------------------------------------------------------------------


def _chosen(quick_gelu: bool | None) -> Fact | None:
    return None if quick_gelu is None else facts.activation(quick_gelu, f"quick_gelu={quick_gelu}")


def _pixels(model: Any, source: str, assumed: bool = False) -> Fact:
    mean, std = getattr(model.visual, "image_mean", None), getattr(model.visual, "image_std", None)
    return facts.normalisation(mean, std, source, assumed)


def _told(model: Any, active: Fact, source: str, pixels: Fact) -> Any:
    """Attach the facts to a model; a tower of another library has no activation and heads to choose."""
    found = [pixels, Fact(facts.TOKENIZER, model.tokenizer_source.name or "CLIP's byte pairs", source)]
    if isinstance(model.visual, (ImageTower, VisionTransformer)):
        image = shape_of(model.visual)
        found = [active, facts.heads(facts.IMAGE_HEADS, image.heads, image.width, source), *found]
    if isinstance(model, CLIP):
        text = shape_of(model)
        found.insert(2, facts.heads(facts.TEXT_HEADS, text.heads, text.width, source))
    model.facts = tuple(found)
    return model


def _usual_statistics(architecture: str) -> Mapping[str, Any]:
    """Get the pixel statistics of an architecture's published weights, if all of them agree."""
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    found = [get_pretrained_cfg(architecture, tag) for tag in tags]
    distinct = {(tuple(f["mean"]), tuple(f["std"])) for f in found if "mean" in f and "std" in f}
    return dict(zip(("mean", "std"), distinct.pop(), strict=True)) if len(distinct) == 1 else {}


def _fill(model: Any, weights: WeightFile, name: str, config: Mapping[str, Any]) -> Any:
    """Load tensors into a model; in files, the text tower may or may not be a separate module."""
    if isinstance(model, CLIP):
        state: Mapping[str, Tensor] = {key.removeprefix("text."): value for key, value in weights.state.items()}
    else:
        state = convert_to_custom_text_state_dict(dict(weights.state))
    return fill(model, state, weights.path, name, stated_sizes(config))
