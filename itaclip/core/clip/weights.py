"""Read CLIP weights from a file without executing anything in it.

Four formats are understood: OpenAI's TorchScript archive, a plain PyTorch state
dict, safetensors, and a Hugging Face CLIP folder, whole or in parts. All come out
as one state dict under OpenAI's parameter names, with what the file or the
configuration beside it says about the model.
"""

from __future__ import annotations

import collections
import io
import json
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from itaclip.core.clip.facts import LAYOUT_EPS, Stated, require_agreement
from itaclip.core.clip.transformers_config import CONFIG, read_config, read_object, statistics
from itaclip.errors import ItaclipError

# Buffers in OpenAI's archives that describe the model instead of being part of it.
_DESCRIPTIONS = ("input_resolution", "context_length", "vocab_size")


@dataclass(frozen=True)
class WeightFile:
    """Weights as stored on disk.

    Attributes:
        state: tensors under OpenAI CLIP's parameter names.
        stated: what the file, or the configuration beside it, says about the model.
        path: the file they come from.
    """

    state: dict[str, Tensor]
    stated: Stated
    path: Path


def check_tensors(path: Path, problems: Mapping[str, Sequence[str]], question: str) -> None:
    """Refuse a file whose tensors do not fill a model.

    Args:
        path: the file, for the message.
        problems: names of tensors by problem; the first problem with any names is reported.
        question: the possible cause, for the message.

    Raises:
        ItaclipError: at least one tensor has a problem.
    """
    for what, keys in problems.items():
        if keys:
            raise ItaclipError(
                f"{path}: {len(keys)} tensor{'s' if len(keys) > 1 else ''} {what}: "
                f"{', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}. {question}"
            )


def read_weights(path: str | Path) -> WeightFile:
    """Read any of the four formats; the content decides, not the file extension.

    Tensors in Transformers' layout are described by the ``config.json`` in their folder, whether the
    folder, the file, its index or one of its parts is given.

    Raises:
        ItaclipError: no such file, truncated or foreign content, a pickle that contains more than
            tensors, or a configuration that contradicts the tensors.
    """
    path = Path(path)
    if path.is_dir():
        path = _transformers_file(path)
    elif not path.is_file():
        raise ItaclipError(f"{path}: no such weight file or folder.")
    path = _whole(path)
    if path.name.endswith(_INDEX):
        state, stated = _read_parts(path), Stated()
    else:
        state, stated = _read_file(path)
    if _IN_TRANSFORMERS not in state:
        return WeightFile(_openai_names(state), stated, path)
    if not stated.source and (path.parent / CONFIG).is_file():
        stated = read_config(path.parent)
    weights = WeightFile(_openai_names(state), stated, path)
    require_agreement(path, stated.source, stated.sizes, weights.state)
    return weights


def read_state(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """Read tensors by the names in a file, or in the parts that an index lists; safetensors or a plain state dict.

    Args:
        path: the file or the index.
        prefix: only tensors whose names begin with this are kept.

    Raises:
        ItaclipError: truncated or foreign content, or a pickle that contains more than tensors.
    """
    state = _read_parts(path) if path.name.endswith(_INDEX) else _read_file(path)[0]
    return {key: value for key, value in state.items() if key.startswith(prefix)}


def _read_file(path: Path) -> tuple[dict[str, Tensor], Stated]:
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:9] == b"{":  # a safetensors file: 8 bytes of header length, then JSON
        state, metadata = read_safetensors(path)
        return state, _stated(metadata, path)
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, RuntimeError, ValueError) as error:  # such as an unsupported zip version
            raise ItaclipError(f"{path}: damaged archive ({type(error).__name__}: {error}).") from error
        if any(name.split("/")[1:2] == ["constants.pkl"] or "/code/" in name for name in names):
            return _read_torchscript(path), Stated("OpenAI's archive", complete=True, quick_gelu=True)
    return _read_state_dict(path), Stated()


# --- what files of this project state ----------------------------------------


def metadata_of(clip: Any) -> dict[str, str]:
    """Describe a model of OpenAI's layout in the metadata of a safetensors file, as `read_weights` reads it."""
    image, text = clip.visual.transformer.resblocks[0], clip.transformer.resblocks[0]
    found = {
        "quick_gelu": str(clip.quick_gelu).lower(),
        "image_heads": str(image.attn.num_heads), "text_heads": str(text.attn.num_heads),
        "image_eps": repr(image.ln_1.eps), "text_eps": repr(text.ln_1.eps),
    }  # fmt: skip
    mean, std = getattr(clip.visual, "image_mean", None), getattr(clip.visual, "image_std", None)
    if mean is not None and std is not None:
        found |= {"mean": " ".join(map(repr, mean)), "std": " ".join(map(repr, std))}
    return {"clip": json.dumps(found, sort_keys=True)}  # one entry, since safetensors writes several in any order


def _stated(metadata: Mapping[str, str], path: Path) -> Stated:
    """Read what `metadata_of` wrote; files of other programs say nothing there."""
    try:
        metadata = json.loads(metadata["clip"]) if "clip" in metadata else metadata
        if "quick_gelu" not in metadata:
            return Stated()
        quick_gelu = {"true": True, "false": False}[metadata["quick_gelu"].lower()]
        heads = [int(metadata[name]) if name in metadata else None for name in ("image_heads", "text_heads")]
        eps = [float(metadata.get(name, LAYOUT_EPS)) for name in ("image_eps", "text_eps")]
        pixels = [[float(v) for v in metadata[name].split()] if name in metadata else None for name in ("mean", "std")]
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ItaclipError(f"{path}: its metadata do not describe a model ({error!r:.60}); save it again.") from error
    mean, std = (None if v is None else tuple(statistics(path, f"metadata {name}", v))
                 for name, v in zip(("mean", "std"), pixels, strict=True))  # fmt: skip
    source = f"the metadata of {path.name}"
    return Stated(
        source, complete=True, quick_gelu=quick_gelu, image_heads=heads[0], text_heads=heads[1], image_eps=eps[0],
        text_eps=eps[1], mean=mean, std=std, pixels_source=source,
    )  # fmt: skip


# --- formats -----------------------------------------------------------------


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ItaclipError(f"{path}: truncated or damaged safetensors file ({error}).") from error


def load_tensors(path: Path) -> Any:
    """Load what `torch.save` wrote, if it is tensors and plain data; execute nothing.

    Raises:
        ItaclipError: the file contains more, is truncated, or is not a PyTorch file.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ItaclipError(
            f"{path}: refused, because it holds more than tensors or is not a PyTorch file: "
            f"{str(error).splitlines()[0]} If you trust it, convert it to safetensors."
        ) from error
    except Exception as error:  # PyTorch's reader raises nearly anything for damaged content
        raise ItaclipError(
            f"{path}: truncated, or not a weight file that PyTorch can read "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__})."
        ) from error


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    content = load_tensors(path)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ItaclipError(f"{path}: holds no state dict (tensors by name), but {type(content).__name__}.")
    return content


_IN_TRANSFORMERS = "vision_model.embeddings.class_embedding"
_INDEX = ".index.json"
_PART = re.compile(r"^(.+)-\d{5}-of-(\d{5})(\.\w+)$")
_TRANSFORMERS_FILES = ("model.safetensors", f"model.safetensors{_INDEX}", "pytorch_model.bin",
                       f"pytorch_model.bin{_INDEX}")  # fmt: skip


def _transformers_file(folder: Path) -> Path:
    """Find the weights, or the index of their parts, in a folder of Transformers."""
    if not (folder / CONFIG).is_file():
        raise ItaclipError(
            f"{folder}: a Hugging Face CLIP folder needs config.json, which is missing. If there is a weight file in "
            "the folder, name the file."
        )
    read_config(folder)  # so that the configuration's faults are reported before those of its weights
    found = next((folder / name for name in _TRANSFORMERS_FILES if (folder / name).is_file()), None)
    if found is None:
        raise ItaclipError(f"{folder}: holds neither model.safetensors nor pytorch_model.bin, nor an index of either.")
    return found


def _whole(path: Path) -> Path:
    """Return the index of a file that is one of several parts; another file itself."""
    match = _PART.match(path.name)
    if match is None or int(match.group(2)) < 2:
        return path
    index = path.with_name(f"{match.group(1)}{match.group(3)}{_INDEX}")
    if not index.is_file():
        raise ItaclipError(
            f"{path}: one of {int(match.group(2))} parts of a model; {index.name}, which lists them, is missing "
            "beside it; download it too."
        )
    return index


def _read_parts(index: Path) -> dict[str, Tensor]:
    """Read the parts that an index lists; they lie in its folder."""
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ItaclipError(f"{index}: weight_map is missing: the part that holds each tensor.")
    state: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        part = index.parent / name
        if Path(name).name != name or not part.is_file():
            raise ItaclipError(f"{index}: lists the part {name!r:.80}, which is no file of its folder; download it.")
        state |= _read_file(part)[0]
    problems = {"listed but in none of its parts": sorted(places.keys() - state.keys())}
    check_tensors(index, problems, "Download all parts again.")
    return state


class _Inert:
    """Stand-in for any TorchScript class: keeps attributes, runs nothing."""

    def __init__(self, *_: object) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.attributes = state if isinstance(state, dict) else {}


class _TensorReader(pickle.Unpickler):
    """Unpickle a TorchScript object tree into inert objects and tensors, nothing else."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self._archive, self._root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__") or module == "torch.jit._pickle":
            return _Inert
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, *_: data
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) == ("torch", "device"):
            return str
        raise ItaclipError(f"refused: the archive asks for {module}.{name}, which no CLIP weight file needs.")

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, count = pid
        raw = bytearray(self._archive.read(f"{self._root}/data/{key}"))
        storage = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        if storage.numel() < count:
            raise ItaclipError(f"truncated: tensor {key} holds {storage.numel()} of {count} values.")
        return storage


_STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}


def _rebuild_tensor(storage: Tensor, offset: int, size: Any, stride: Any, *_: object) -> Tensor:
    return torch.as_strided(storage, tuple(size), tuple(stride), offset).clone()


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a TorchScript archive as data; never load its code."""
    try:
        with zipfile.ZipFile(path) as archive:
            root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).split("/")[0]
            tree = _TensorReader(archive, root).load()
    except ItaclipError as error:
        raise ItaclipError(f"{path}: {error}") from error
    except (zipfile.BadZipFile, pickle.UnpicklingError, StopIteration, KeyError, EOFError, ValueError,
            RuntimeError, TypeError, AttributeError, IndexError) as error:  # fmt: skip
        raise ItaclipError(f"{path}: damaged TorchScript archive ({type(error).__name__}: {error}).") from error
    state: dict[str, Tensor] = {}

    def walk(node: object, prefix: str) -> None:
        if isinstance(node, _Inert):
            for key, value in node.attributes.items():
                if isinstance(value, Tensor):
                    state[prefix + key] = value
                else:
                    walk(value, f"{prefix}{key}.")

    walk(tree, "")
    return state


# --- names -------------------------------------------------------------------

_HUGGING_FACE = (
    (r"^vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding\.weight$", "visual.conv1.weight"),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"^text_model\.embeddings\.token_embedding\.weight$", "token_embedding.weight"),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.layer_norm1\.", ".ln_1."),
    (r"\.layer_norm2\.", ".ln_2."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)


def _openai_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename Hugging Face parameters to OpenAI's; drop everything else."""
    if any(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    if _IN_TRANSFORMERS not in state:
        return {key: value for key, value in state.items() if key not in _DESCRIPTIONS}
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.endswith("position_ids") or re.search(r"\.self_attn\.[kv]_proj\.", key):
            continue
        if key == "visual_projection.weight":
            renamed["visual.proj"] = value.T.contiguous()
        elif key == "text_projection.weight":
            renamed["text_projection"] = value.T.contiguous()
        elif ".self_attn.q_proj." in key:
            joint = torch.cat([state[key.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")])
            head, kind = key.split(".self_attn.q_proj.")
            renamed[_rename(f"{head}.") + f"attn.in_proj_{kind}"] = joint
        else:
            renamed[_rename(key)] = value
    return renamed


def _rename(key: str) -> str:
    for pattern, replacement in _HUGGING_FACE:
        key = re.sub(pattern, replacement, key)
    return key
