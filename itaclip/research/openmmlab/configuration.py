"""Configurations of MMEngine: read, change, check that they are complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope

from itaclip.errors import ItaclipError
from itaclip.formats.configuration import name_weights, read_config


def load_config(path: str | Path, data_root: str | None = None, weights: str | None = None) -> Config:
    """Read a configuration. It is Python code: load only files that you trust.

    Args:
        path: the file.
        data_root: folder of the data set; None keeps the configuration's.
        weights: CLIP model or weight file, see `itaclip.formats.configuration.name_weights`; None keeps the
            configuration's.

    Raises:
        ItaclipError: no such file, an error in it, or missing parts.
    """
    config = read_config(path)
    _require_parts(config, path)
    init_default_scope(config.get("default_scope", "mmseg"))
    if data_root is not None:
        config.test_dataloader.dataset.data_root = data_root
    if weights is not None:
        name_weights(config.model, weights)
    return config


def change_config(
    config: Config, options: dict[str, Any], data_root: str | None = None, weights: str | None = None
) -> None:
    """Change a configuration in place.

    Args:
        config: a complete configuration.
        options: new values by key, such as ``model.pamr_steps``.
        data_root: folder of the data set, see `load_config`; overrides `options`.
        weights: CLIP model or weight file; overrides ``model.model_name`` in `options`. The tag and the activation
            are then those of `options`, not of the configuration.

    Raises:
        ItaclipError: an option that does not fit the configuration.
    """
    if weights is not None:
        name_weights(config.model, weights)
    try:
        config.merge_from_dict(options)
    except Exception as error:  # MMEngine raises many types
        reason = f"{type(error).__name__}: {error}"
        raise ItaclipError(
            f"--cfg-options {' '.join(options)}: cannot be applied to the configuration ({reason})."
        ) from error
    _require_parts(config, f"--cfg-options {' '.join(options)}")
    if data_root is not None:
        config.test_dataloader.dataset.data_root = data_root
    if weights is not None:
        config.model.model_name = weights


def _require_parts(config: Config, source: str | Path) -> None:
    for *outer, part in (["model"], ["test_dataloader"], ["test_dataloader", "dataset"]):
        holder = config[outer[0]] if outer else config
        if not isinstance(holder.get(part), dict):
            raise ItaclipError(f"{source}: {'.'.join([*outer, part])} is missing or not a dict.")
