"""Matrix products in 8 bits, for CPUs with instructions for them (VNNI).

Weights are rounded once, symmetrically, with a scale per output channel. Activations are
rounded view by view, over the range that they have then, so nothing is calibrated. oneDNN
multiplies u8 by s8 and adds up in 32 bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from itaclip.errors import ItaclipError


def check_int8() -> None:
    """Refuse processors without VNNI, where oneDNN's 8-bit products are slow or overflow.

    Raises:
        ItaclipError: this is one, or torch was built without oneDNN.
    """
    if not (torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()):
        raise ItaclipError(
            "dtype = 'int8': no AVX-512 VNNI instructions here, or PyTorch without oneDNN; take bf16 or fp32."
        )


class Int8Linear(nn.Module):
    """``f(x W' + b)``.

    Args:
        weight: N x K.
        bias: N.
        output: dtype of the result, float32 or bfloat16.
        activation: oneDNN's name of f.
    """

    def __init__(self, weight: Tensor, bias: Tensor, output: torch.dtype, activation: str = "none") -> None:
        super().__init__()
        weight = weight.detach().float()
        self._scale = weight.abs().amax(1).clamp(min=1e-12) / 127
        rounded = (weight / self._scale[:, None]).round().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        self._zero = torch.zeros(len(weight), dtype=torch.int32)
        self._bias = bias.detach().float()
        self._output, self._activation = output, activation

    def __deepcopy__(self, memo: dict[int, Any]) -> Int8Linear:
        return self  # oneDNN's packed weights cannot be copied, and never change

    def forward(self, x: Tensor) -> Tensor:
        """B x M x K, float32 or bfloat16, to B x M x N, one of the batch after the other: so
        company changes no result, and what is at hand stays in the caches."""
        if x.device.type != "cpu":
            raise ItaclipError(f"int8 weights were loaded for a CPU, and the image is on {x.device}.")
        return torch.stack([self._product(one) for one in x])

    def _product(self, x: Tensor) -> Tensor:
        low, high = (float(end) for end in x.aminmax())
        # 252 steps, one to spare at each end: bfloat16 may round an end another way than `zero` does
        scale = max((max(high, 0.0) - min(low, 0.0)) / 252, 1e-12)
        zero = round(-min(low, 0.0) / scale) + 1
        # torch rounds quickly to -128..127, oneDNN wants 0..255
        signed = x.mul(1 / scale).round_().add_(zero - 128).to(torch.int8)
        return torch.ops.onednn.qlinear_pointwise(
            signed.bitwise_xor_(-128).view(torch.uint8), scale, zero, self._packed, self._scale, self._zero,
            self._bias, 1.0, 0, self._output, self._activation, [], "none",
        )  # fmt: skip


class Int8Attention(nn.Module):
    """The projections of `torch.nn.MultiheadAttention`; queries, keys and values come out as `heads`."""

    def __init__(self, attention: nn.MultiheadAttention, heads: torch.dtype) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.in_proj = Int8Linear(attention.in_proj_weight, attention.in_proj_bias, heads)
        self.out_proj = Int8Linear(attention.out_proj.weight, attention.out_proj.bias, torch.float32)


class Int8FeedForward(nn.Module):
    """Two layers: ``W_2 act(scale W_1 x) / scale``."""

    def __init__(self, first: nn.Linear, second: nn.Linear, hidden: torch.dtype, activation: str, scale: float) -> None:
        super().__init__()
        self.first = Int8Linear(first.weight * scale, first.bias * scale, hidden, activation)
        self.second = Int8Linear(second.weight / scale, second.bias, torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.second(self.first(one)) for one in x.split(1)])
