"""Choosing the torch device."""

from __future__ import annotations

import torch

from itaclip.errors import ItaclipError


def choose_device(name: str) -> torch.device:
    """The torch device of a setting; "auto" takes a GPU when there is one.

    Raises:
        ItaclipError: a device that torch does not know or this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ItaclipError(f"device {name!r} is not available: {str(error).splitlines()[0]}") from error
    return device
