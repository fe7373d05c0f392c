"""Pooling: a selection of inputs (max) or a fixed average (average, adaptive average, mean, sum)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array, eye_array, kron
from torch import Tensor

from linreg.operators.base import Affine, LinearFunction, Operator, Shape
from linreg.operators.sparse import degrees_of, positions, selection, to_numpy
from linreg.operators.table import Built, Call, rule
from linreg.rounding import Rounding, most


@dataclass(frozen=True, eq=False)
class Selection(Affine):
    """z_j = x_{i(j)}: each output is one of the inputs of its own channel.

    `index` (N, …, *out) counts within the flattened positions of x, the last `dims` dimensions of its `shape`.
    """

    index: Tensor
    shape: Shape
    dims: int
    kind = "selection"

    def linear(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        index = self.index.expand(x.shape[0], *self.index.shape[1:])
        return x.flatten(-self.dims).gather(-1, index.flatten(-self.dims)).view(index.shape)

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        result = grad.new_zeros(grad.shape[0], *self.shape)
        index = self.index.expand(grad.shape).flatten(-self.dims)
        result.flatten(-self.dims).scatter_add_(-1, index, grad.flatten(-self.dims))
        return (result,)

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        channels, plane = self.shape[: -self.dims], prod(self.shape[-self.dims :])
        first = positions((*channels, *[1] * self.dims)) * plane
        return (selection(first + to_numpy(self.index[image]), prod(self.shape)),)

    def rounding(self, *inputs: Tensor) -> Rounding:
        """Moves only; the adjoint adds up the windows that chose one element."""
        chosen = self.adjoint(torch.ones_like(self.linear(*inputs)))
        return Rounding(self.linear, 0, most(chosen) - 1)


@dataclass(frozen=True, eq=False)
class MaxPool(Operator):
    """z_j = max of the inputs in window j; a tie goes to the first index, as in the forward pass."""

    pool: Callable[[Tensor], tuple[Tensor, Tensor]]
    shape: Shape
    dims: int
    kind = "max pool"

    def freeze(self, *inputs: Tensor) -> Selection:
        _, index = self.pool(inputs[0])
        return Selection(index, self.shape, self.dims)

    def moves(self, *errors: Tensor) -> Tensor:
        """A maximum moves no more than the largest of its arguments."""
        return self.pool(errors[0])[0]


@dataclass(frozen=True, eq=False)
class Windows:
    """Along one dimension of x, `size` long: output i is weights[i] Σ_j x[j], starts[i] ≤ j < ends[i]."""

    size: int
    starts: np.ndarray
    ends: np.ndarray
    weights: np.ndarray

    def sparse(self) -> csr_array:
        counts = self.ends - self.starts
        columns = np.concatenate([np.arange(i, j) for i, j in zip(self.starts, self.ends, strict=True)])
        rows = np.concatenate([[0], np.cumsum(counts)])
        return csr_array((np.repeat(self.weights, counts), columns, rows), shape=(len(counts), self.size))


@dataclass(frozen=True, eq=False)
class Average(LinearFunction):
    """z = averages, or sums, of x over windows: the Kronecker product of one small matrix for each dimension of x."""

    windows: dict[int, Windows] = field(kw_only=True)

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        sizes = enumerate(self.shapes[0])
        factors = [self.windows[d].sparse() if d in self.windows else eye_array(n, format="csr") for d, n in sizes]
        return (reduce(lambda left, right: kron(left, right, format="csr"), factors),)

    def rounding(self, *inputs: Tensor) -> Rounding:
        """Sums over windows, and a division, in one or two steps; all coefficients have the sign of the divisor."""
        rows, columns = zip((1, 1), *(degrees_of(window.sparse()) for window in self.windows.values()), strict=True)
        return Rounding(lambda x: self.linear(x).abs(), prod(rows) + 1, prod(columns) + 1)


def _average(call: Call, kind: str, windows: dict[int, Windows]) -> Built:
    x = call.one_data("self")
    return Average(call.evaluate, (x.shape,), kind=kind, windows=windows), (x,)


POOLS = {
    "max_pool1d": (1, F.max_pool1d_with_indices),
    "max_pool2d": (2, F.max_pool2d_with_indices),
    "max_pool2d_with_indices": (2, F.max_pool2d_with_indices),
    "max_pool3d": (3, F.max_pool3d_with_indices),
    "max_pool3d_with_indices": (3, F.max_pool3d_with_indices),
}


@rule(*POOLS)
def _max_pool(call: Call) -> Built:
    x = call.one_data("self")
    dims, pool = POOLS[call.name]
    window = [call[name] for name in ("kernel_size", "stride", "padding", "dilation", "ceil_mode")]
    return MaxPool(lambda z: pool(z, *window), x.shape, dims), (x,)


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _avg_pool(call: Call) -> Built:
    """A window divides by its size, padding included or not, but without what ceil_mode adds beyond the padding."""
    x, dims = call.one_data("self"), int(call.name[-2])
    sides = [list(side) * (dims // len(side)) for side in (call["kernel_size"], call["stride"] or call["kernel_size"])]
    padding = list(call["padding"]) * (dims // len(call["padding"]))
    windows = {}
    for d, kernel, stride, pad in zip(range(-dims, 0), *sides, padding, strict=True):
        begins = np.arange(call.shape[d]) * stride - pad
        ends = np.minimum(begins + kernel, x.shape[d] + pad)
        inside = np.maximum(begins, 0), np.minimum(ends, x.shape[d])
        divisor = ends - begins if call["count_include_pad"] else inside[1] - inside[0]
        if call["divisor_override"]:
            divisor = np.full(len(ends), call["divisor_override"] if d == -1 else 1)
        windows[len(x.shape) + d] = Windows(x.shape[d], *inside, 1 / divisor)
    return _average(call, "avg pool", windows)


@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d")
def _adaptive_avg_pool(call: Call) -> Built:
    """Output i of n averages from ⌊i s / n⌋ up to ⌈(i + 1) s / n⌉, s the size of x."""
    x, windows = call.one_data("self"), {}
    for d, (size, count) in enumerate(zip(x.shape, call.shape, strict=True)):
        starts, ends = np.arange(count) * size // count, -(-np.arange(1, count + 1) * size // count)
        windows[d] = Windows(size, starts, ends, 1 / (ends - starts))
    return _average(call, "adaptive avg pool", windows)


def _whole(call: Call, mean: bool) -> dict[int, Windows]:
    """One window over all of each dimension that is summed over."""
    shape = call.one_data("self").shape
    dims = {d % (len(shape) + 1) - 1 for d in call["dim"]}
    return {
        d: Windows(shape[d], np.array([0]), np.array([shape[d]]), np.array([1 / shape[d] if mean else 1.0]))
        for d in dims
    }


@rule("mean")
def _mean(call: Call) -> Built:
    return _average(call, "mean", _whole(call, mean=True))


@rule("sum")
def _sum(call: Call) -> Built:
    return _average(call, "sum", _whole(call, mean=False))
