"""Make MMSegmentation importable without mmcv's compiled operators, which ITACLIP never calls.

MMSegmentation imports `mmcv.ops`, which loads the extension `mmcv._ext`. mmcv-lite lacks it,
and most installations that fail do so while compiling a full mmcv. If the extension is missing,
a stand-in replaces it, whose operators raise when called; a full mmcv stays as it is.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

_EXTENSION = "mmcv._ext"


class _MissingOperators(ModuleType):
    """Provides an operator for every name; each raises when called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def operator(*_: object, **__: object) -> NoReturn:
            raise RuntimeError(
                f"mmcv's compiled operator {name!r} was called, but mmcv-lite has no compiled operators. "
                "ITACLIP needs none; for other models, install a full mmcv 2.1, or onedl-mmcv compiled from source."
            )

        return operator


def ensure_mmcv_ops_import() -> None:
    """Install the stand-in unless mmcv has its extension or another stand-in."""
    if _EXTENSION in sys.modules or importlib.util.find_spec(_EXTENSION) is not None:
        return
    stand_in = _MissingOperators(_EXTENSION)
    stand_in.__spec__ = ModuleSpec(_EXTENSION, loader=None)
    sys.modules[_EXTENSION] = stand_in
