"""Explicit matrices of a linear region, the same as operators without matrices, and what is read off them.

J = ∂stop/∂start has a row for each element of `stop` and a column for each of `start`, of one image and in C order:
`labels` says which is which. It is the product of the operators' own matrices along a path, summed over all paths.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from math import prod
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, eye_array
from scipy.sparse.linalg import LinearOperator, svds
from torch import Tensor

from linreg.errors import LinregError
from linreg.graph import Node
from linreg.linearization import LIMIT, Linearization
from linreg.operators.sparse import to_numpy

T = TypeVar("T")
# Elements of the largest value on the way, over all the vectors pushed at once: what a CPU's cache holds, or more.
BATCH = {"cpu": 2**18, "cuda": 2**24}
THIN = 128  # up to so many rows or columns, they are pushed through the operators without a look at their zeros
SPARSE = 0.2  # the share of nonzeros up to which the product of sparse matrices is the faster way to a dense one


def labels(shape: tuple[int, ...]) -> NDArray[np.intp]:
    """(channel, y, x) of each row or column that belongs to a value of `shape`: (elements, dimensions)."""
    return np.indices(shape).reshape(len(shape), prod(shape)).T


def matrix(
    lin: Linearization, stop: str, start: str = "input", format: str = "dense", limit: int = LIMIT
) -> Tensor | csr_array:
    """J as a dense tensor or in CSR: what `Linearization.matrix` gives, and raises."""
    if format not in FORMATS:
        raise LinregError(f"format must be one of {', '.join(map(repr, FORMATS))}, not {format!r}")
    needed = size(lin, stop, start, format)
    if needed.bytes > limit:
        raise LinregError(
            f"the matrix from '{start}' to '{stop}' is {needed}, and the limit is {limit / 2**30:.3g} GiB: use "
            f"lin.operator({stop!r}, {start!r}), which needs none, or ask for a shorter way or with a higher limit="
        )
    return FORMATS[format](lin, stop, start)


# ---- how large ----


@dataclass(frozen=True)
class Size:
    """`rows` × `columns` with at most `nonzeros`; `bytes` of the matrix, and in CSR of the factors it is made of."""

    rows: int
    columns: int
    nonzeros: int
    bytes: int

    def __str__(self) -> str:
        return (
            f"{self.rows:,} × {self.columns:,} with up to {self.nonzeros:,} nonzeros, and takes up to "
            f"{self.bytes / 2**30:.3g} GiB"
        )


def size(lin: Linearization, stop: str, start: str = "input", format: str = "dense") -> Size:
    """The size of J before any of it is built: of CSR, what the largest product on the way and its factors take."""
    _check_one(lin)
    rows, columns = _sizes(lin, stop, start)
    number = lin.input.element_size()
    if format == "dense":
        return Size(rows, columns, rows * columns, rows * columns * number)

    def extents(node: Node) -> tuple[_Extent, ...]:
        widths = (prod(lin.graph.shape(name)) for name in node.inputs)
        degrees = lin.frozen[node.name].degrees()
        return tuple(_Extent(prod(node.shape), w, *d) for w, d in zip(widths, degrees, strict=True))

    extent = _product(lin, stop, start, extents) or _Extent(rows, rows, 1, 1)
    held = max(extent.held, extent.nonzeros)
    index = 4 if held < 2**31 else 8
    return Size(rows, columns, extent.nonzeros, held * (max(number, 4) + index) + (rows + 1) * index)


@dataclass(frozen=True)
class _Extent:
    """The size of a sparse matrix, multiplied and added in its place: at most `row` nonzeros in a row, `column` in a
    column, and `held` of them at once on the way to it."""

    rows: int
    columns: int
    row: int
    column: int
    held: int = 0

    @property
    def nonzeros(self) -> int:
        return min(self.rows * self.row, self.columns * self.column)

    def __matmul__(self, other: _Extent) -> _Extent:
        row, column = min(self.row * other.row, other.columns), min(self.column * other.column, self.rows)
        return _Extent(self.rows, other.columns, row, column)._made_of(self, other)

    def __add__(self, other: _Extent) -> _Extent:
        row, column = min(self.row + other.row, self.columns), min(self.column + other.column, self.rows)
        return _Extent(self.rows, self.columns, row, column)._made_of(self, other)

    def _made_of(self, *parts: _Extent) -> _Extent:
        together = self.nonzeros + sum(part.nonzeros for part in parts)
        return replace(self, held=max(together, *(part.held for part in parts)))


# ---- the product of the operators' own matrices ----


def csr(lin: Linearization, stop: str, start: str) -> csr_array:
    """J in CSR, in the graph's dtype (half precision as float32), columns in order."""
    dtype = to_numpy(lin.input[:0]).dtype

    def blocks(node: Node) -> tuple[csr_array, ...]:
        return tuple(block.astype(dtype, copy=False) for block in lin.frozen[node.name].sparse())

    product = _product(lin, stop, start, blocks)
    if product is None:
        return eye_array(_sizes(lin, stop, start)[0], dtype=dtype, format="csr")
    product.sort_indices()
    return product


def _product(lin: Linearization, stop: str, start: str, blocks: Callable[[Node], tuple[Any, ...]]) -> Any:
    """Σ over paths of the product of `blocks`, multiplied from the side of fewer rows or columns; None stands for I."""
    if start == stop:
        return None
    nodes = lin.graph.between(start, stop)
    if _by_rows(lin, stop, start):
        return lin.graph.pull(
            {stop: None}, lambda node, left: tuple(_times(left, b) for b in blocks(node)), nodes, operator.add
        )[start]
    on_the_way = {start, *(node.name for node in nodes)}

    def step(node: Node, rights: tuple[Any, ...]) -> Any:
        terms = zip(node.inputs, blocks(node), rights, strict=True)
        return reduce(operator.add, (_times(block, right) for name, block, right in terms if name in on_the_way))

    return lin.graph.evaluate({start: None}, step, nodes, missing=lambda name: None)


def _times(left: Any, right: Any) -> Any:
    return right if left is None else left if right is None else left @ right


# ---- vectors pushed through the operators ----


def dense(lin: Linearization, stop: str, start: str) -> Tensor:
    """J as a tensor of the graph's dtype and device.

    Its rows, or columns if these are fewer, are pushed through the operators in batches: dense arithmetic is many
    times as fast as sparse. Only where most of a large matrix is zero is it made by `csr`; a few lines of it tell.
    """
    rows, columns = _sizes(lin, stop, start)
    count = min(rows, columns)
    if count > THIN:
        sample = _lines(lin, stop, start, torch.linspace(0, count - 1, 8).long())
        if sample.count_nonzero() < SPARSE * sample.numel():
            return torch.from_numpy(csr(lin, stop, start).toarray()).to(lin.input)
    result = lin.input.new_empty(rows, columns)
    lines = result if _by_rows(lin, stop, start) else result.T
    for numbers in torch.arange(count).split(_batch(lin, stop, start)):
        lines[numbers[0] : numbers[-1] + 1] = _lines(lin, stop, start, numbers)
    return result


FORMATS: dict[str, Callable[[Linearization, str, str], Tensor | csr_array]] = {"dense": dense, "csr": csr}


def _lines(lin: Linearization, stop: str, start: str, numbers: Tensor) -> Tensor:
    """The rows of J with these numbers, or the columns where there are fewer of them: (numbers, columns or rows)."""
    by_rows = _by_rows(lin, stop, start)
    shape = lin.graph.shape(stop if by_rows else start)
    units = lin.input.new_zeros(len(numbers), prod(shape))
    units[torch.arange(len(numbers)), numbers] = 1
    units, copies = units.view(-1, *shape), _copies(lin, len(numbers))
    lines = copies.adjoint(units, stop, start) if by_rows else copies.forward(units, start, stop)
    return lines.reshape(len(numbers), -1)


def _copies(lin: Linearization, count: int) -> Linearization:
    """The region of one image for `count` vectors at once: its frozen operators broadcast over them."""
    return replace(lin, input=lin.input.expand(count, *lin.input.shape[1:]))


def _batch(lin: Linearization, stop: str, start: str) -> int:
    """How many vectors to push at once; one where the network fixes the number of images."""
    largest = max(prod(lin.graph.shape(name)) for name in (start, *(n.name for n in lin.graph.between(start, stop))))
    return max(1, BATCH.get(lin.input.device.type, 2**18) // largest) if lin.graph.batch is None else 1


class PathOperator(LinearOperator):
    """J without its matrix, for `scipy.sparse.linalg`: each product is one pass through the operators on the way.

    A matrix is taken a batch of columns at a time. All vectors are flattened, one image's, in C order.
    """

    def __init__(self, lin: Linearization, stop: str, start: str = "input") -> None:
        _check_one(lin)
        self.lin, self.stop, self.start = lin, stop, start
        self.batch = _batch(lin, stop, start)
        super().__init__(dtype=to_numpy(lin.input[:0]).dtype, shape=_sizes(lin, stop, start))

    def _matmat(self, X: NDArray[Any]) -> NDArray[Any]:
        shape = self.lin.graph.shape(self.start)
        return self._apply(X, shape, lambda lin, v: lin.forward(v, self.start, self.stop))

    def _rmatmat(self, X: NDArray[Any]) -> NDArray[Any]:
        shape = self.lin.graph.shape(self.stop)
        return self._apply(X, shape, lambda lin, g: lin.adjoint(g, self.stop, self.start))

    def _matvec(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._matmat(x.reshape(-1, 1)).reshape(-1)

    def _rmatvec(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._rmatmat(x.reshape(-1, 1)).reshape(-1)

    def _apply(
        self, X: NDArray[Any], shape: tuple[int, ...], function: Callable[[Linearization, Tensor], Tensor]
    ) -> NDArray[Any]:
        vectors = torch.from_numpy(np.ascontiguousarray(X.T)).to(self.lin.input).view(-1, *shape)
        parts = [
            function(_copies(self.lin, len(part)), part).reshape(len(part), -1) for part in vectors.split(self.batch)
        ]
        return to_numpy(torch.cat(parts)).T


def _check_one(lin: Linearization) -> None:
    if len(lin.input) != 1:
        raise LinregError(
            f"a matrix is of one input, and this linearization holds {len(lin.input)}: linearize one of them, "
            "graph.linearize(x[:1])"
        )


def _sizes(lin: Linearization, stop: str, start: str) -> tuple[int, int]:
    return prod(lin.graph.shape(stop)), prod(lin.graph.shape(start))


def _by_rows(lin: Linearization, stop: str, start: str) -> bool:
    rows, columns = _sizes(lin, stop, start)
    return rows <= columns


# ---- what is read off them ----


def singular_values(
    lin: Linearization, stop: str | None = None, start: str = "input", k: int = 10, seed: int = 0
) -> Tensor:
    """The k largest singular values of J, falling: (k,), or all of them where there are fewer.

    By Lanczos iterations on the operator, from a random vector of this seed; dense where J is thin or all are wanted.
    """
    stop = stop or lin.graph.output
    path = PathOperator(lin, stop, start)
    few = min(path.shape)
    if few <= THIN or k >= few:
        return torch.linalg.svdvals(matrix(lin, stop, start))[:k]
    first = np.random.default_rng(seed).standard_normal(few).astype(path.dtype)
    values = svds(path, k, v0=first, return_singular_vectors=False)
    return torch.from_numpy(np.sort(values)[::-1].copy()).to(lin.input)


def spectral_norm(lin: Linearization, stop: str | None = None, start: str = "input", seed: int = 0) -> float:
    """‖J‖₂, the largest singular value: how far the value of `stop` moves at most for a unit step of `start`."""
    return singular_values(lin, stop, start, 1, seed)[0].item()


def rank(lin: Linearization, stop: str | None = None, start: str = "input") -> int:
    """The rank of J, from its dense matrix: singular values below max(rows, columns) · ε · ‖J‖₂ count as zero."""
    return int(torch.linalg.matrix_rank(matrix(lin, stop or lin.graph.output, start)))


def null_space(lin: Linearization, stop: str | None = None, start: str = "input") -> Tensor:
    """Orthonormal directions of `start` that leave `stop` as it is on this region: (columns − rank, *shape of start).

    From the full singular value decomposition of the dense matrix, columns × columns: for small networks.
    """
    jacobian = matrix(lin, stop or lin.graph.output, start)
    _, values, directions = torch.linalg.svd(jacobian)
    tolerance = max(jacobian.shape) * torch.finfo(values.dtype).eps * values.max()
    return directions[int((values > tolerance).sum()) :].view(-1, *lin.graph.shape(start))
