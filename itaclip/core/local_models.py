"""Models of transformers that are on this machine: in a folder or the hub's cache. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from itaclip.errors import ItaclipError

Loaded = TypeVar("Loaded")


def load_local(
    model: str, load: Callable[[str], tuple[Loaded, dict[str, Any]]], *, title: str, files: str, remedy: str
) -> Loaded:
    """Load a model without downloading, and refuse incomplete ones.

    Args:
        model: a folder, or a name of the hub whose files are in its cache.
        load: loads a folder or name: what to return, and ``output_loading_info`` of transformers.
        title: what the model is, for messages.
        files: names of the files that belong to it.
        remedy: what else the user may do if it is missing; whole lines.

    Raises:
        ItaclipError: the model is in no folder or cache, or its files are damaged or another model's.
    """
    from transformers.utils import logging

    folder = Path(model).expanduser()
    if model.startswith(("/", "./", "../", "~")) and not folder.is_dir():
        raise ItaclipError(f"{model}: no such folder.")
    source = str(folder) if folder.is_dir() else model
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        loaded, report = load(source)
    except Exception as error:  # errors of the hub, transformers and safetensors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if folder.is_dir():
            raise ItaclipError(
                f"{model}: not a readable {title} model ({reason}). Expected {files} of a complete download."
            ) from error
        raise ItaclipError(
            f"{model}: {title} is not on this machine ({type(error).__name__}: {reason}).\n"
            f"  expected files: {files}\n{remedy}"
            f"  download from:  https://huggingface.co/{model}"
        ) from error
    finally:
        if bars:
            logging.enable_progress_bar()
    wrong = [*report["missing_keys"], *map(str, report["mismatched_keys"])]
    if wrong:
        raise ItaclipError(
            f"{model}: {len(wrong)} tensor{'s' if len(wrong) > 1 else ''} missing or of a wrong shape: "
            f"{', '.join(sorted(wrong)[:3])}. The files belong to another model or are damaged."
        )
    return loaded
