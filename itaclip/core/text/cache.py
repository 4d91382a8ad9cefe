"""A disk cache for text features: starting again with the same words takes milliseconds."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from itaclip.core.clip.fingerprint import checksum
from itaclip.errors import ItaclipError
from itaclip.files import atomic_path, cache_folder

_LOG = logging.getLogger(__name__)

_MAX_IN_MEMORY = 20_000
"""Features in memory (40 MB for ViT-B), which bounds the memory of a server that keeps receiving new words."""


class TextCache:
    """Features of single texts, in memory and in one small file each.

    The file name is a hash of everything the feature depends on: the weights of the text tower,
    the templates, the device type, the text, and its own sentences. The file also contains this key and a checksum,
    so a damaged or misnamed file is noticed and replaced. Writes are atomic; any number of
    processes may share a folder.

    Args:
        folder: folder of the files; None keeps features in memory only.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder is not None else None
        self._features: OrderedDict[str, Tensor] = OrderedDict()  # least recently used first
        self._writable = True

    def get(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """Get the cached features by key, E float32 each, on the CPU."""
        found = {}
        for key in keys:
            feature = self._features.get(key)
            if feature is None:
                feature = self._read(key)
            if feature is not None:
                found[key] = self._remember(key, feature)
        return found

    def put(self, features: dict[str, Tensor]) -> None:
        """Store features, E float32 each. Warns once if the folder cannot be written."""
        for key, feature in features.items():
            feature = self._remember(key, feature.cpu().clone())
            path = self._path(key)
            if path is None or not self._writable:
                continue
            try:
                with atomic_path(path) as partial:
                    save_file({"feature": feature}, partial, metadata={"key": key, "crc32": checksum(feature)})
            except (ItaclipError, SafetensorError) as error:
                self._writable = False
                _LOG.warning("Text features cannot be cached on disk: %s", error)

    def _remember(self, key: str, feature: Tensor) -> Tensor:
        self._features[key] = feature
        self._features.move_to_end(key)
        if len(self._features) > _MAX_IN_MEMORY:
            self._features.popitem(last=False)
        return feature

    def _read(self, key: str) -> Tensor | None:
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                stated, feature = file.metadata() or {}, file.get_tensor("feature")
        except (SafetensorError, OSError):
            stated, feature = {}, torch.empty(0)
        if stated != {"key": key, "crc32": checksum(feature)}:
            _LOG.warning("%s: damaged; the text is encoded again.", path)
            return None
        return feature

    def _path(self, key: str) -> Path | None:
        name = f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.safetensors"
        return None if self.folder is None else self.folder / name[:2] / name


def default_folder() -> Path:
    """Return the folder ``text`` in the cache folder."""
    return cache_folder() / "text"


def text_key(
    fingerprint: str, templates: Sequence[str], device: torch.device, text: str, prompts: Sequence[str] = ()
) -> str:
    """Write everything the feature of a text depends on as one line of JSON; `prompts` are its own sentences."""
    digest = hashlib.sha256("\n".join(templates).encode()).hexdigest()[:16]
    own = [hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()[:16]] if prompts else []
    return json.dumps([fingerprint, digest, device.type, text, *own], ensure_ascii=False)
