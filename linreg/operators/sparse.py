"""Sparse matrices by index arithmetic.

Rows are the elements of an operator's output, columns those of an input, both of one image and in C order.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from torch import Tensor

Array = NDArray[Any]


def to_numpy(values: Tensor | float) -> Array:
    """A tensor's values as an array; scipy has no half precision, so that becomes float32."""
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    return (values.float() if values.element_size() < 4 else values).numpy()


def of_image(value: Tensor, image: int, dims: int) -> Tensor:
    """What belongs to one image: a value of more than `dims` dimensions has the batch first (N, or 1 for all)."""
    return value[image if len(value) > 1 else 0] if value.dim() > dims else value


def positions(shape: tuple[int, ...]) -> Array:
    """The place of each element of `shape` in C order."""
    return np.arange(prod(shape)).reshape(shape)


def index_type(*counts: int) -> type:
    """int32 where all of these fit."""
    return np.int32 if max(counts) <= np.iinfo(np.int32).max else np.int64


def selection(source: Array, width: int, values: ArrayLike = 1.0) -> csr_array:
    """Row i holds `values`[i] in column source[i], and nothing where that is negative or the value is 0."""
    source = source.ravel()
    values = np.broadcast_to(np.asarray(values).ravel(), source.shape)
    kept = (source >= 0) & (values != 0)
    index = index_type(width, len(source))
    ends: Array = np.concatenate([[0], np.cumsum(kept)]).astype(index)
    return csr_array((values[kept], source[kept].astype(index), ends), shape=(len(source), width))


def diagonal(values: Tensor) -> csr_array:
    """diag(values): a gate, or a mask (Eqs. 3, 8)."""
    return selection(np.arange(values.numel()), values.numel(), to_numpy(values))


def contraction(values: Array, columns: Array, width: int) -> csr_array:
    """Row i holds values[i, k] in column columns[i, k] for each k, the last dimension; the two broadcast."""
    *rows, entries = np.broadcast_shapes(values.shape, columns.shape)
    count = prod(rows)
    index = index_type(width, count * entries)
    values, columns = np.broadcast_arrays(values, columns.astype(index))
    starts = np.arange(count + 1, dtype=index) * entries
    return csr_array((values.flatten(), columns.flatten(), starts), shape=(count, width))


def degrees_of(matrix: csr_array) -> tuple[int, int]:
    """The most nonzeros of a row, and of a column."""
    rows, columns = np.diff(matrix.indptr), np.bincount(matrix.indices, minlength=1)
    return int(rows.max(initial=0)), int(columns.max(initial=0))
