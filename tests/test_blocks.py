"""Attention and feed-forward network against their formulas, in every precision and with every mask."""

from __future__ import annotations

import pytest
import torch

from itaclip.core.clip.blocks import attend, feed_forward
from itaclip.core.clip.openai import Block, TransformerShape


def by_formula(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None, causal: bool
) -> torch.Tensor:
    scores = q.double() @ k.double().transpose(-1, -2) / q.shape[-1] ** 0.5
    if bias is not None:
        scores = scores.masked_fill(~bias, float("-inf")) if bias.dtype == torch.bool else scores + bias
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
    return scores.softmax(-1) @ v.double()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("mask", ["none", "bool", "added", "causal"])
@pytest.mark.parametrize("tokens", [5, 1100])
def test_attention(dtype: torch.dtype, tolerance: float, mask: str, tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, tokens, 16, generator=generator).to(dtype) for _ in range(3))
    bias = None
    if mask == "bool":
        bias = torch.rand(tokens, tokens, generator=generator) < 0.5
        bias |= torch.eye(tokens, dtype=torch.bool)
    if mask == "added":
        bias = torch.randn(tokens, tokens, generator=generator).to(dtype)
    found = attend(q, k, v, bias=bias, causal=mask == "causal")
    assert found.dtype == dtype
    assert (found.double() - by_formula(q, k, v, bias, mask == "causal")).abs().max() < tolerance


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("shape", [(7, 64), (3, 5, 64)])
def test_feed_forward_is_the_module_s(quick: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    block = Block(TransformerShape(width=64, layers=1, heads=1, hidden=256), quick)
    x = torch.randn(*shape, requires_grad=True)
    expected = block.mlp(block.ln_2(x))
    found = feed_forward(block, x)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    wanted = torch.autograd.grad(expected.square().sum(), [x, block.mlp.c_fc.weight, block.mlp.c_proj.bias])
    for one, other in zip(torch.autograd.grad(found.square().sum(), [x, block.mlp.c_fc.weight, block.mlp.c_proj.bias]),
                          wanted, strict=True):  # fmt: skip
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(feed_forward(block, x), expected, atol=1e-6, rtol=1e-5)
