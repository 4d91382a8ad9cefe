"""A GPU that is pretended: tensors that claim to lie on one, with shapes and no values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from itaclip.clip.attention import gaussian_window
from itaclip.pipeline import Pipeline
from itaclip.windows import stitching_matrix


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


@contextmanager
def pretended_gpu() -> Iterator[Copies]:
    """Tensors made here have no values and may lie on a GPU that is not there."""
    cached = (stitching_matrix, gaussian_window)
    with FakeTensorMode(), Copies() as copies:
        for function in cached:
            function.cache_clear()
        yield copies
    for function in cached:
        function.cache_clear()


def on_gpu(pipeline: Pipeline) -> Pipeline:
    """The pipeline, its parameters replaced by some of the same shapes on the GPU."""
    for module in pipeline.modules():
        for name, value in list(module._parameters.items()):
            if value is not None:
                there = torch.empty(value.shape, dtype=value.dtype, device="cuda")
                module._parameters[name] = torch.nn.Parameter(there, requires_grad=False)
    return pipeline
