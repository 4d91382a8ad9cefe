"""Find the weight files of named models in a folder or the hub's cache, or download them."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

from itaclip.common.logs import quiet
from itaclip.errors import ItaclipError
from itaclip.files import sha256_of

HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""File names that open_clip uses for weights in a repository of the hub."""


OPEN_CLIP_CONFIG = "open_clip_config.json"
"""File name of the configuration that lies beside them."""


def weight_folders() -> list[Path]:
    """List the folders searched for downloaded weight files, in order."""
    own = os.environ.get("ITACLIP_WEIGHTS_DIR")
    return [*([Path(own).expanduser()] if own else []), Path("weights"), Path("~/.cache/clip").expanduser()]


def fetch(architecture: str, tag: str, config: dict[str, Any]) -> Path:
    """Find the file of a named model in a folder or a cache, or download it."""
    url, hub = str(config.get("url", "")), str(config.get("hf_hub", ""))
    name, checksum = _file_name(architecture, tag, url), _checksum(url)
    found = locate(architecture, tag, config)
    if found is not None:
        if found.name == name and checksum and not sha256_of(found).startswith(checksum):
            raise ItaclipError(
                f"{found}: its sha256 is not {checksum}. The file is truncated or a different one; "
                f"delete it and download it again from {url}."
            )
        return found
    try:
        require_network(ENDPOINT if hub else url)
        from open_clip.pretrained import download_pretrained  # here, because it is slow to import

        with quiet("huggingface_hub", "httpx"):
            return Path(download_pretrained(config))
    except Exception as error:  # the hub and network libraries raise many types
        raise ItaclipError(
            f"{architecture} ({tag}): the weights are not on this machine and could not be downloaded "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}).\n"
            f"  expected file: {name}\n"
            f"  put it in:     {' or '.join(str(f) for f in weight_folders())}"
            " (or name it: --weights PATH; ITACLIP_WEIGHTS_DIR adds a folder)\n"
            f"  download from: {url or 'https://huggingface.co/' + hub}\n"
            f"  sha256:        {checksum or 'not published with the address'}"
        ) from error


def locate(architecture: str, tag: str, config: dict[str, Any]) -> Path | None:
    """Find the file of a named model on this machine: in a folder, or in the hub's cache."""
    name = _file_name(architecture, tag, str(config.get("url", "")))
    repository, _, asked = str(config.get("hf_hub", "")).rpartition("/")
    held = local_folder(repository) if repository else None
    candidates = [folder / name for folder in weight_folders()]
    candidates += [held / known for known in ((asked,) if asked else HUB_FILES)] if held else []
    found = next((path for path in candidates if path.is_file()), None)
    return found or in_hub_cache(str(config.get("hf_hub", "")))


def _file_name(architecture: str, tag: str, url: str) -> str:
    """Name of a downloaded weight file in `weight_folders`."""
    return url.rsplit("/", 1)[-1] if url else f"{architecture}-{tag}.safetensors"


def local_folder(name: str) -> Path | None:
    """Find a local copy of a hub repository in `weight_folders`, under the last part of its name."""
    folders = (folder / name.rsplit("/", 1)[-1] for folder in weight_folders())
    return next((folder for folder in folders if folder.is_dir()), None)


def in_hub_cache(hub: str) -> Path | None:
    """Find the file of a hub model in the hub's cache, from an earlier download."""
    if not hub:
        return None
    repository, name = hub.rsplit("/", 1)
    for candidate in (name,) if name else HUB_FILES:
        cached = try_to_load_from_cache(repository, candidate)
        if isinstance(cached, str):
            return Path(cached)
    return None


def require_network(address: str) -> None:
    """Fail at once without a network; the hub's client would retry for most of a minute."""
    if HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set")
    if not getproxies():
        socket.getaddrinfo(urlparse(address).hostname, 443)


def _checksum(url: str) -> str:
    """Get the sha256, or its first digits, that OpenAI and open_clip put into a URL."""
    if "openaipublic" in url:
        return url.split("/")[-2]
    match = re.search(r"-([0-9a-f]{8,64})\.(pt|bin)$", url)
    return match.group(1) if match else ""
