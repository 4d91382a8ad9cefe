"""Choosing the device, and what can be told of Apple's GPU (MPS) without one.

No test here runs on MPS. They check which device is taken, and that nothing is asked of MPS that
it lacks: no 64-bit floats, and no operation without a kernel.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from gpu_helpers import needs_pretending
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from itaclip import devices
from itaclip.core import pamr, windows
from itaclip.core.clip.openai import CLIP
from itaclip.core.methods import ON_ANY_TOWER, rfclip, scclip
from itaclip.core.pipeline import Pipeline
from itaclip.core.second_encoders import load_second_encoder
from itaclip.core.settings import Settings
from itaclip.core.text import TextBank, parse_class_names
from itaclip.devices import choose_device, kernel_device, widest_float
from itaclip.errors import ItaclipError
from itaclip.research.benchmark.pretended import on_gpu, pretended_gpu

CLASSES = parse_class_names(["background, wall", "cat, kitten", "cup"])
MPS = torch.device("mps")


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with MPS and no CUDA; MPS does not take bf16, as before macOS 14."""

    def allocate(device: torch.device, dtype: str) -> None:
        if dtype == "bf16":
            raise TypeError("BFloat16 is not supported on MPS")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(devices, "_allocate", allocate)
    devices._has_mps_kernel.cache_clear()
    yield
    devices._has_mps_kernel.cache_clear()


@pytest.mark.usefixtures("mac")
def test_auto_takes_mps(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_device("auto").type == choose_device("auto", "fp16").type == "mps"
    assert choose_device("auto", "int8").type == "cpu"
    assert not caplog.records
    assert choose_device("auto", "bf16").type == "cpu"
    assert "MPS does not take dtype 'bf16'" in caplog.text
    with pytest.raises(ItaclipError, match="'mps' is not available with dtype 'bf16': BFloat16 is not supported"):
        choose_device("mps", "bf16")


@pytest.mark.usefixtures("mac")
def test_cuda_goes_before_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda"


@pytest.mark.usefixtures("mac")
def test_steps_without_a_kernel_go_to_the_cpu_and_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "itaclip.devices"):
        for _ in range(2):
            assert kernel_device("_embedding_bag_forward_only", MPS).type == "cpu"  # this PyTorch has no MPS at all
    assert [r.getMessage().split("no MPS kernel for ")[1] for r in caplog.records] == [
        "_embedding_bag_forward_only: this step runs on the CPU"
    ]
    assert kernel_device("_embedding_bag_forward_only", torch.device("cuda")).type == "cuda"
    assert (widest_float(MPS), widest_float(torch.device("cpu"))) == (torch.float32, torch.float64)


def test_refinement_that_moves_to_the_cpu_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, guide = torch.rand(3, 20, 30), torch.rand(3, 20, 30)
    expected = pamr.pamr(masks, guide)
    moved = iter([torch.device("cpu", 0)])  # asked once, when the guide is weighed
    monkeypatch.setattr(pamr, "kernel_device", lambda _, device: next(moved))
    assert torch.equal(pamr.pamr(masks, guide), expected)
    assert next(moved, None) is None


class _OnGpu(TorchDispatchMode):
    """Operations on tensors of the GPU, and those of them on 64-bit floats."""

    def __init__(self) -> None:
        super().__init__()
        self.names, self.wide = set[str](), set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        there = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor) and t.is_cuda]
        if there and func.namespace == "aten":
            self.names.add(func._schema.name.removeprefix("aten::"))
        if any(t.dtype == torch.float64 for t in there):
            self.wide.add(str(func))
        return result


@needs_pretending
@pytest.mark.parametrize("method", ON_ANY_TOWER)
def test_every_operation_has_a_kernel_on_mps(
    method: str, tiny_clip: CLIP, second_weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a pretended GPU, with 64-bit floats on the host as on MPS."""
    recorded = (ROOT / "tests/golden/mps_operations.txt").read_text().splitlines()
    known = {name for line in recorded if not line.startswith("#") for name in line.split()}
    for module in (windows, scclip):
        monkeypatch.setattr(module, "float64_device", lambda _: torch.device("cpu"))
    monkeypatch.setattr(rfclip, "clusters", lambda text, _: torch.zeros(len(text), dtype=torch.int64, device="cuda"))
    settings = Settings(method=method, dtype="fp16", pamr_steps=2, prob_thd=0.1, area_thd=0.05, map_correction=True,
                        second_encoder=second_weights)  # fmt: skip
    pipeline = Pipeline(copy.deepcopy(tiny_clip), settings)
    pipeline._second[second_weights, "fp16"] = load_second_encoder(second_weights, dtype="fp16")
    regions = {"felzenszwalb": [np.arange(90 * 130).reshape(90, 130) // 900]}
    with pretended_gpu(), _OnGpu() as seen:
        on_gpu(pipeline._second[second_weights, "fp16"])
        bank = TextBank(torch.empty(len(CLASSES.queries), 64, device="cuda"), CLASSES)
        on_gpu(pipeline)([torch.empty(3, 90, 130, device="cuda")], [(80, 110)], bank, regions)
    assert "_embedding_bag_forward_only" in seen.names
    assert seen.names - known == set()
    assert seen.wide == set()
