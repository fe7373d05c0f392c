"""Calls that hold several operators, written out as these before they are translated.

Each function has the arguments of its ATen operator, and gives NotImplemented where the call stays as it is: a norm by
squares, say, which is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

aten = torch.ops.aten


def _norm(
    x: Tensor,
    ord: float = 2,
    dim: Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """‖x‖₁ = Σ |x|, ‖x‖_∞ = max |x|, and the least |x| for −∞."""
    if ord not in (1, inf, -inf) or dtype not in (None, x.dtype):
        return NotImplemented
    dims = list(range(x.dim())) if not dim else list(dim)
    if ord == 1:
        return x.abs().sum(dims, keepdim)
    return x.abs().amax(dims, keepdim) if ord == inf else x.abs().amin(dims, keepdim)


def _distances(a: Tensor, b: Tensor, p: float = 2, compute_mode: int | None = None) -> Tensor:
    """‖a_i − b_j‖ for all pairs of rows."""
    return _norm(a.unsqueeze(-2) - b.unsqueeze(-3), p, [-1])


def _vector_norm(
    x: Tensor, ord: Any = None, dim: Sequence[int] | None = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """Of vectors, which one dimension is named for, or of matrices."""
    if ord is None or (dim is None and x.dim() != 1) or dtype not in (None, x.dtype):
        return NotImplemented
    if dim is not None and len(dim) == 2:
        return _matrix_norm(x, ord, dim, keepdim)
    return _norm(x, ord, dim, keepdim)


def _matrix_norm(
    x: Tensor, ord: Any, dim: Sequence[int] = (-2, -1), keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """The largest sum of a column's |x| for 1, of a row's for ∞; the least with a minus."""
    if ord not in (1, -1, inf, -inf) or dtype not in (None, x.dtype):
        return NotImplemented
    along, across = (dim[0], dim[1]) if abs(ord) == 1 else (dim[1], dim[0])
    sums = x.abs().sum([along], True)
    norm = sums.amax([across], True) if ord > 0 else sums.amin([across], True)
    return norm if keepdim else norm.squeeze(tuple(dim))


def _pairs(a: Tensor, b: Tensor, p: float = 2, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """‖a − b + ε‖."""
    return _norm(a - b + eps, p, [-1], keepdim)


def _absolute_loss(x: Tensor, target: Tensor, reduction: int = 1) -> Tensor:
    """|x − target|, or their mean or sum."""
    error = (x - target).abs()
    return (error, error.mean(), error.sum())[reduction]


def _broadcast(tensors: Sequence[Tensor]) -> list[Tensor]:
    shape = torch.broadcast_shapes(*(tensor.shape for tensor in tensors))
    return [tensor if tensor.shape == shape else tensor.expand(shape) for tensor in tensors]


def _of_finite(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A reduction that passes over NaN, of which finite data have none."""

    def reduction(
        x: Tensor, dim: Sequence[int] | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
    ) -> Tensor:
        return function(x, dim if dim else list(range(x.dim())), keepdim, dtype=dtype)

    return reduction


def _differences(
    x: Tensor, n: int = 1, dim: int = -1, prepend: Tensor | None = None, append: Tensor | None = None
) -> Tensor:
    """Of x with more before or behind it."""
    if prepend is None and append is None:
        return NotImplemented
    return torch.cat([part for part in (prepend, x, append) if part is not None], dim).diff(n, dim)


def _cell(x: Tensor, h: Tensor, inner: Tensor, outer: Tensor, *biases: Tensor | None) -> Tensor:
    """h ← max(W x + b + V h + d, 0)."""
    b, d = biases or (None, None)
    return F.relu(F.linear(x, inner, b) + F.linear(h, outer, d))


def _recurrence(
    x: Tensor,
    h: Tensor,
    weights: Sequence[Tensor],
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    both_ways: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor]:
    """A loop over the steps, for each layer and direction: its states, and the last of each."""
    if dropout and train:
        return NotImplemented
    time = 1 if batch_first and x.dim() > 2 else 0
    count, directions = 4 if has_biases else 2, 2 if both_ways else 1
    steps, last = list(x.unbind(time)), []
    for layer in range(layers):
        found = []
        for direction in range(directions):
            number = layer * directions + direction
            own, state, states = weights[number * count :][:count], h[number], []
            for step in steps[::-1] if direction else steps:
                state = _cell(step, state, *own)
                states.append(state)
            found.append(states[::-1] if direction else states)
            last.append(state)
        steps = [torch.cat(parts, -1) if len(parts) > 1 else parts[0] for parts in zip(*found, strict=True)]
    return torch.stack(steps, time), torch.stack(last)


WRITTEN_OUT: dict[Any, Callable[..., Any]] = {
    aten.linalg_vector_norm.default: _norm,
    aten._cdist_forward.default: _distances,
    aten.cdist.default: _distances,
    aten.linalg_norm.default: _vector_norm,
    aten.linalg_matrix_norm.default: _matrix_norm,
    aten.pairwise_distance.default: _pairs,
    aten.l1_loss.default: _absolute_loss,
    aten.broadcast_tensors.default: _broadcast,
    aten.nanmean.default: _of_finite(torch.mean),
    aten.nansum.default: _of_finite(torch.sum),
    aten.diff.default: _differences,
    aten.rnn_relu.input: _recurrence,
    aten.rnn_relu_cell.default: _cell,
}
