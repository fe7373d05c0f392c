"""The chain rule with matrices: Σ over all paths of the product of the operators' own, and how large that gets.

J = ∂stop/∂start has a row for each element of `stop` and a column for each of `start`, of one image and in C order.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import reduce
from math import prod
from typing import Any, Protocol, Self, TypeVar

from scipy.sparse import csr_array, eye_array

from linreg.graph import Node, OperatorGraph
from linreg.linearization import Linearization
from linreg.operators.sparse import to_numpy


class Factor(Protocol):
    """What a product is made of: matrices, or what is known of them before they are built."""

    def __matmul__(self, other: Self, /) -> Self: ...

    def __add__(self, other: Self, /) -> Self: ...


F = TypeVar("F", bound=Factor)
Factors = Callable[[Node], tuple[F, ...]]  # of a node: one for each of its inputs


def csr(lin: Linearization, stop: str, start: str) -> csr_array:
    """J in CSR, in the graph's dtype (half precision as float32), columns in order."""
    result: Any = product(lin.graph, stop, start, lambda node: blocks(lin, node))
    if result is None:
        return eye_array(prod(lin.graph.shape(stop)), dtype=to_numpy(lin.input[:0]).dtype, format="csr")
    result.sort_indices()
    return result


def blocks(lin: Linearization, node: Node) -> tuple[csr_array, ...]:
    """The matrices of one operator, one for each input, in the dtype of `csr`."""
    dtype = to_numpy(lin.input[:0]).dtype
    return tuple(block.astype(dtype, copy=False) for block in lin.frozen[node.name].sparse())


# ---- how large it gets, before it is built ----


@dataclass(frozen=True)
class Extent:
    """The size of a sparse matrix, multiplied and added in its place.

    At most `row` nonzeros are in a row, `column` in a column, and `held` of them at once on the way to it.
    """

    rows: int
    columns: int
    row: int
    column: int
    held: int = 0

    @property
    def nonzeros(self) -> int:
        """At most so many, by rows or by columns."""
        return min(self.rows * self.row, self.columns * self.column)

    def __matmul__(self, other: Extent) -> Extent:
        row, column = min(self.row * other.row, other.columns), min(self.column * other.column, self.rows)
        return Extent(self.rows, other.columns, row, column)._made_of(self, other)

    def __add__(self, other: Extent) -> Extent:
        row, column = min(self.row + other.row, self.columns), min(self.column + other.column, self.rows)
        return Extent(self.rows, self.columns, row, column)._made_of(self, other)

    def _made_of(self, *parts: Extent) -> Extent:
        together = self.nonzeros + sum(part.nonzeros for part in parts)
        return replace(self, held=max(together, *(part.held for part in parts)))


def extent(lin: Linearization, stop: str, start: str) -> Extent:
    """The extent of what `csr` gives, from the operators' degrees."""

    def extents(node: Node) -> tuple[Extent, ...]:
        widths = (prod(lin.graph.shape(name)) for name in node.inputs)
        degrees = lin.frozen[node.name].degrees()
        return tuple(Extent(prod(node.shape), width, *d) for width, d in zip(widths, degrees, strict=True))

    size = prod(lin.graph.shape(stop))
    result = product(lin.graph, stop, start, extents) or Extent(size, size, 1, 1)
    return replace(result, held=max(result.held, result.nonzeros))


# ---- the product ----


def product(graph: OperatorGraph, stop: str, start: str, factors: Factors[F]) -> F | None:
    """Σ over paths of the product of `factors`, multiplied from the side of fewer rows or columns; None stands for I.

    Raises LinregError for unknown or unconnected nodes.
    """
    nodes = graph.between(stop, start)
    if start == stop:
        return None
    by_rows = prod(graph.shape(stop)) <= prod(graph.shape(start))
    return (_from_the_left if by_rows else _from_the_right)(graph, stop, start, nodes, factors)


def _from_the_left(graph: OperatorGraph, stop: str, start: str, nodes: Iterable[Node], factors: Factors[F]) -> F | None:
    def step(node: Node, left: F | None) -> tuple[F | None, ...]:
        return tuple(_times(left, factor) for factor in factors(node))

    return graph.pull({stop: None}, step, nodes, operator.add)[start]


def _from_the_right(
    graph: OperatorGraph, stop: str, start: str, nodes: Iterable[Node], factors: Factors[F]
) -> F | None:
    on_the_way = {start, *(node.name for node in nodes)}

    def step(node: Node, rights: tuple[F | None, ...]) -> F | None:
        terms = zip(node.inputs, factors(node), rights, strict=True)
        return reduce(operator.add, (_times(factor, right) for name, factor, right in terms if name in on_the_way))

    identity: dict[str, F | None] = {start: None}
    return graph.evaluate(identity, step, nodes, missing=lambda name: None)


def _times(left: F | None, right: F | None) -> F | None:
    if left is None or right is None:
        return right if left is None else left
    return left @ right
