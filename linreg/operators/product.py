"""Products with a fixed tensor: matrix products and einsum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from string import ascii_letters

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from linreg.errors import LinregError
from linreg.operators.arithmetic import Total, weighted
from linreg.operators.base import Constant, LinearFunction, Role, Shape
from linreg.operators.linear import Linear, Scale
from linreg.operators.reach import Follows, Placed, identity
from linreg.operators.reasons import PRODUCT, AcrossImages
from linreg.operators.rounding import Rounding
from linreg.operators.sparse import Array, contraction, of_image, positions, to_numpy
from linreg.operators.table import Built, Call, Data, Known, rule


@dataclass(frozen=True, eq=False)
class Contraction(LinearFunction):
    """z = Σ x w over the dimensions that z lacks, as in einsum, with w fixed, or one for each image, (N, …).

    `letters` name the dimensions of x, w and z, without the batch: ("ik", "km", "im") is the product x W.
    """

    weight: Tensor = field(kw_only=True)
    letters: tuple[str, str, str] = field(kw_only=True)
    kind: str = "matmul"
    role = Role.WEIGHTS
    new_value = new_gradients = True

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        """Row z, and in it one entry for each place along the dimensions that are summed over."""
        x, w, _ = self.letters
        columns = self._table(x, positions(self.shapes[0]))
        values = self._table(w, to_numpy(of_image(self.weight, image, len(w))))
        values, columns = np.broadcast_arrays(values, columns)
        return (contraction(values, columns, prod(self.shapes[0])),)

    def degrees(self) -> tuple[tuple[int, int], ...]:
        x, _, z = self.letters
        summed = prod(self._sizes[c] for c in set(x) - set(z))
        different = dict(zip(x, self.shapes[0], strict=True))  # a letter that comes twice stands for a diagonal
        return ((summed, summed * prod(self._sizes[c] for c in z) // prod(different.values())),)

    def rounding(self, *inputs: Tensor) -> Rounding:
        absolute = partial(_contract, self.equation, self.weight.abs())
        return Rounding(absolute, *self.degrees()[0])

    def reach(self, inputs: Sequence[Placed], output: Shape) -> tuple[Follows | None, ...]:
        """Along a dimension that is summed over all positions come together; the others stay, in their place in z."""
        (x,), (own, _, result) = inputs, self.letters
        places = {d: result.index(own[d]) for d in x.dims if own[d] in result}
        return ({d: (e if x.shape[d] == output[e] else None, identity(x.shape[d])) for d, e in places.items()},)

    @property
    def equation(self) -> str:
        """That of einsum for x and w, batch included."""
        return _equation(self.letters, self.weight)

    @property
    def _sizes(self) -> dict[str, int]:
        x, w, _ = self.letters
        sizes: dict[str, int] = {}
        for c, size in zip(x + w, (*self.shapes[0], *self.weight.shape[self.weight.dim() - len(w) :]), strict=True):
            sizes[c] = max(sizes.get(c, 1), size)
        return sizes

    def _table(self, letters: str, values: Array) -> Array:
        """Values of these dimensions in a table of (dimensions of z, all that is summed over)."""
        x, _, z = self.letters
        summed = "".join(dict.fromkeys(c for c in x if c not in z))
        own = "".join(c for c in z + summed if c in letters)
        values = np.einsum(f"{letters}->{own}", values)
        values = values[tuple(slice(None) if c in own else None for c in z + summed)]
        sizes = self._sizes
        spread = np.broadcast_to(values, (*values.shape[: len(z)], *(sizes[c] for c in summed)))
        return spread.reshape(*values.shape[: len(z)], -1)


def _equation(letters: tuple[str, str, str], weight: Tensor) -> str:
    x, w, z = letters
    n = next(c for c in ascii_letters if c not in x + w + z)
    return f"{n}{x},{n * (weight.dim() > len(w))}{w}->{n}{z}"


def _contract(equation: str, weight: Tensor, x: Tensor) -> Tensor:
    return torch.einsum(equation, x, weight)


def _contraction(
    call: Call,
    x: Data,
    weight: Tensor,
    letters: tuple[str, str, str],
    function: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Contraction, tuple[Data]]:
    """The contraction of x, (N, …), with a weight: the letters are those of einsum, the batch first in x and z."""
    own, fixed, result = letters
    if call.lifted:
        n = next(c for c in ascii_letters if c not in own + fixed + result)
        own, result = n + own, n + result
    n = own[0]
    if result[:1] != n or n in own[1:]:
        raise AcrossImages("it sums over the batch dimension: the images are not kept apart (write it as x @ W)")
    if n in fixed:
        weight, fixed = weight.movedim(fixed.index(n), 0), fixed.replace(n, "")
    rest = (own[1:], fixed, result[1:])
    if function is None or call.lifted:
        function = partial(_contract, _equation(rest, weight), weight)
    return Contraction(function, (x.shape,), weight=weight, letters=rest), (x,)


def _operands(call: Call, *names: str) -> tuple[Data, Tensor, list[int]]:
    """The one data operand of two, the fixed one, and their dimensions, in the order of the call."""
    x, fixed = sorted((call[name] for name in names), key=lambda argument: not isinstance(argument, Data))
    if not isinstance(x, Data) or isinstance(fixed, Data):
        raise LinregError(str(PRODUCT))
    arguments = (call[name] for name in names)
    ranks = [len(a.shape) + call.leading if isinstance(a, Data) else a.value.dim() for a in arguments]
    return x, call.tensor(fixed), ranks


def _product(call: Call, first: str, second: str, alpha: float | None = None) -> tuple[Contraction, tuple[Data]]:
    """α a b for matrices a and b, as `matmul` takes them: one of them fixed."""
    x, fixed, (rows, columns) = _operands(call, first, second)
    batch = "abcdefgh"[: max(rows, columns, 2) - 2]
    left = batch[len(batch) - max(rows - 2, 0) :] + "i" * (rows > 1) + "k"
    right = batch[len(batch) - max(columns - 2, 0) :] + "k" + "m" * (columns > 1)
    result = batch + "i" * (rows > 1) + "m" * (columns > 1)
    own, other = (left, right) if isinstance(call[first], Data) else (right, left)
    if own[0] != result[:1] and not call.lifted:
        raise AcrossImages("it sums over the batch dimension: multiply from the right, x @ W")
    if alpha is None:
        return _contraction(call, x, fixed, (own, other, result), call.evaluate)
    return _contraction(call, x, fixed * alpha, (own, other, result))


FACTORS = {"mv": "vec", "mm": "mat2", "bmm": "mat2", "matmul": "other"}


@rule(*FACTORS)
def _matmul(call: Call) -> Built:
    """x W or W x with W fixed; two data factors are a product and are refused."""
    return _product(call, "self", FACTORS[call.name])


@rule("addmm", "addmv", "baddbmm")
def _plus_product(call: Call) -> Built:
    """β c + α a b; with c fixed and a row, addmm is a linear layer, as exported from older ones."""
    names = {"addmm": ("mat1", "mat2"), "addmv": ("mat", "vec"), "baddbmm": ("batch1", "batch2")}[call.name]
    summand, beta = call["self"], call["beta"]
    if not any(isinstance(call[name], Data) for name in names):
        fixed = replace(call, arguments=call.arguments | {"self": Known("", call.like.new_zeros(()))}).evaluate()
        return weighted(call, (beta, summand), (1, Known("", fixed)))
    product, (x,) = _product(call, *names, call["alpha"])
    if isinstance(summand, Data):
        shift = Scale(call.like.new_tensor(beta).expand(call.shape), summand.shape)
        return Total((shift, product)), (summand, x)
    bias = Constant("bias", summand.value * beta, summand.name)
    if call.name == "addmm" and summand.value.numel() in (1, *call.shape) and isinstance(call["mat1"], Data):
        bias = replace(bias, value=bias.value.flatten().expand(call.shape))
        return Linear(product.weight.t(), (bias,), prod(x.shape[:-1])), (x,)
    return replace(product, constants=(bias,)), (x,)


@rule("einsum")
def _einsum(call: Call) -> Built:
    """One operand depends on the input; the others are multiplied out beforehand, with what z and x do not name."""
    operands = call["tensors"]
    place = next(i for i, operand in enumerate(operands) if isinstance(operand, Data))
    if len(call.data) > 1:
        raise LinregError(str(PRODUCT))
    x: Data = operands[place]
    ranks = [len(x.shape) + call.leading if i == place else operand.value.dim() for i, operand in enumerate(operands)]
    terms, result = _terms(call["equation"], ranks)
    own, fixed = terms.pop(place), [call.tensor(operand) for i, operand in enumerate(operands) if i != place]
    letters = "".join(c for c in dict.fromkeys("".join(terms)) if c in own + result)
    weight = torch.einsum(f"{','.join(terms)}->{letters}", *fixed) if fixed else call.like.new_ones(())
    return _contraction(call, x, weight, (own, letters, result))


def _terms(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """The letters of each operand and of the result, "..." and a result that is not given written out."""
    left, arrow, result = equation.replace(" ", "").partition("->")
    free = "".join(c for c in ascii_letters if c not in equation)
    terms, widest = [], ""
    for term, rank in zip(left.split(","), ranks, strict=True):
        hidden = free[:8][8 - (rank - len(term.replace(".", ""))) :] if "." in term else ""
        widest = max(widest, hidden, key=len)
        terms.append(term.replace("...", hidden))
    given = left.replace(".", "").replace(",", "")
    implied = "..." + "".join(sorted(c for c in given if given.count(c) == 1))
    return terms, (result if arrow else implied).replace("...", widest)


@rule("tensordot", "inner")
def _tensordot(call: Call) -> Built:
    """The sum over pairs of dimensions, one of x and one of a fixed tensor."""
    x, fixed, ranks = _operands(call, "self", "other")
    pairs = zip(call["dims_self"] or [-1], call["dims_other"] or [-1], strict=True)
    first, second = list(ascii_letters[: ranks[0]]), list(ascii_letters[::-1][: ranks[1]])
    for i, j in pairs:
        second[j] = first[i]
    result = "".join(c for c in first + second if (c in first) != (c in second))
    own, other = (first, second) if isinstance(call["self"], Data) else (second, first)
    return _contraction(call, x, fixed, ("".join(own), "".join(other), result))


@rule("linalg_vecdot")
def _vecdot(call: Call) -> Built:
    """Σ x w along one dimension; the others broadcast."""
    x, fixed, ranks = _operands(call, "x", "y")
    letters = ascii_letters[: max(ranks)]
    own, other = (letters[max(ranks) - rank :] for rank in (len(x.shape) + call.leading, fixed.dim()))
    return _contraction(call, x, fixed, (own, other, letters.replace(letters[call["dim"]], "")))
