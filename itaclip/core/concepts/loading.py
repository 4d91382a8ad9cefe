"""Load SAM 3 from this machine."""

from __future__ import annotations

from typing import Any

import torch

from itaclip.core.clip.download import weight_folders
from itaclip.core.concepts.options import SAM3
from itaclip.core.concepts.sam3 import Sam3
from itaclip.core.local_models import load_local

HUB = "facebook/sam3"
"""SAM 3's repository on the hub. It is gated: Meta asks for an account and for consent to the SAM licence."""


def load_sam3(model: str = "") -> Sam3:
    """Load SAM 3 from a folder or the hub's cache, frozen, float32, on the CPU.

    Args:
        model: a folder with ``config.json`` and ``model.safetensors``, or a name of the hub; empty takes
            the folder ``sam3`` among the folders for weights, else `HUB`.

    Raises:
        ItaclipError: SAM 3 is not on this machine; or its files are damaged or another model's.
    """
    from transformers import Sam3Model

    def load(source: str) -> tuple[Any, dict[str, Any]]:
        found: tuple[Any, dict[str, Any]] = Sam3Model.from_pretrained(
            source, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
        return found

    folders = [folder / SAM3 for folder in weight_folders()]
    source = model or next((str(folder.resolve()) for folder in folders if folder.is_dir()), HUB)
    loaded = load_local(
        source, load, title="SAM 3", files="config.json, model.safetensors",
        remedy=f"  put them in:    {' or '.join(map(str, folders))}; or name their folder: sam3:FOLDER\n"
        f"  they are gated: accept Meta's SAM licence on the page below, then run hf download {source}\n",
    )  # fmt: skip
    return Sam3(loaded, source)
