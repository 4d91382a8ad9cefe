"""Watching what moves between a pretended GPU and the host."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from itaclip import ItaclipError
from itaclip.research.benchmark.pretended import pretended_gpu


def can_pretend() -> bool:
    """Whether this PyTorch can pretend a GPU here."""
    try:
        with pretended_gpu():
            return True
    except ItaclipError:
        return False


needs_pretending = pytest.mark.skipif(not can_pretend(), reason="needs a PyTorch that can pretend a GPU")


class Copies(TorchDispatchMode):
    """Names of the operations that moved a tensor between devices."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor)]
        if len({t.device.type for t in tensors}) > 1:
            self.found.append(str(func))
        return result
