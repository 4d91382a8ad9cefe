"""Choosing the torch device."""

from __future__ import annotations

import torch

from itaclip.errors import ItaclipError


def choose_device(name: str, dtype: str = "fp32") -> torch.device:
    """The torch device of a setting; "auto" takes a GPU when there is one and int8 is not asked for.

    Raises:
        ItaclipError: a device that torch does not know or this machine does not have, or int8
            on another device than a CPU.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() and dtype != "int8" else "cpu")
    if dtype == "int8" and name != "cpu":
        raise ItaclipError(f"dtype = 'int8' runs on CPUs alone, and device is {name!r}; take fp16 or bf16 there.")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ItaclipError(f"device {name!r} is not available: {str(error).splitlines()[0]}") from error
    return device
