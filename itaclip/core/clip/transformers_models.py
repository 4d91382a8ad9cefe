"""Build models of Transformers from files, and report what does not fit; nothing in the files is executed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from itaclip.common.logs import quiet
from itaclip.core.clip.transformers_config import read_object
from itaclip.core.clip.weights import check_tensors, read_state
from itaclip.errors import ItaclipError

_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def read_library_config(kind: Any, path: Path, part: Mapping[str, Any] | None = None) -> Any:
    """Read ``config.json`` as one of Transformers' configurations.

    Args:
        kind: the configuration's class.
        path: the file.
        part: the part of its content that describes the model; None for all of it.

    Raises:
        ItaclipError: it cannot be read, or has values that the class refuses.
    """
    content = read_object(path) if part is None else dict(part)
    try:
        return kind.from_dict(content)
    except Exception as error:  # the library's validators raise several types
        raise ItaclipError(
            f"{path}: not the configuration of a {kind.model_type} ({type(error).__name__}: "
            f"{' '.join(str(error).split()):.200}); download it again."
        ) from error


def read_tensors(folder: Path, prefix: str = "") -> tuple[dict[str, Tensor], Path]:
    """Read the weights of a folder, whole or in parts: the tensors under the names in the file, and the file.

    Args:
        folder: the folder.
        prefix: only tensors whose names begin with this are kept.

    Raises:
        ItaclipError: there are none, or they are damaged.
    """
    file = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if file is None:
        raise ItaclipError(f"{folder}: holds none of {', '.join(_FILES)}; download the weights too.")
    return read_state(file, prefix), file


@contextmanager
def _no_bar() -> Iterator[None]:
    """Hide Transformers' progress bar, which counts tensors."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def build(kind: Any, config: Any, state: Mapping[str, Tensor], path: Path, optional: Sequence[str] = ()) -> Any:
    """Fill one of Transformers' models, which knows older names of its tensors; float32, frozen.

    Args:
        kind: the model's class.
        config: its configuration.
        state: tensors by name.
        path: their file, for messages.
        optional: endings of the names of tensors that may be missing.

    Raises:
        ItaclipError: tensors are missing, unexpected or of a wrong shape.
    """
    try:
        with quiet("transformers"), _no_bar(), torch.random.fork_rng(devices=[]):
            model, info = kind.from_pretrained(
                None, config=config, state_dict={key: value.float() for key, value in state.items()},
                output_loading_info=True, ignore_mismatched_sizes=True, dtype=torch.float32,
            )  # fmt: skip
    except Exception as error:  # conversions of tensors of wrong shapes raise many types
        raise ItaclipError(
            f"{path}: its tensors do not make a {kind.__name__} ({type(error).__name__}: {str(error)[:200]})."
        ) from error
    wrong = [f"{name} {tuple(found)} instead of {tuple(expected)}" for name, found, expected in info["mismatched_keys"]]
    missing = sorted(name for name in info["missing_keys"] if not name.endswith(tuple(optional)))
    problems = {"missing": missing, "of a wrong shape": sorted(wrong), "unexpected": sorted(info["unexpected_keys"])}
    check_tensors(path, problems, "Another model's configuration, or a damaged file?")
    return model.requires_grad_(False).eval()
