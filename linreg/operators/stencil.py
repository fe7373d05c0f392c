"""The matrix of a convolution, by index arithmetic.

Indices: o output channel, c input channel of its group, p position of the output, k tap of the kernel, d dimension.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from linreg.operators.reach import Reach, sliding
from linreg.operators.sparse import Array, index_type, to_numpy


@dataclass(frozen=True, eq=False)
class Stencil:
    """z[o, p] = Σ_{c, k} W[o, c, k] x[c, s p + δ k − π], zero where that lies outside of x (Eq. 15).

    W is (outputs, channels / groups, *window), x has `shape` (channels, *sizes), z (outputs, *positions); s, δ, π are
    the stride, the dilation and the padding before the first element.
    """

    weight: Tensor
    shape: tuple[int, ...]
    positions: tuple[int, ...]
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int

    def sparse(self) -> csr_array:
        """All output channels of a group share one pattern of columns, and take their values by the same taps."""
        weights = to_numpy(self.weight.flatten(1))
        columns, taps, counts = self._pattern()
        outputs, plane = len(weights), prod(self.shape[1:])
        channels = self.weight.shape[1]
        index = index_type(outputs * len(columns), prod(self.shape))
        values: Array = np.empty((outputs, len(columns)), weights.dtype)
        indices: Array = np.empty((outputs, len(columns)), index)
        for o, group in enumerate(np.repeat(np.arange(self.groups), outputs // self.groups)):
            np.take(weights[o], taps, out=values[o], mode="clip")  # the default mode would buffer
            np.add(columns, group * channels * plane, out=indices[o], casting="unsafe")
        starts: Array = np.zeros(outputs * len(counts) + 1, index)
        np.cumsum(np.tile(counts, outputs), out=starts[1:])
        size = (outputs * len(counts), prod(self.shape))
        return csr_array((values.reshape(-1), indices.reshape(-1), starts), shape=size)

    def degrees(self) -> tuple[int, int]:
        """The most nonzeros of a row, and of a column: products over the dimensions."""
        inside = [(column[kept], kept) for column, kept in map(self._taps, range(len(self.positions)))]
        row = prod(int(kept.sum(1).max(initial=0)) for _, kept in inside)
        column = prod(int(np.bincount(places, minlength=1).max()) for places, _ in inside)
        return self.weight.shape[1] * row, len(self.weight) // self.groups * column

    def reach(self, dims: Iterable[int]) -> dict[int, Reach]:
        """Where z looks along these dimensions of x; along that of the channels it is no window."""
        windows = zip(self.shape[1:], self.positions, self.weight.shape[2:], self.stride, self.padding, self.dilation,
                      strict=True)  # fmt: skip
        sides = dict(enumerate(windows, 1))
        return {d: sliding(*sides[d]) for d in dims if d in sides}

    def _taps(self, d: int) -> tuple[Array, Array]:
        """(p, k): where in x output p finds tap k along dimension d, and whether that is inside."""
        p, k = np.arange(self.positions[d])[:, None], np.arange(self.weight.shape[2 + d])
        place = self.stride[d] * p + self.dilation[d] * k - self.padding[d]
        return place, (place >= 0) & (place < self.shape[1 + d])

    def _pattern(self) -> tuple[Array, Array, Array]:
        """Of one output channel in the first group: its columns, the tap of each, how many each position has."""
        dims = len(self.positions)
        taps = np.arange(self.weight[0].numel(), dtype=np.int32).reshape(self.weight.shape[1:])
        plane = prod(self.shape[1:])
        columns: Array = np.arange(len(taps), dtype=index_type(prod(self.shape))) * plane
        columns = columns.reshape(-1, *[1] * dims)
        kept = np.ones((), bool)
        for d in range(dims):
            place, inside = (a.reshape(_aligned(a.shape, d, dims)) for a in self._taps(d))
            columns = columns + (place * prod(self.shape[2 + d :])).astype(columns.dtype)
            kept = kept & inside
        kept = np.broadcast_to(kept, columns.shape)
        counts = kept.reshape(prod(self.positions), -1).sum(1)
        return columns[kept], np.broadcast_to(taps, columns.shape)[kept], counts


def _aligned(shape: tuple[int, ...], d: int, dims: int) -> list[int]:
    """(p, k) of dimension d in a table of (p_1 … p_D, c, k_1 … k_D)."""
    aligned = [1] * (2 * dims + 1)
    aligned[d], aligned[dims + 1 + d] = shape
    return aligned
