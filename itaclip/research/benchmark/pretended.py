"""A GPU that is pretended: tensors that claim to lie on one, with shapes and no values.

What a GPU would have to hold, and whether it would wait for the host, can be told without one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from itaclip.core.methods.attention import gaussian_window
from itaclip.core.methods.resclip import distances, smoothing
from itaclip.core.pamr import neighbours
from itaclip.core.pipeline import Pipeline
from itaclip.core.stitching import window_shares
from itaclip.core.windows import stitching_matrix
from itaclip.errors import ItaclipError
from itaclip.research.benchmark.stages import random_bank

Model = TypeVar("Model", bound=nn.Module)


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Make tensors in the block that have no values and may lie on a GPU that is not there.

    Raises:
        ItaclipError: an older PyTorch (2.6 was seen to), which wants a driver all the same.
    """
    with FakeTensorMode():
        try:
            torch.empty(1, device="cuda")[None]
        except (RuntimeError, AssertionError) as error:
            raise ItaclipError(
                f"PyTorch {torch.__version__} cannot pretend a GPU on a machine without one; take a newer PyTorch."
            ) from error
        _forget()
        try:
            yield
        finally:
            _forget()


def on_gpu(model: Model) -> Model:
    """Replace the model's parameters and buffers by pretended ones of the same shapes on the GPU."""
    for module in model.modules():
        for name, value in list(module._parameters.items()):
            if value is not None:
                there = torch.empty(value.shape, dtype=value.dtype, device="cuda")
                module._parameters[name] = torch.nn.Parameter(there)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
    return model


def gpu_peak_mib(pipeline: Pipeline, image: tuple[int, int], size: tuple[int, int], queries: int) -> float:
    """Find the largest sum of the tensors alive while an image is segmented, the image tower included.

    What kernels and libraries take for themselves, and what the allocator keeps, comes on top.

    Args:
        pipeline: loses its weights.
        image: height and width in pixels as it is encoded.
        size: height and width of the result.
        queries: Q.
    """
    from torch.distributed._tools.mem_tracker import MemTracker  # private: nothing else depends on it

    width = pipeline.encoder.channels
    with pretended_gpu(), torch.no_grad():
        device = torch.device("cuda")
        on_gpu(pipeline)
        bank, pixels = random_bank(queries, width, device), torch.empty(3, *image, device=device)
        tracker = MemTracker()
        tracker.track_external(pipeline, pixels, bank.features)
        with tracker:
            pipeline([pixels], [size], bank)
        (found,) = (counts["Total"] for counts in tracker.get_tracker_snapshot("peak").values())
    return found / 2**20


def _forget() -> None:
    """Drop caches before and after: pretended and real tensors do not mix."""
    stitching_matrix.cache_clear()
    gaussian_window.cache_clear()
    neighbours.cache_clear()
    distances.cache_clear()
    smoothing.cache_clear()
    window_shares.cache_clear()
