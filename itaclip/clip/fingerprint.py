"""Identify weights by their values."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable

import torch
from torch import Tensor


def fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Compute a short hash of the names, shapes, dtypes and value checksums of weights.

    CRC-32 takes 60 ms for a text tower of 250 MB. It distinguishes weights but does not protect
    against forgery.
    """
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {checksum(tensor)}\n".encode())
    return digest.hexdigest()[:32]


def checksum(tensor: Tensor) -> str:
    """Compute the CRC-32 of a tensor's values, as eight hexadecimal digits."""
    values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return f"{zlib.crc32(values.data):08x}"
