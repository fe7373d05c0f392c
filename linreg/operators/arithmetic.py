"""Sums of data and of constants, and multiplication by constants."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from linreg.errors import LinregError
from linreg.operators.base import Affine, Constant, Shape, sum_to
from linreg.operators.linear import Scale
from linreg.operators.sparse import positions, selection
from linreg.operators.table import Built, Call, Data, Known, rule
from linreg.rounding import Rounding


@dataclass(frozen=True, eq=False)
class Sum(Affine):
    """z = Σ_k a_k x_k + β: a residual sum where K > 1 (Sec. 3.4). `shapes` are the inputs', `shape` that of z."""

    coefficients: tuple[float, ...]
    shapes: tuple[Shape, ...]
    shape: Shape
    constants: tuple[Constant, ...] = ()

    @property
    def kind(self) -> str:
        return "add" if len(self.shapes) > 1 else "negate" if self.coefficients[0] == -1 else "shift"

    def linear(self, *inputs: Tensor) -> Tensor:
        total: Tensor | None = None
        for a, x in zip(self.coefficients, inputs, strict=True):
            term = x if a == 1 else a * x
            total = term if total is None else total + term
        assert total is not None
        return total.expand(total.shape[0], *self.shape)

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            sum_to(grad if a == 1 else a * grad, (grad.shape[0], *shape))
            for a, shape in zip(self.coefficients, self.shapes, strict=True)
        )

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        """a_k I for each k, its rows repeated where x_k is broadcast."""
        return tuple(
            selection(np.broadcast_to(positions(shape), self.shape), prod(shape), float(a))
            for a, shape in zip(self.coefficients, self.shapes, strict=True)
        )

    def rounding(self, *inputs: Tensor) -> Rounding:
        """One product and K − 1 additions; where an input is broadcast, its adjoint adds up the copies."""
        copies = max(prod(self.shape) // prod(shape) for shape in self.shapes)
        absolute = replace(self, coefficients=tuple(abs(a) for a in self.coefficients))
        return Rounding(absolute.linear, len(inputs), copies)


def _sum(call: Call, *terms: tuple[float, Data | Known | float]) -> Built:
    """Σ a_i · term_i, with the data terms apart from the constants."""
    data = [(a, term) for a, term in terms if isinstance(term, Data)]
    if any(len(term.shape) != len(call.shape) for _, term in data):
        raise LinregError("this call broadcasts over the batch dimension: give both terms as many dimensions")
    constants = tuple(
        Constant("constant", a * call.tensor(term), term.name if isinstance(term, Known) else "")
        for a, term in terms
        if not isinstance(term, Data)
    )
    operator = Sum(tuple(a for a, _ in data), tuple(x.shape for _, x in data), call.shape, constants)
    return operator, tuple(x for _, x in data)


@rule("add")
def _add(call: Call) -> Built:
    return _sum(call, (1, call["self"]), (call["alpha"], call["other"]))


@rule("sub")
def _sub(call: Call) -> Built:
    return _sum(call, (1, call["self"]), (-call["alpha"], call["other"]))


@rule("rsub")
def _rsub(call: Call) -> Built:
    return _sum(call, (-call["alpha"], call["self"]), (1, call["other"]))


@rule("neg")
def _neg(call: Call) -> Built:
    return _sum(call, (-1, call["self"]))


@rule("mul")
def _mul(call: Call) -> Built:
    """a ⊙ x with a fixed; two data factors are a product and are refused."""
    x, factor = (call["self"], call["other"]) if isinstance(call["self"], Data) else (call["other"], call["self"])
    if isinstance(factor, Data):
        raise LinregError("the product of two values that both depend on the input is not piecewise linear")
    return Scale(call.tensor(factor), x.shape), (x,)


@rule("div")
def _div(call: Call) -> Built:
    if isinstance(call["other"], Data):
        raise LinregError("division by a value that depends on the input is not piecewise linear")
    if call["rounding_mode"] is not None:
        raise LinregError("division with rounding is a step function: its slope is 0 and its steps are not continuous")
    return Scale(call.tensor(call["other"]).reciprocal(), call["self"].shape), (call["self"],)
