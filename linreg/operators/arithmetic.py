"""Sums of data and of constants, and multiplication by constants."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import prod

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from linreg.errors import LinregError
from linreg.operators.base import Affine, Constant, Role, Shape, sum_to
from linreg.operators.linear import Scale
from linreg.operators.reach import Follows, Placed, elementwise
from linreg.operators.reasons import PRODUCT, QUOTIENT, STEP
from linreg.operators.rounding import Rounding
from linreg.operators.sparse import positions, selection
from linreg.operators.table import Built, Call, Data, Known, rule


@dataclass(frozen=True, eq=False)
class Sum(Affine):
    """z = Σ_k a_k x_k + β: a residual sum where K > 1 (Sec. 3.4). `shapes` are the inputs', `shape` that of z."""

    coefficients: tuple[float, ...]
    shapes: tuple[Shape, ...]
    shape: Shape
    constants: tuple[Constant, ...] = ()
    shared = True

    @property
    def kind(self) -> str:
        return "add" if len(self.shapes) > 1 else "negate" if self.coefficients[0] == -1 else "shift"

    @property
    def role(self) -> Role:
        return Role.SUM if len(self.shapes) > 1 else Role.SCALE

    @property
    def new_value(self) -> bool:
        return len(self.shapes) > 1 or self.coefficients != (1,) or super().new_value

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

    def reach(self, inputs: Sequence[Placed], output: Shape) -> tuple[Follows | None, ...]:
        return elementwise(inputs, output)

    def rounding(self, *inputs: Tensor) -> Rounding:
        """One product and K − 1 additions; where an input is broadcast, its adjoint adds up the copies."""
        copies = max(prod(self.shape) // prod(shape) for shape in self.shapes)
        absolute = replace(self, coefficients=tuple(abs(a) for a in self.coefficients))
        return Rounding(absolute.linear, len(inputs), copies)


@dataclass(frozen=True, eq=False)
class Total(Affine):
    """z = Σ_k A_k x_k + β: affine operators of one input each, without constants of their own, added up."""

    parts: tuple[Affine, ...]
    constants: tuple[Constant, ...] = ()
    kind = "add"

    @property
    def role(self) -> Role:
        return Role.SUM if len(self.parts) > 1 else self.parts[0].role

    @property
    def new_value(self) -> bool:
        return len(self.parts) > 1 or self.parts[0].new_value or super().new_value

    @property
    def new_gradients(self) -> bool:
        return all(part.new_gradients for part in self.parts)

    @property
    def shared(self) -> bool:
        return all(part.shared for part in self.parts)

    def linear(self, *inputs: Tensor) -> Tensor:
        return reduce(operator.add, (part.linear(x) for part, x in zip(self.parts, inputs, strict=True)))

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.adjoint(grad)[0] for part in self.parts)

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        return tuple(part.sparse(image)[0] for part in self.parts)

    def reach(self, inputs: Sequence[Placed], output: Shape) -> tuple[Follows | None, ...]:
        return tuple(part.reach((x,), output)[0] for part, x in zip(self.parts, inputs, strict=True))

    def degrees(self) -> tuple[tuple[int, int], ...]:
        return tuple(part.degrees()[0] for part in self.parts)

    def rounding(self, *inputs: Tensor) -> Rounding:
        """Those of each part, and K − 1 additions."""
        own = [part.rounding(x) for part, x in zip(self.parts, inputs, strict=True)]
        forward, backward = max(r.forward for r in own) + len(own) - 1, max(r.backward for r in own)

        def absolute(*xs: Tensor) -> Tensor:
            return reduce(operator.add, (r.absolute(x) for r, x in zip(own, xs, strict=True)))

        return Rounding(absolute, forward, backward)


def weighted(call: Call, *terms: tuple[Tensor | float, Data | Known | float]) -> Built:
    """Σ a_i ⊙ term_i with fixed a_i, numbers or tensors."""
    data = [(call.like.new_tensor(a) if isinstance(a, int | float) else a, x) for a, x in terms if isinstance(x, Data)]
    if any(len(x.shape) != len(call.shape) for _, x in data):
        raise LinregError("this call broadcasts over the batch dimension: give all terms as many dimensions")
    constants = tuple(
        Constant("constant", a * call.tensor(term), term.name if isinstance(term, Known) else "")
        for a, term in terms
        if not isinstance(term, Data)
    )
    spread = [a.expand(*a.shape[: max(0, a.dim() - len(call.shape))], *call.shape) for a, _ in data]
    parts = tuple(Scale(a, x.shape) for a, (_, x) in zip(spread, data, strict=True))
    return Total(parts, constants), tuple(x for _, x in data)


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


@rule("sub", "subtract")
def _sub(call: Call) -> Built:
    return _sum(call, (1, call["self"]), (-call["alpha"], call["other"]))


@rule("rsub")
def _rsub(call: Call) -> Built:
    return _sum(call, (-call["alpha"], call["self"]), (1, call["other"]))


@rule("neg", "negative")
def _neg(call: Call) -> Built:
    return _sum(call, (-1, call["self"]))


@rule("mul", "multiply")
def _mul(call: Call) -> Built:
    """a ⊙ x with a fixed; two data factors are a product and are refused."""
    x, factor = (call["self"], call["other"]) if isinstance(call["self"], Data) else (call["other"], call["self"])
    if isinstance(factor, Data):
        raise LinregError(str(PRODUCT))
    return Scale(call.tensor(factor), x.shape), (x,)


@rule("div", "divide", "true_divide")
def _div(call: Call) -> Built:
    if isinstance(call["other"], Data):
        raise LinregError(str(QUOTIENT))
    if call["rounding_mode"] is not None:
        raise LinregError(str(STEP))
    return Scale(call.tensor(call["other"]).reciprocal(), call["self"].shape), (call["self"],)


@rule("lerp")
def _lerp(call: Call) -> Built:
    """(1 − w) a + w b."""
    weight = call["weight"]
    if isinstance(weight, Data):
        raise LinregError(str(PRODUCT))
    if not isinstance(weight, Known):
        return _sum(call, (1 - weight, call["self"]), (weight, call["end"]))
    return weighted(call, (1 - call.tensor(weight), call["self"]), (call.tensor(weight), call["end"]))


@rule("addcmul")
def _addcmul(call: Call) -> Built:
    """x + v a b with a or b fixed."""
    x, factor = call["tensor1"], call["tensor2"]
    if isinstance(factor, Data):
        x, factor = factor, x
    if isinstance(factor, Data):
        raise LinregError(str(PRODUCT))
    return weighted(call, (1, call["self"]), (call["value"] * call.tensor(factor), x))


@rule("addcdiv")
def _addcdiv(call: Call) -> Built:
    """x + v a / b with b fixed."""
    if isinstance(call["tensor2"], Data):
        raise LinregError(str(QUOTIENT))
    return weighted(call, (1, call["self"]), (call["value"] / call.tensor(call["tensor2"]), call["tensor1"]))
