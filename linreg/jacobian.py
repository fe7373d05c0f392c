"""∂stop/∂start on a linear region as one value: its products, its matrices, and what is read off them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, svds
from torch import Tensor

from linreg import sparse_product
from linreg.errors import LinregError
from linreg.linearization import LIMIT, Linearization
from linreg.operators.sparse import to_numpy

Choice = TypeVar("Choice")
Indices = int | slice | Sequence[int] | Tensor | NDArray[Any]
# Elements of the largest value on the way, over all the vectors pushed at once: what a CPU's cache holds, or more.
BATCH = {"cpu": 2**18, "cuda": 2**24}
THIN = 128  # up to so many rows or columns, they are pushed through the operators without a look at their zeros
SPARSE = 0.2  # the share of nonzeros up to which the product of sparse matrices is the faster way to a dense one


@dataclass(frozen=True)
class Cost:
    """`rows` × `columns` with at most `nonzeros`; `bytes` of the matrix, and in CSR of the factors it is made of."""

    rows: int
    columns: int
    nonzeros: int
    bytes: int

    def __str__(self) -> str:
        return (
            f"{self.rows:,} × {self.columns:,} with up to {self.nonzeros:,} nonzeros, and takes up to "
            f"{_gigabytes(self.bytes)}"
        )


class Labels(NamedTuple):
    """(channel, y, x) of the element behind each row, and behind each column: (elements, dimensions) both."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]


@dataclass(frozen=True)
class Jacobian:
    """J = ∂stop/∂start on a linear region, of one image; nothing is computed before it is asked for.

    It has a row for each element of `stop` and a column for each of `start`, both in C order: `labels` says which is
    which. `J @ v` and `J.T @ g` push vectors through the operators, without a matrix; `dense` and `csr` are the matrix,
    `rows` and `columns` some of it, `aslinearoperator` is J for scipy. Equal are Jacobians of the same two nodes of one
    `Linearization`. Made by `Linearization.jacobian`, and raises LinregError for several inputs at once, and for nodes
    that are unknown or that no path joins.

    >>> import torch, linreg
    >>> network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> x = torch.ones(1, 4)
    >>> lin = linreg.trace(network, x).linearize(x)
    >>> lin.jacobian("0")
    Jacobian of '0' by 'input': 3 × 4, up to 12 nonzeros
    >>> J = lin.jacobian("2", "0")  # W₂ diag(gate), from the first layer to the second
    >>> torch.equal(J.dense(), network[2].weight * (network[0](x) > 0))
    True
    """

    lin: Linearization
    stop: str
    start: str = "input"
    transposed: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if len(self.lin.input) != 1:
            raise LinregError(
                f"a matrix is of one input, and this linearization holds {len(self.lin.input)}: linearize one of them, "
                "graph.linearize(x[:1])"
            )
        self.lin.graph.between(self.stop, self.start)

    def __repr__(self) -> str:
        rows, columns = self.shape
        return f"{self._name}: {rows:,} × {columns:,}, up to {_short(self.cost('csr').nonzeros)} nonzeros"

    @cached_property
    def T(self) -> Jacobian:
        """Jᵀ, with a row for each element of `start`: `J.T @ g` pulls g, shaped like `stop`, back. `J.T.T == J`."""
        return replace(self, transposed=not self.transposed)

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of J v, a number for each row: that of `stop` (of `start` in Jᵀ), for one image."""
        return self.lin.graph.shape(self.start if self.transposed else self.stop)

    @property
    def in_shape(self) -> tuple[int, ...]:
        """Shape of v in J v, a number for each column, and so of a row: that of `start` (of `stop` in Jᵀ)."""
        return self.lin.graph.shape(self.stop if self.transposed else self.start)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return prod(self.out_shape), prod(self.in_shape)

    @property
    def labels(self) -> Labels:
        """Row i belongs to the element `labels.rows[i]` of the value, (channel, y, x) of a picture; so with columns."""
        return Labels(_places(self.out_shape), _places(self.in_shape))

    def cost(self, format: str = "dense") -> Cost:
        """How large J is in a format, "dense" or "csr", before any of it is built: an upper bound.

        In CSR it counts what the largest product on the way and its factors take.
        """
        return choose(format, COSTS)(self)

    # ---- products, without a matrix ----

    def __matmul__(self, v: Tensor) -> Tensor:
        """J v, without a matrix: of one vector, (*in_shape), or of N, (N, *in_shape), batch first as in `forward`.

        So `J @ x` takes an input as the network does, and what it gives, (*out_shape) or (N, *out_shape), is shaped
        like the value at `stop`. (For columns of flattened vectors, as scipy has them, take `aslinearoperator`.)
        Raises LinregError for another shape, dtype or device.
        """
        single = isinstance(v, Tensor) and v.shape == self.in_shape
        if not single:
            self._check_batch(v)
        vectors = v[None] if single else v
        if len(vectors) == 0:
            return vectors.new_empty(0, *self.out_shape)
        result = torch.cat([self._push(part) for part in vectors.split(self._at_once)])
        return result[0] if single else result

    def aslinearoperator(self) -> LinearOperator:
        """J for `scipy.sparse.linalg` (`svds`, norms, solvers): each product is a pass through the operators.

        All vectors are flattened, and several of them are the columns of a matrix, taken a batch at a time.
        """
        times, back = _on_columns(self), _on_columns(self.T)
        dtype = to_numpy(self.lin.input[:0]).dtype
        return LinearOperator(self.shape, matvec=times, rmatvec=back, matmat=times, rmatmat=back, dtype=dtype)

    # ---- rows and columns ----

    def rows(self, indices: Indices, limit: int = LIMIT) -> Tensor:
        """The rows of these numbers (integers, a slice or a mask), each shaped like `start`: (count, *in_shape).

        A row is a pass from `stop` back to `start`; a batch of them is pushed at once. Raises LinregError for numbers
        that J has not, and where the rows would take more than `limit` bytes: `row_chunks` holds a few at a time.
        """
        numbers = self._numbers(indices)
        needed = len(numbers) * self.shape[1] * self.lin.input.element_size()
        if needed > limit:
            raise LinregError(
                f"{self._name}: {len(numbers):,} rows take {_gigabytes(needed)}, and the limit is "
                f"{_gigabytes(limit)}: row_chunks() gives them a few at a time, or ask with a higher limit="
            )
        return torch.cat([rows for _, rows in self.row_chunks(numbers)])

    def columns(self, indices: Indices, limit: int = LIMIT) -> Tensor:
        """The columns of these numbers, each shaped like `stop`: (count, *out_shape); the rows of `J.T`."""
        return self.T.rows(indices, limit)

    def row_chunks(self, indices: Indices = slice(None)) -> Iterator[tuple[Tensor, Tensor]]:
        """The rows of these numbers, by default all, in chunks: (numbers, rows), (count,) and (count, *in_shape).

        A chunk is what is pushed at once, so that a hundred thousand rows need not be held. `J.T.row_chunks` gives
        columns. Raises LinregError for numbers that J has not.
        """
        transpose = self.T
        for numbers in self._numbers(indices).split(self._at_once):
            units = self.lin.input.new_zeros(len(numbers), self.shape[0])
            units[torch.arange(len(numbers), device=numbers.device), numbers] = 1
            yield numbers, transpose @ units.view(-1, *self.out_shape)

    # ---- matrices ----

    def dense(self, limit: int = LIMIT) -> Tensor:
        """J as a matrix, (rows, columns), of the graph's dtype and on its device.

        Its rows, or columns if these are fewer, are pushed through the operators in batches: dense arithmetic is many
        times as fast as sparse. Only where most of a large matrix is zero is it made by `csr`; a few lines of it tell.
        Raises LinregError, before any work, where it would take more than `limit` bytes.
        """
        self._check_limit("dense", limit)
        if self._mostly_zero():
            return torch.from_numpy(self._csr().toarray()).to(self.lin.input)
        result = self.lin.input.new_empty(self.shape)
        lines = result if self._shorter is self else result.T
        for numbers, chunk in self._shorter.row_chunks():
            lines[numbers[0] : numbers[-1] + 1] = chunk.reshape(len(numbers), -1)
        return result

    def csr(self, limit: int = LIMIT) -> csr_array:
        """J as a sparse matrix of scipy, in the graph's dtype (half precision as float32), columns in order.

        It is the product of the operators' own matrices along a path, summed over all paths. Raises LinregError, before
        any work, where it and what it is made of would take more than `limit` bytes, by `cost`.
        """
        self._check_limit("csr", limit)
        return self._csr()

    # ---- what is read off them ----

    def singular_values(self, k: int = 10, seed: int = 0) -> Tensor:
        """The k largest singular values of J, falling: (k,), or all of them where there are fewer.

        By Lanczos iterations on the operator, from a random vector of this seed; dense where J is thin or all are
        wanted. (Half precision is read in float32, here and below.)
        """
        if k < 1:
            raise LinregError(f"k must be at least 1, not {k}")
        few = min(self.shape)
        if few <= THIN or k >= few:
            return torch.linalg.svdvals(_precise(self.dense()))[:k]
        operator = self.aslinearoperator()
        first = np.random.default_rng(seed).standard_normal(few).astype(operator.dtype)
        values = svds(operator, k, v0=first, return_singular_vectors=False)
        return _precise(torch.from_numpy(np.sort(values)[::-1].copy()).to(self.lin.input))

    def norm(self, order: int | str = 2, seed: int = 0) -> float:
        """‖J‖₂, the largest singular value: how far the value of `stop` moves at most for a unit step of `start`.

        `order` "fro" is the root of the sum of squares, by all rows or columns, a chunk at a time, without a matrix.
        """
        if order == 2:
            return self.singular_values(1, seed)[0].item()
        if order == "fro":
            squares = (chunk.double().square().sum().item() for _, chunk in self._shorter.row_chunks())
            return float(sum(squares) ** 0.5)
        raise LinregError(f"order must be 2 or 'fro', not {order!r}")

    def rank(self, limit: int = LIMIT) -> int:
        """The rank of J, from its dense matrix: singular values below max(rows, columns) · ε · ‖J‖₂ count as zero."""
        return int(torch.linalg.matrix_rank(_precise(self.dense(limit))))

    def null_space(self, limit: int = LIMIT) -> Tensor:
        """Orthonormal directions of `start` that leave `stop` as it is on this region: (columns − rank, *in_shape).

        From the singular value decomposition of the dense matrix, all columns × columns of it: for small networks.
        Raises LinregError where these take more than `limit` bytes. `J.T.null_space()` are directions of `stop` that
        no step of `start` moves.
        """
        rows, columns = self.shape
        needed = columns**2 * max(self.lin.input.element_size(), 4)
        if needed > limit:
            raise LinregError(
                f"{self._name}: its null space is read off {columns:,} × {columns:,} numbers, which take "
                f"{_gigabytes(needed)}, and the limit is {_gigabytes(limit)}"
            )
        _, values, directions = torch.linalg.svd(_precise(self.dense(limit)), full_matrices=rows < columns)
        tolerance = max(self.shape) * torch.finfo(values.dtype).eps * values.max()
        return directions[int((values > tolerance).sum()) :].view(-1, *self.in_shape)

    # ---- within ----

    @property
    def _name(self) -> str:
        return f"{'Transposed ' * self.transposed}Jacobian of '{self.stop}' by '{self.start}'"

    @cached_property
    def _shorter(self) -> Jacobian:
        """J or Jᵀ, whichever has fewer rows."""
        rows, columns = self.shape
        return self if rows <= columns else self.T

    @cached_property
    def _at_once(self) -> int:
        """How many vectors to push at once; one where the network fixes the number of images."""
        graph = self.lin.graph
        if graph.batch is not None:
            return 1
        names = (self.start, *(node.name for node in graph.between(self.stop, self.start)))
        largest = max(prod(graph.shape(name)) for name in names)
        return max(1, BATCH.get(self.lin.input.device.type, BATCH["cpu"]) // largest)

    def _push(self, v: Tensor) -> Tensor:
        # The frozen operators of one image broadcast over all the vectors.
        lin = replace(self.lin, input=self.lin.input.expand(len(v), *self.lin.input.shape[1:]))
        return lin.adjoint(v, self.stop, self.start) if self.transposed else lin.forward(v, self.stop, self.start)

    def _csr(self) -> csr_array:
        product = sparse_product.csr(self.lin, self.stop, self.start)
        return product.T.tocsr() if self.transposed else product

    def _mostly_zero(self) -> bool:
        count = min(self.shape)
        if count <= THIN:
            return False
        sample = self._shorter.rows(torch.linspace(0, count - 1, 8, device="cpu").long())
        return bool(sample.count_nonzero() < SPARSE * sample.numel())

    def _numbers(self, indices: Indices) -> Tensor:
        """Row numbers from 0, (count,), of all that numpy takes for an index of one dimension."""
        rows = self.shape[0]
        chosen: Any = list(indices) if isinstance(indices, Sequence) else indices
        chosen = chosen.numpy(force=True) if isinstance(chosen, Tensor) else chosen
        try:
            numbers = np.arange(rows)[chosen]
        except (IndexError, ValueError) as error:
            raise LinregError(f"{self._name} has rows 0 to {rows - 1:,}: {error}") from None
        return torch.from_numpy(np.array(numbers).reshape(-1))

    def _check_batch(self, v: Tensor) -> None:
        here = self.stop if self.transposed else self.start
        if not isinstance(v, Tensor):
            raise LinregError(f"a vector at '{here}' must be a torch.Tensor, not {type(v).__name__}")
        if v.shape[1:] != self.in_shape:
            several = ", ".join(map(str, ("N", *self.in_shape)))
            raise LinregError(
                f"a vector at '{here}' must have shape {self.in_shape}, and several of them ({several}), not "
                f"{tuple(v.shape)}: flat ones become such by v.view(-1, *J.in_shape)"
            )

    def _check_limit(self, format: str, limit: int) -> None:
        needed = self.cost(format)
        if needed.bytes > limit:
            raise LinregError(
                f"the matrix from '{self.start}' to '{self.stop}' is {needed}, and the limit is {_gigabytes(limit)}: "
                f"use lin.operator({self.stop!r}, {self.start!r}), which needs none, or ask for a shorter way or with "
                "a higher limit="
            )


def choose(format: str, choices: Mapping[str, Choice]) -> Choice:
    """What belongs to a format. Raises LinregError for a format that is none of them."""
    if format not in choices:
        raise LinregError(f"format must be one of {', '.join(map(repr, choices))}, not {format!r}")
    return choices[format]


def _dense_cost(jacobian: Jacobian) -> Cost:
    rows, columns = jacobian.shape
    return Cost(rows, columns, rows * columns, rows * columns * jacobian.lin.input.element_size())


def _csr_cost(jacobian: Jacobian) -> Cost:
    extent = sparse_product.extent(jacobian.lin, jacobian.stop, jacobian.start)
    # The transpose is made of the whole product: both are there at once.
    held = max(extent.held, 2 * extent.nonzeros) if jacobian.transposed else extent.held
    index = 4 if held < 2**31 else 8
    rows, columns = jacobian.shape
    numbers = max(jacobian.lin.input.element_size(), 4)
    return Cost(rows, columns, extent.nonzeros, held * (numbers + index) + (rows + 1) * index)


COSTS: dict[str, Callable[[Jacobian], Cost]] = {"dense": _dense_cost, "csr": _csr_cost}


def _on_columns(jacobian: Jacobian) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """J on one flattened vector, or on the columns of a matrix."""

    def times(columns: NDArray[Any]) -> NDArray[Any]:
        vectors = torch.from_numpy(np.ascontiguousarray(columns.T)).to(jacobian.lin.input)
        result = jacobian @ vectors.view(-1, *jacobian.in_shape)
        return to_numpy(result.reshape(len(result), jacobian.shape[0])).T

    return times


def _places(shape: tuple[int, ...]) -> NDArray[np.intp]:
    """The place of each element of a value, in C order: (elements, dimensions)."""
    return np.indices(shape).reshape(len(shape), prod(shape)).T


def _precise(values: Tensor) -> Tensor:
    """Decompositions know no half precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _gigabytes(count: int) -> str:
    return f"{count / 2**30:.3g} GiB"


def _short(count: int) -> str:
    """29.5 M of 29,491,200; small numbers in full."""
    for unit, size in (("G", 10**9), ("M", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:,}"
