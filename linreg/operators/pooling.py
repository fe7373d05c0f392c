"""Pooling: a selection of inputs (max) or a fixed average (average, adaptive average, mean, sum)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor, nn

from linreg.operators.base import Operator, Role, Shape
from linreg.operators.contest import Contest, listed
from linreg.operators.reach import Follows, Placed, Reach, adaptive, identity, sliding, whole
from linreg.operators.reasons import AcrossImages
from linreg.operators.resample import Separable
from linreg.operators.selection import Selection
from linreg.operators.table import Built, Call, rule


@dataclass(frozen=True, eq=False)
class MaxPool(Operator):
    """z_j = max of the inputs in window j; a tie goes to the first index, as in the forward pass.

    `window` holds the arguments of `torch.nn.MaxPool1d`, `2d` and `3d`.
    """

    window: Mapping[str, Any]
    shape: Shape
    dims: int
    kind = "max pool"
    role = Role.MAX_POOL

    def pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The maxima and their indices."""
        pools = (F.max_pool1d_with_indices, F.max_pool2d_with_indices, F.max_pool3d_with_indices)
        return pools[self.dims - 1](x, **self.window)

    def freeze(self, *inputs: Tensor) -> Selection:
        _, index = self.pool(inputs[0])
        return Selection(index, self.shape, self.dims)

    def reach(self, inputs: Sequence[Placed], output: Shape) -> tuple[Follows | None, ...]:
        """Whatever the window chooses, it looks at all of its inputs."""
        (x,) = inputs
        first = len(x.shape) - self.dims
        pooled = {d: (d, self._side(d - first, x.shape[d], output[d])) for d in x.dims if d >= first}
        return (pooled | {d: (d, identity(x.shape[d])) for d in x.dims if d < first},)

    def contest(self, output: Shape) -> Contest:
        """One for each window."""
        kept = len(self.shape) - self.dims
        rows = torch.arange(prod(self.shape[:kept]))[:, None]
        for side, d in enumerate(range(kept, len(self.shape))):
            window = listed(self._side(side, self.shape[d], output[d]).reads)
            places = rows[:, None, :, None] * self.shape[d] + window[None, :, None, :]
            outside = (rows[:, None, :, None] < 0) | (window[None, :, None, :] < 0)
            rows = places.masked_fill(outside, -1).flatten(2).flatten(0, 1)
        return Contest(rows, torch.arange(len(rows))[:, None], _first_largest, 1, prod(self.shape))

    def _side(self, side: int, size: int, count: int) -> Reach:
        """The windows along one of the pooled dimensions, from 0."""
        numbers = (self.window[name][side] for name in ("kernel_size", "stride", "padding", "dilation"))
        return sliding(size, count, *numbers)

    def moves(self, *errors: Tensor) -> Tensor:
        """A maximum moves no more than the largest of its arguments."""
        return self.pool(errors[0])[0]

    def layer(self) -> nn.Module:
        return (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[self.dims - 1](**self.window)


@dataclass(frozen=True, eq=False)
class AdaptiveMaxPool(MaxPool):
    """z_j = max of the inputs in window j, the windows those of adaptive average pooling to `output_size`."""

    def pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pool: Any = getattr(F, f"adaptive_max_pool{self.dims}d_with_indices")
        return pool(x, **self.window)

    def _side(self, side: int, size: int, count: int) -> Reach:
        return adaptive(size, count)

    def layer(self) -> nn.Module:
        return (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)[self.dims - 1](**self.window)


@dataclass(frozen=True, eq=False)
class Windows:
    """Along one dimension of x, `size` long: output i is weights[i] Σ_j x[j], starts[i] ≤ j < ends[i].

    `reach` tells where output i lies, for which the padding counts too.
    """

    size: int
    starts: np.ndarray
    ends: np.ndarray
    weights: np.ndarray
    reach: Callable[[], Reach]

    def sparse(self) -> csr_array:
        counts = self.ends - self.starts
        columns = np.concatenate([np.arange(i, j) for i, j in zip(self.starts, self.ends, strict=True)])
        rows = np.concatenate([[0], np.cumsum(counts)])
        return csr_array((np.repeat(self.weights, counts), columns, rows), shape=(len(counts), self.size))


@dataclass(frozen=True, eq=False)
class Average(Separable):
    """z = averages, or sums, of x over windows; `pool` makes the layer of torch.nn that is this, if there is one."""

    pool: Callable[[], nn.Module] | None = field(kw_only=True, default=None)
    role = Role.AVERAGE

    def layer(self) -> Callable[..., Tensor]:
        return self.pool() if self.pool else super().layer()


def _first_largest(rows: Tensor) -> Tensor:
    return rows.max(-1, keepdim=True).indices


def _average(call: Call, kind: str, windows: dict[int, Windows], pool: Callable[[], nn.Module] | None = None) -> Built:
    x = call.one_data("self")
    factors = {d: window.sparse for d, window in windows.items()}
    reaches = {d: window.reach for d, window in windows.items()}
    return Average(call.evaluate, (x.shape,), kind=kind, factors=factors, reaches=reaches, pool=pool), (x,)


def _window(call: Call, dims: int, *names: str) -> dict[str, Any]:
    """The sides of a pooling window, one number for each dimension; without a stride, the window's size."""
    sides = {name: call[name] or call["kernel_size"] for name in names}
    return {name: tuple(side) * (dims // len(side)) for name, side in sides.items()}


@rule(*(f"max_pool{dims}d{indices}" for dims in (1, 2, 3) for indices in ("", "_with_indices")))
def _max_pool(call: Call) -> Built:
    x, dims = call.one_data("self"), int(call.name[len("max_pool")])
    window = _window(call, dims, "kernel_size", "stride", "padding", "dilation")
    return MaxPool({**window, "ceil_mode": call["ceil_mode"]}, x.shape, dims), (x,)


@rule("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def _adaptive_max_pool(call: Call) -> Built:
    x, dims = call.one_data("self"), int(call.name[-2])
    return AdaptiveMaxPool({"output_size": call.shape[-dims:]}, x.shape, dims), (x,)


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _avg_pool(call: Call) -> Built:
    """A window divides by its size, padding included or not, but without what ceil_mode adds beyond the padding."""
    x, dims = call.one_data("self"), int(call.name[-2])
    window, windows = _window(call, dims, "kernel_size", "stride", "padding"), {}
    for d, kernel, stride, pad in zip(range(-dims, 0), *window.values(), strict=True):
        begins = np.arange(call.shape[d]) * stride - pad
        ends = np.minimum(begins + kernel, x.shape[d] + pad)
        inside = np.maximum(begins, 0), np.minimum(ends, x.shape[d])
        divisor = ends - begins if call["count_include_pad"] else inside[1] - inside[0]
        if call["divisor_override"]:
            divisor = np.full(len(ends), call["divisor_override"] if d == -1 else 1)
        reach = partial(sliding, x.shape[d], call.shape[d], kernel, stride, pad)
        windows[len(x.shape) + d] = Windows(x.shape[d], *inside, 1 / divisor, reach)
    counting = ("ceil_mode", "count_include_pad", "divisor_override")[: 2 if dims == 1 else 3]
    kind = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[dims - 1]
    return _average(call, "avg pool", windows, partial(kind, **window, **{name: call[name] for name in counting}))


@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d")
def _adaptive_avg_pool(call: Call) -> Built:
    """Output i of n averages from ⌊i s / n⌋ up to ⌈(i + 1) s / n⌉, s the size of x."""
    x, windows = call.one_data("self"), {}
    for d, (size, count) in enumerate(zip(x.shape, call.shape, strict=True)):
        starts, ends = np.arange(count) * size // count, -(-np.arange(1, count + 1) * size // count)
        windows[d] = Windows(size, starts, ends, 1 / (ends - starts), partial(adaptive, size, count))
    dims = int(call.name[-2])
    kind = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dims - 1]
    return _average(call, "adaptive avg pool", windows, partial(kind, call.shape[-dims:]))


def _whole(call: Call, mean: bool) -> dict[int, Windows]:
    """One window over all of each dimension that is summed over."""
    shape, windows = call.one_data("self").shape, {}
    rank = len(shape) + call.leading
    for d in {d % rank - call.leading for d in call["dim"] or range(rank)}:
        if d < 0:
            raise AcrossImages("it sums over the batch dimension: the images are not kept apart")
        ends = np.array([shape[d]])
        windows[d] = Windows(shape[d], 0 * ends, ends, 1 / ends if mean else np.ones(1), partial(whole, shape[d]))
    return windows


@rule("mean")
def _mean(call: Call) -> Built:
    return _average(call, "mean", _whole(call, mean=True))


@rule("sum")
def _sum(call: Call) -> Built:
    return _average(call, "sum", _whole(call, mean=False))
