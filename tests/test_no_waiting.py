"""On a GPU nothing inside an image waits for the host, shown without a GPU.

Tensors that claim to lie on one, with shapes and no values, go through the pipeline. What
needs a value on the host (a size that depends on values, ``.item()``) raises; tensors of
two devices meeting raise; copies between host and device are counted.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from open_clip.model import CLIP
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from itaclip.clip import METHODS
from itaclip.clip.attention import gaussian_window
from itaclip.evaluation.counts import confusion_matrix
from itaclip.pipeline import Pipeline
from itaclip.settings import Settings
from itaclip.text import TextBank, parse_class_names
from itaclip.windows import stitching_matrix

CLASSES = parse_class_names(["background, wall", "cat, kitten", "cup"])


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


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("method", METHODS)
def test_an_image_is_segmented_without_waiting(method: str, dtype: str, tiny_clip: CLIP) -> None:
    settings = Settings(method=method, dtype=dtype, pamr_steps=2, prob_thd=0.1, area_thd=0.05)
    pipeline = Pipeline(copy.deepcopy(tiny_clip), settings)
    sizes = [(200, 300), (45, 150)]
    with pretended_gpu() as copies:
        bank = TextBank(torch.empty(len(CLASSES.queries), 64, device="cuda"), CLASSES)
        images = [torch.empty(3, 260, 340, device="cuda"), torch.empty(3, 90, 300, device="cuda")]
        found = on_gpu(pipeline)(images, sizes, bank)
        assert copies.found == []
        for one, size in zip(found, sizes, strict=True):
            assert one.labels.device.type == one.scores.device.type == "cuda"
            assert one.labels.shape == size
            matrix = confusion_matrix(one.labels, torch.empty(size, dtype=torch.uint8, device="cuda"), 3)
            assert matrix.device.type == "cpu"
        assert len(copies.found) == len(found)  # the counts, once an image


def test_waiting_would_be_noticed() -> None:
    with pretended_gpu() as copies:
        labels = torch.empty(9, dtype=torch.int64, device="cuda")
        with pytest.raises(DynamicOutputShapeException):
            torch.bincount(labels)
        torch.arange(3).to("cuda")
        assert len(copies.found) == 1
