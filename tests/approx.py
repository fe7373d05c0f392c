"""Random numbers in float64, and how near two results must be."""

from __future__ import annotations

import torch
from torch import Tensor

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def values(*shape: int, seed: int = 0) -> Tensor:
    """Normally distributed; the same shape and seed give the same numbers each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_within(found: Tensor, expected: Tensor | float, size: Tensor | float) -> None:
    """To 1e-12 of `size`: Σ|terms|, the scale of the rounding errors of what is summed."""
    error = (found - expected).abs()
    assert (error <= 1e-12 * size).all(), f"{found} is not {expected}, at Σ|terms| = {size}"
