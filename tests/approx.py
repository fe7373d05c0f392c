"""Random numbers in float64, and how near two results must be."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def values(*shape: int, seed: int = 0) -> Tensor:
    """Normally distributed; the same shape and seed give the same numbers each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_within(found: Tensor | float, expected: Tensor | float, size: Tensor | float) -> None:
    """To 1e-12 of `size`: Σ|terms|, the scale of the rounding errors of what is summed."""
    near = torch.as_tensor(abs(found - expected) <= 1e-12 * size)
    assert near.all(), f"{found} is not {expected}, at Σ|terms| = {size}"


def gradient(network: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """y and ∇ₓ of a random functional of it, by autograd."""
    x = x.clone().requires_grad_()
    y = network(x.clone())
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(5), dtype=y.dtype)
    return y, torch.autograd.grad((y * g).sum(), x)[0]


def assert_equal(network: nn.Module, model: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Output and gradient of two networks, to 1e-12 of their largest numbers."""
    (y, dy), (expected, slope) = gradient(network, x), gradient(model, x)
    scale = expected.abs().max().item(), slope.abs().max().item()
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12 * scale[0])
    torch.testing.assert_close(dy, slope, rtol=1e-12, atol=1e-12 * scale[1])
