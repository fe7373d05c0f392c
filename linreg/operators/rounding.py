"""How an operator rounds: |A|, and how many roundings lie on the way of a term; each operator says it of itself.

The standard model of floating-point arithmetic, fl(a ∘ b) = (a ∘ b)(1 + δ) with |δ| ≤ u, gives for a sum of products in
any order |fl(Σ a_i b_i) − Σ a_i b_i| ≤ γ_n Σ |a_i| |b_i|, γ_n = n u / (1 − n u), where no term meets more than n
roundings (Higham, Accuracy and Stability of Numerical Algorithms, Secs. 2.2, 3.1). A product that underflows misses
that by no more than `underflow`, whatever its size: to what n roundings lose, n times that is added. All of it is for
kernels that multiply and add: not for Winograd's or FFT convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor

# What decides the arithmetic of CUDA's convolutions and of its matrix products.
PRODUCTS: tuple[Any, ...] = (getattr(torch.backends.cudnn, "conv"), torch.backends.cuda.matmul)  # noqa: B009


def gamma(n: float, like: Tensor) -> float:
    """γ_n in the arithmetic of `like`, and inf where n u ≥ 1; with TF32, factors are rounded to 11 bits beforehand."""
    unit = torch.finfo(like.dtype).eps / 2
    if n * unit >= 1:
        return inf
    sums = n * unit / (1 - n * unit)
    return sums if n < 2 or not _uses_tf32(like) else (1 + sums) * (1 + 2**-11) ** 2 - 1


def underflow(like: Tensor) -> float:
    """The most that a rounding loses where its result is too small for the standard model, in the arithmetic of `like`.

    The smallest normal number, which hardware may replace by 0; in float16, where that is 6e-5, and where the device
    keeps smaller numbers, the smallest of these.
    """
    least = torch.finfo(like.dtype)
    if like.dtype != torch.float16:
        return least.smallest_normal
    kept = like.new_full((), least.smallest_normal) * 0.5
    return least.smallest_normal * (least.eps if kept.item() else 1)


def widening(n: float, like: Tensor) -> float:
    """A factor that makes a computed sum of up to n non-negative terms an upper bound of the exact one."""
    slack = gamma(n + 4, like)
    return 1 + 3 * slack if slack < 0.25 else inf


def _uses_tf32(like: Tensor) -> bool:
    if not like.is_cuda or like.dtype != torch.float32:
        return False
    # Not `allow_tf32`, which torch refuses to read where the user has set this newer one.
    return any(setting.fp32_precision == "tf32" for setting in PRODUCTS)


@dataclass(frozen=True, eq=False)
class Rounding:
    """`absolute` is |A|; no term meets more than `forward` roundings in A x, `backward` in Aᵀ g."""

    absolute: Callable[..., Tensor]
    forward: float
    backward: float


def most(counts: tuple[Tensor, ...]) -> int:
    """The largest count, and at least 1: how many terms an adjoint adds up."""
    return max(1, *(int(count.max()) for count in counts if count.numel()))
