"""Find whole repositories of the Hugging Face hub on this machine, or download them."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT

from itaclip.common.logs import quiet
from itaclip.core.clip.download import local_folder, require_network, weight_folders
from itaclip.core.clip.transformers_config import CONFIG
from itaclip.errors import ItaclipError

_PATTERNS = ("*.json", "*.safetensors", "*.model", "*.txt")  # no code


def repository(hub: str) -> Path:
    """Find a repository of the hub in `weight_folders` or the hub's cache, or download it.

    Raises:
        ItaclipError: it is not on this machine and cannot be downloaded.
    """
    held = local_folder(hub)
    if held is not None:
        return held
    cached = try_to_load_from_cache(hub, CONFIG)
    if isinstance(cached, str):
        return Path(cached).parent
    try:
        require_network(ENDPOINT)
        from huggingface_hub import snapshot_download

        with quiet("huggingface_hub", "httpx"):
            return Path(snapshot_download(hub, allow_patterns=list(_PATTERNS)))
    except Exception as error:  # the hub and network libraries raise many types
        name = hub.rsplit("/", 1)[-1]
        raise ItaclipError(
            f"{hub}: not on this machine, and could not be downloaded "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}).\n"
            f"  expected folder: {name}, with {CONFIG}, the weights and the tokenizer\n"
            f"  put it in:       {' or '.join(str(folder) for folder in weight_folders())}"
            " (or name it: --weights FOLDER; ITACLIP_WEIGHTS_DIR adds a folder)\n"
            f"  download from:   https://huggingface.co/{hub}"
        ) from error
