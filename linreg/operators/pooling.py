"""Pooling: a selection of inputs (max) or a fixed average (average, adaptive average)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from linreg.operators.base import Affine, Operator, Shape
from linreg.operators.table import Built, Call, as_linear, rule


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
        positions, index = inputs[0].flatten(-self.dims), self.index.flatten(-self.dims)
        return positions.gather(-1, index).view(self.index.shape)

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        result = grad.new_zeros(grad.shape[0], *self.shape)
        result.flatten(-self.dims).scatter_add_(-1, self.index.flatten(-self.dims), grad.flatten(-self.dims))
        return (result,)


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
    return as_linear(call, "avg pool")


@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d")
def _adaptive_avg_pool(call: Call) -> Built:
    return as_linear(call, "adaptive avg pool")


@rule("mean")
def _mean(call: Call) -> Built:
    return as_linear(call, "mean")


@rule("sum")
def _sum(call: Call) -> Built:
    return as_linear(call, "sum")
