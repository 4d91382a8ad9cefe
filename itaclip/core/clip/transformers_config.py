"""Read what the files of a Transformers CLIP say beside its tensors: configuration, preprocessing, vocabulary."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from itaclip.core.clip.facts import Stated, require_division
from itaclip.core.clip.tokenizer import BytePairs
from itaclip.core.clip.tokenizer_source import TokenizerSource
from itaclip.errors import ItaclipError

CONFIG = "config.json"

_IMAGE = {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072, "num_attention_heads": 12}
_TEXT = {"hidden_size": 512, "num_hidden_layers": 12, "intermediate_size": 2048, "num_attention_heads": 8}
_BYTE_PAIRS = 49408
_OLD_END = 2  # in old configurations: the end of a text is the highest id, as in OpenAI's code
_VOCABULARIES = ("tokenizer.json", "vocab.json")


def read_config(folder: Path) -> Stated:
    """Read ``config.json`` and its companions; what they leave out has Transformers' defaults.

    Args:
        folder: contains ``config.json``, and perhaps ``preprocessor_config.json`` and a tokenizer.

    Raises:
        ItaclipError: not the configuration of a CLIP, or values that cannot be or are not supported.
    """
    path = folder / CONFIG
    config = read_object(path)
    kind = config.get("model_type", "clip")
    if kind != "clip":
        raise ItaclipError(
            f"{path}: a {kind!r} in transformers' layout, which is supported only for 'clip'. "
            "Use open_clip's version of the model: by name, or a folder with open_clip_config.json."
        )
    vision, text = _part(config, "vision", path), _part(config, "text", path)
    names = {str(part.get("hidden_act", "quick_gelu")) for part in (vision, text)}
    if not names <= {"quick_gelu", "gelu"} or len(names) > 1:
        raise ItaclipError(
            f"{path}: hidden_act {sorted(names)}: expected 'quick_gelu' or 'gelu', the same for both towers."
        )
    image = {key: _count(vision, key, default, path, "vision") for key, default in _IMAGE.items()}
    words = {key: _count(text, key, default, path, "text") for key, default in _TEXT.items()}
    for tower, sizes in (("image", image), ("text", words)):
        require_division(str(path), tower, sizes["hidden_size"], sizes["num_attention_heads"])
    patch, side = _side(vision, "patch_size", 32, path), _side(vision, "image_size", 224, path)
    sizes = {
        "width of the image tower": image["hidden_size"], "blocks of the image tower": image["num_hidden_layers"],
        "hidden width of the image tower": image["intermediate_size"], "patch size": patch,
        "patches per image": (side // patch) ** 2,
        "channels of the joint space": _count(config, "projection_dim", 512, path, ""),
        "width of the text tower": words["hidden_size"], "blocks of the text tower": words["num_hidden_layers"],
        "hidden width of the text tower": words["intermediate_size"],
        "context length": _count(text, "max_position_embeddings", 77, path, "text"),
        "vocabulary": _count(text, "vocab_size", _BYTE_PAIRS, path, "text"),
    }  # fmt: skip
    mean, std, pixels_source = _preprocessing(folder)
    return Stated(
        source=str(path), quick_gelu=names == {"quick_gelu"}, image_heads=image["num_attention_heads"],
        text_heads=words["num_attention_heads"], image_eps=_epsilon(vision, path), text_eps=_epsilon(text, path),
        mean=mean, std=std, pixels_source=pixels_source,
        tokenizer=_tokenizer(folder, sizes["vocabulary"], sizes["context length"], text.get("eos_token_id", 49407)),
        sizes=sizes,
    )  # fmt: skip


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that contains an object.

    Raises:
        ItaclipError: it cannot be read, or contains something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ItaclipError(f"{path}: not a readable JSON file ({error}); download it again.") from error
    if not isinstance(content, dict):
        raise ItaclipError(f"{path}: contains {type(content).__name__}; expected an object.")
    return content


def _part(config: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    """Read one tower's entries; old files have a second, complete set of them, which Transformers prefers."""
    part = config.get(f"{name}_config_dict") or config.get(f"{name}_config")
    if not isinstance(part, dict):
        raise ItaclipError(f"{path}: not the configuration of a CLIP model: {name}_config is {part!r:.40}.")
    return part


def _count(part: Mapping[str, Any], key: str, default: int, path: Path, tower: str) -> int:
    value = part.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        where = f"{tower}_config." if tower else ""
        raise ItaclipError(f"{path}: {where}{key} = {value!r:.40}: expected a positive whole number.")
    return value


def _side(vision: Mapping[str, Any], key: str, default: int, path: Path) -> int:
    value = vision.get(key, default)
    if isinstance(value, list) and len(value) == 2:
        if value[0] != value[1]:
            raise ItaclipError(f"{path}: vision_config.{key} = {value}: only squares are supported.")
        value = value[0]
    return _count({key: value}, key, default, path, "vision")


def _epsilon(part: Mapping[str, Any], path: Path) -> float:
    value = part.get("layer_norm_eps", 1e-5)
    if not isinstance(value, float) or not 0 < value < 1:
        raise ItaclipError(f"{path}: layer_norm_eps = {value!r:.40}: expected a number between 0 and 1.")
    return value


def _preprocessing(folder: Path) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None, str]:
    """Read mean, deviation and the file that states them; None without such a file or for values it leaves out."""
    path = folder / "preprocessor_config.json"
    found: Any
    if path.is_file():
        found = read_object(path)
    else:
        path = folder / "processor_config.json"
        found = read_object(path).get("image_processor") if path.is_file() else None
    if not isinstance(found, dict):
        return None, None, ""
    content: dict[str, Any] = found
    if content.get("do_normalize", True) is False:
        return (0.0,) * 3, (1.0,) * 3, str(path)
    if content.get("do_rescale", True) is False or abs(255 * content.get("rescale_factor", 1 / 255) - 1) > 1e-3:
        raise ItaclipError(f"{path}: do_rescale or rescale_factor: only pixels scaled to [0, 1] are supported.")
    mean, std = content.get("image_mean"), content.get("image_std")
    if mean is None or std is None:
        return None, None, str(path)
    return (*statistics(path, "image_mean", mean),), (*statistics(path, "image_std", std),), str(path)


def statistics(path: Path, name: str, values: Any) -> list[float]:
    """Check the mean or deviation of three channels.

    Raises:
        ItaclipError: not three numbers, or deviations that are not positive.
    """
    numbers = isinstance(values, (list, tuple)) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) for v in values
    )
    if not numbers or len(values) != 3 or not all((0 if "mean" in name else 1e-6) <= v <= 1 for v in values):
        raise ItaclipError(f"{path}: {name} = {values!r:.60}: expected one number per RGB channel, in [0, 1].")
    return [float(v) for v in values]


def _tokenizer(folder: Path, vocabulary: int, context_length: int, end: Any) -> TokenizerSource:
    """Choose CLIP's byte pairs if the folder has their vocabulary or none, else the folder's own tokenizer.

    Raises:
        ItaclipError: texts whose end the text tower cannot find, or no tokenizer for another vocabulary.
    """
    words = next((read_vocabulary(folder / name) for name in _VOCABULARIES if (folder / name).is_file()), None)
    same = vocabulary >= _BYTE_PAIRS and words == BytePairs.merged()
    if (words is None and vocabulary == _BYTE_PAIRS) or same:
        ends = (_OLD_END, _BYTE_PAIRS - 1)
        source = TokenizerSource(context_length=context_length)
    else:
        ends = (_OLD_END, vocabulary - 1)
        source = TokenizerSource(str(folder), context_length)
        if words is None and not (folder / "tokenizer_config.json").is_file():
            raise ItaclipError(
                f"{folder / CONFIG}: a vocabulary of {vocabulary} tokens is not CLIP's of {_BYTE_PAIRS}, and the "
                "folder holds no tokenizer. Put the model's tokenizer.json and tokenizer_config.json there."
            )
    if end not in ends:
        raise ItaclipError(
            f"{folder / CONFIG}: text_config.eos_token_id = {end!r:.40}; only texts that end with the highest token "
            f"({ends[1]}) can be read. Use open_clip's version of the model."
        )
    return source


def read_vocabulary(path: Path) -> dict[str, int]:
    """Read the tokens of a byte-pair vocabulary by their ids, without those that mark start and end."""
    content: Any = read_object(path)
    if path.name == "tokenizer.json":
        model = content.get("model")
        content = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(content, dict):
        return {}
    return {token: number for token, number in content.items() if not token.startswith("<|")}
