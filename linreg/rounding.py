"""How operators round: |A|, and how many roundings lie on the way of a term.

The standard model of floating-point arithmetic, fl(a ∘ b) = (a ∘ b)(1 + δ) with |δ| ≤ u, gives for a sum of products in
any order |fl(Σ a_i b_i) − Σ a_i b_i| ≤ γ_n Σ |a_i| |b_i|, γ_n = n u / (1 − n u), where no term meets more than n
roundings (Higham, Accuracy and Stability of Numerical Algorithms, Secs. 2.2, 3.1). It holds barring underflow, and for
kernels that multiply and add: not for Winograd's or FFT convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, singledispatch
from math import inf, prod

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from linreg.errors import LinregError
from linreg.operators import Affine, Convolution, Diagonal, Linear, Scale
from linreg.operators.arithmetic import Sum
from linreg.operators.linear import MatMul, SameConvolution
from linreg.operators.pooling import Average, Selection
from linreg.operators.sparse import degrees_of
from linreg.operators.structure import Move, Reshape


def gamma(n: float, like: Tensor) -> float:
    """γ_n in the arithmetic of `like`, and inf where n u ≥ 1; with TF32, factors are rounded to 11 bits beforehand."""
    unit = torch.finfo(like.dtype).eps / 2
    if n * unit >= 1:
        return inf
    sums = n * unit / (1 - n * unit)
    return sums if n < 2 or not _uses_tf32(like) else (1 + sums) * (1 + 2**-11) ** 2 - 1


def widening(n: float, like: Tensor) -> float:
    """A factor that makes a computed sum of up to n non-negative terms an upper bound of the exact one."""
    slack = gamma(n + 4, like)
    return 1 + 3 * slack if slack < 0.25 else inf


def _uses_tf32(like: Tensor) -> bool:
    allowed = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    return like.is_cuda and like.dtype == torch.float32 and allowed


@dataclass(frozen=True, eq=False)
class Rounding:
    """`absolute` is |A|; no term meets more than `forward` roundings in A x, `backward` in Aᵀ g."""

    absolute: Callable[..., Tensor]
    forward: float
    backward: float


@singledispatch
def rounding(affine: Affine, *inputs: Tensor) -> Rounding:
    """How an operator rounds at such `inputs`, (N, *shape) each: the table of operators; `register` adds an entry.

    An operator without an entry, a masked one say, goes by its matrices, with two roundings to spare for a composition;
    one that has no matrices has an infinite bound: true, and of no use.
    """
    try:
        images = [affine.sparse(n) for n in range(len(inputs[0]))]
    except LinregError:
        return Rounding(affine.linear, inf, inf)
    degrees = [[degrees_of(matrix) for matrix in matrices] for matrices in images]
    forward = max(sum(row for row, _ in each) for each in degrees)
    backward = max(column for each in degrees for _, column in each)
    return Rounding(partial(_by_matrices, affine, images), forward + 2, backward + 2)


def _by_matrices(affine: Affine, images: list[tuple[csr_array, ...]], *inputs: Tensor) -> Tensor:
    flat = [x.double().flatten(1).numpy(force=True) for x in inputs]  # numpy has no bfloat16
    rows = [sum(abs(A) @ x[n] for A, x in zip(matrices, flat, strict=True)) for n, matrices in enumerate(images)]
    return torch.as_tensor(np.stack(rows)).to(inputs[0]).view(affine.linear(*inputs).shape)


@rounding.register
def _linear(affine: Linear, *inputs: Tensor) -> Rounding:
    return Rounding(replace(affine, weight=affine.weight.abs()).linear, *affine.degrees()[0])


@rounding.register
def _convolution(affine: Convolution, *inputs: Tensor) -> Rounding:
    return Rounding(replace(affine, weight=affine.weight.abs()).linear, *affine.degrees()[0])


@rounding.register
def _scale(affine: Scale, *inputs: Tensor) -> Rounding:
    """One product; where the input is broadcast, its adjoint adds up the copies."""
    copies = affine.linear(*inputs).numel() // inputs[0].numel()
    factor = affine.factor.abs() if isinstance(affine.factor, Tensor) else abs(affine.factor)
    return Rounding(replace(affine, factor=factor).linear, 1, copies)


@rounding.register
def _diagonal(affine: Diagonal, *inputs: Tensor) -> Rounding:
    roundings = 0 if affine.switch else 1
    return Rounding(replace(affine, slope=affine.slope.abs()).linear, roundings, roundings)


@rounding.register
def _sum(affine: Sum, *inputs: Tensor) -> Rounding:
    """One product and K − 1 additions; where an input is broadcast, its adjoint adds up the copies."""
    copies = max(prod(affine.shape) // prod(shape) for shape in affine.shapes)
    absolute = replace(affine, coefficients=tuple(abs(a) for a in affine.coefficients))
    return Rounding(absolute.linear, len(inputs), copies)


@rounding.register
def _selection(affine: Selection, *inputs: Tensor) -> Rounding:
    """Moves only; the adjoint adds up the windows that chose one element."""
    chosen = affine.adjoint(torch.ones_like(affine.linear(*inputs)))
    return Rounding(affine.linear, 0, _most(chosen) - 1)


@rounding.register
def _reshape(affine: Reshape, *inputs: Tensor) -> Rounding:
    return Rounding(affine.linear, 0, 0)


@rounding.register
def _move(affine: Move, *inputs: Tensor) -> Rounding:
    """Moves only; the adjoint adds up the copies of one element."""
    copies = affine.adjoint(torch.ones_like(affine.linear(*inputs)))
    return Rounding(affine.linear, 0, _most(copies) - 1)


@rounding.register
def _average(affine: Average, *inputs: Tensor) -> Rounding:
    """Sums over windows, and a division, in one or two steps; all coefficients have the sign of the divisor."""
    rows, columns = zip((1, 1), *(degrees_of(window.sparse()) for window in affine.windows.values()), strict=True)
    return Rounding(lambda x: affine.linear(x).abs(), prod(rows) + 1, prod(columns) + 1)


@rounding.register
def _matmul(affine: MatMul, *inputs: Tensor) -> Rounding:
    weight = affine.weight.abs()
    return Rounding(lambda x: weight @ x if affine.left else x @ weight, *affine.degrees()[0])


@rounding.register
def _same_convolution(affine: SameConvolution, *inputs: Tensor) -> Rounding:
    stencil, convolve = affine.stencil, (F.conv1d, F.conv2d, F.conv3d)[len(affine.stencil.positions) - 1]
    geometry = (stencil.stride, "same", stencil.dilation, stencil.groups)
    return Rounding(lambda x: convolve(x, stencil.weight.abs(), None, *geometry), *affine.degrees()[0])


def _most(counts: tuple[Tensor, ...]) -> int:
    return max(1, *(int(count.max()) for count in counts))
