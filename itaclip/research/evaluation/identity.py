"""Hashes of everything the scores of an evaluation depend on; stored results are valid only while they match."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Iterator
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mmengine.config import Config

from itaclip.common.shipped import configuration_folder
from itaclip.core.clip.names import DEMO
from itaclip.core.concepts.options import CONCEPTS
from itaclip.core.regions.source import GRAM, SAM2
from itaclip.files import sha256_of

_SHORT = 16
_DEMO_DINO = "core/second_encoders/demo_dino.safetensors"


def digest(content: Any) -> str:
    """Return a short hash of a JSON value; other objects enter as their text."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:_SHORT]


def identity(config: Config) -> dict[str, str]:
    """Hash everything that a configuration makes results depend on, by part; file contents, not dates.

    Custom modules that a configuration imports count as software, because they may define methods.
    """
    model = config.model.to_dict()
    texts = [_file(model.pop(name, None)) for name in ("name_path", "auxiliary_text_path", "class_prompts", "lexicon")]
    if model.get("background_words") and texts[-1] is None:
        texts[-1] = _file(configuration_folder() / "lexicon.txt")
    modules = ["itaclip", *config.get("custom_imports", {}).get("imports", [])]
    return {
        "settings": digest(model),
        "class words and texts": digest(texts),
        "weights": digest([_prefixed(model.get(name)) for name in ("model_name", "pretrained")]),
        "second encoder": _weights(model.get("second_encoder"), _DEMO_DINO) or "",
        "region masks": _prefixed(model.get("regions"), _DEMO_DINO) or "",
        "data set": digest(config.test_dataloader.dataset.to_dict()),
        "software": digest([version("torch"), [_files(_sources(name)) for name in modules]]),
    }


def _weights(name: str | None, bundled: str = "core/clip/demo_clip.safetensors") -> str | None:
    """Hash of the content of a file or folder; a model name stays as it is."""
    if name == DEMO:
        with resources.as_file(resources.files("itaclip") / bundled) as path:
            return _file(path)
    path = Path(name or "")
    return _files(sorted(path.rglob("*"))) if name and path.is_dir() else _file(name)


def _prefixed(name: str | None, bundled: str = "core/clip/demo_clip.safetensors") -> str | None:
    """Hash as `_weights`, also of what ``sam2:FOLDER``, ``gram:FILE`` and ``sam3:FOLDER`` name."""
    kind, _, path = (name or "").partition(":")
    if kind not in (*SAM2, *GRAM, *CONCEPTS) or not path:
        return _weights(name, bundled)
    return f"{kind}:{_weights(path, bundled)}"


def _sources(module: str) -> Iterator[Path]:
    """Yield the Python files of a module or package."""
    found = importlib.util.find_spec(module)
    if found and found.submodule_search_locations:
        for folder in found.submodule_search_locations:
            yield from sorted(Path(folder).rglob("*.py"))
    elif found and found.origin:
        yield Path(found.origin)


def _files(paths: Iterable[Path]) -> str:
    return digest([[path.name, _file(path)] for path in paths])


def _file(path: str | Path | None) -> str | None:
    """Hash of a file's content; text that is not the path of a file stays as it is."""
    if path is None or not Path(path).is_file():
        return None if path is None else str(path)
    return sha256_of(path)[:_SHORT]
