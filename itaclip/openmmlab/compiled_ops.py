"""Lets MMSegmentation import without mmcv's compiled operators, which ITACLIP never calls.

MMSegmentation imports `mmcv.ops` on start, and that loads the extension `mmcv._ext`.
mmcv-lite lacks it, and compiling a full mmcv is what most installations fail at. Where
the extension is missing, a stand-in takes its place whose operators raise when called;
where a full mmcv is installed, nothing happens.
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
    """Has every operator by name; each raises when called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def operator(*_: object, **__: object) -> NoReturn:
            raise RuntimeError(
                f"mmcv's compiled operator {name!r} was called, but mmcv-lite is installed, which has none. "
                "ITACLIP needs no compiled operator; for other models install a full mmcv 2.1 instead."
            )

        return operator


def ensure_mmcv_ops_import() -> None:
    """Put the stand-in in place unless mmcv brings its extension or was given one before."""
    if _EXTENSION in sys.modules or importlib.util.find_spec(_EXTENSION) is not None:
        return
    stand_in = _MissingOperators(_EXTENSION)
    stand_in.__spec__ = ModuleSpec(_EXTENSION, loader=None)
    sys.modules[_EXTENSION] = stand_in
