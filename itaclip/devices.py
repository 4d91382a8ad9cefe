"""Choosing the device, and what Apple's GPU (MPS) lacks: 64-bit floats, and some kernels in older PyTorch."""

from __future__ import annotations

import logging
from functools import lru_cache

import torch

from itaclip.errors import ItaclipError

_LOG = logging.getLogger(__name__)

GPU_PRECISION = (
    "dtype = 'auto' chooses among the precisions of CPUs; on a GPU name one, such as fp16, or set device = 'cpu'."
)
"""Why a precision has to be named."""

_CPU = torch.device("cpu")
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def choose_device(name: str, dtype: str = "fp32", engine: str = "torch") -> torch.device:
    """Choose the PyTorch device of a setting.

    "auto" takes CUDA, else MPS, else the CPU; with int8 or OpenVINO always the CPU, and the CPU too
    where MPS lacks the dtype (bf16 before macOS 14).

    Args:
        name: "auto", or a device of PyTorch such as "cuda:1".
        dtype: "fp32", "bf16", "fp16", "int8" or "auto".
        engine: "torch", "openvino" or "auto".

    Raises:
        ItaclipError: a device that PyTorch does not know, that this machine does not have or
            that lacks the dtype; or int8, "auto" or OpenVINO on another device than the CPU.
    """
    if dtype == "auto":
        if name != "cpu" and (name != "auto" or _best_device("fp32") != _CPU):
            raise ItaclipError(GPU_PRECISION)
        return _CPU
    cpu_only = "int8" if dtype == "int8" else engine if engine == "openvino" else None
    if name == "auto":
        return _CPU if cpu_only else _best_device(dtype)
    if cpu_only and name != "cpu":
        raise ItaclipError(
            f"{cpu_only!r} runs on CPUs only, but device is {name!r}; use engine='torch' with fp16 or bf16 there."
        )
    try:
        device = torch.device(name)
        _allocate(device, dtype)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ItaclipError(f"device {name!r} is not available with dtype {dtype!r}: {reason}") from error
    return device


def _best_device(dtype: str) -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        try:
            _allocate(torch.device("mps"), dtype)
        except (RuntimeError, TypeError) as error:
            _LOG.warning("the CPU is used: MPS does not take dtype %r (%s)", dtype, str(error).splitlines()[0])
        else:
            return torch.device("mps")
    return _CPU


def _allocate(device: torch.device, dtype: str) -> None:
    torch.empty(1, dtype=_DTYPES.get(dtype, torch.float32), device=device)


def float64_device(device: torch.device) -> torch.device:
    """Choose where to compute in 64-bit floats for tensors on `device`: there on CUDA, which spares a copy; else the
    CPU."""
    return device if device.type == "cuda" else _CPU


def widest_float(device: torch.device) -> torch.dtype:
    """Return the widest floating-point type of a device: float32 on MPS, float64 elsewhere."""
    return torch.float32 if device.type == "mps" else torch.float64


def kernel_device(operation: str, device: torch.device) -> torch.device:
    """Choose where to run an operation on tensors of `device`: the CPU if this PyTorch has no MPS kernel for it.

    A warning names each such operation once. PyTorch's own fallback is a setting of the whole
    process (``PYTORCH_ENABLE_MPS_FALLBACK``), which is left to the user.

    Args:
        operation: name in ATen, such as "_embedding_bag_forward_only".
        device: where the tensors are.
    """
    return _CPU if device.type == "mps" and not _has_mps_kernel(operation) else device


@lru_cache
def _has_mps_kernel(operation: str) -> bool:
    # private, but the only question that is not answered by running the operation
    found: bool = torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{operation}", "MPS")
    if not found:
        _LOG.warning("PyTorch %s has no MPS kernel for %s: this step runs on the CPU", torch.__version__, operation)
    return found
