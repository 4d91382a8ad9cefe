"""Choosing the torch device."""

from __future__ import annotations

import torch

from itaclip.errors import ItaclipError


def choose_device(name: str, dtype: str = "fp32", engine: str = "torch") -> torch.device:
    """The torch device of a setting; "auto" takes a GPU when there is one and PyTorch may run on it.

    Raises:
        ItaclipError: a device that torch does not know or this machine does not have, or one that
            precision or engine cannot use.
    """
    on_cpu = engine == "openvino" or dtype == "int8"
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() and not on_cpu else "cpu")
    if on_cpu and name != "cpu":
        raise ItaclipError(
            f"engine = {engine!r} with dtype = {dtype!r} runs on CPUs only, and device is {name!r}; "
            "set engine='torch' and dtype='fp16' or 'bf16' there."
        )
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ItaclipError(f"device {name!r} is not available: {str(error).splitlines()[0]}") from error
    return device
