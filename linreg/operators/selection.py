"""Selections: each output is a copy of one element of the data, the one that a maximum, a rank or a condition picks.

A tie goes to the first: the lower index, or the first of two inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from linreg.errors import LinregError
from linreg.operators.base import Affine, Constant, Operator, Shape, sum_to
from linreg.operators.contest import Contest
from linreg.operators.gates import bounded
from linreg.operators.reach import Follows, Placed, elementwise, identity, moved
from linreg.operators.reasons import AcrossImages
from linreg.operators.rounding import Rounding, most
from linreg.operators.sparse import of_image, positions, selection, to_numpy
from linreg.operators.table import Built, Call, Data, Known, rule

Choice = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Selection(Affine):
    """z_j = x_{i(j)}, i(j) among the last `dims` dimensions of x, whose `shape` is given; z keeps the others of x.

    `index` (N, …, *out) counts within these dimensions, flattened: with all, it may point anywhere in the image.
    """

    index: Tensor
    shape: Shape
    dims: int
    kind = "selection"
    new_value = new_gradients = True

    def linear(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        index = self.index.expand(x.shape[0], *self.index.shape[1:])
        return self._flat(x).gather(-1, self._flat(index)).view(index.shape)

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        result = grad.new_zeros(grad.shape[0], *self.shape)
        self._flat(result).scatter_add_(-1, self._flat(self.index.expand(grad.shape)), self._flat(grad))
        return (result,)

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        kept, plane = self.shape[: len(self.shape) - self.dims], prod(self.shape[len(self.shape) - self.dims :])
        index = to_numpy(self.index[image])
        first = positions((*kept, *[1] * (index.ndim - len(kept)))) * plane
        return (selection(first + index, prod(self.shape)),)

    def rounding(self, *inputs: Tensor) -> Rounding:
        """Moves only; the adjoint adds up the outputs that are copies of one element."""
        chosen = self.adjoint(torch.ones_like(self.linear(*inputs)))
        return Rounding(self.linear, 0, most(chosen) - 1)

    def _flat(self, value: Tensor) -> Tensor:
        """The dimensions that the index counts in as one: (N, *kept, …)."""
        return value.reshape(*value.shape[: 1 + len(self.shape) - self.dims], -1)


@dataclass(frozen=True, eq=False)
class Unpool(Affine):
    """z_{i(j)} = x_j, and 0 elsewhere: the transpose of a `selection`, no element of which was selected twice."""

    selection: Selection
    kind = "unpool"
    new_value = new_gradients = True

    def linear(self, *inputs: Tensor) -> Tensor:
        return self.selection.adjoint(inputs[0])[0]

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        return (self.selection.linear(grad),)

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        (matrix,) = self.selection.sparse(image)
        return (matrix.T.tocsr(),)

    def reach(self, inputs: Sequence[Placed], output: Shape) -> tuple[Follows | None, ...]:
        """As it puts the numbers 1, 2, … of the elements of x, for the first image."""
        (x,) = inputs
        numbers = torch.arange(1, prod(x.shape) + 1, dtype=torch.float64).view(1, *x.shape)
        first = replace(self.selection, index=self.selection.index[:1].cpu())
        (source,) = first.adjoint(numbers)
        return (moved(to_numpy(source[0]).astype(np.int64) - 1, x),)

    def rounding(self, *inputs: Tensor) -> Rounding:
        return Rounding(self.linear, 0, 0)


@dataclass(frozen=True, eq=False)
class Ranked(Operator):
    """z = what `choose` picks among the elements of x along `axes`: a maximum, a minimum, a rank, the k largest.

    `choose` maps rows (…, M) to what it picks of them and to the places of that, both (…, k); `axes` are dimensions of
    one image, and where k > 1 there is one of them.
    """

    choose: Choice
    axes: tuple[int, ...]
    before: Shape
    after: Shape
    kind: str = "selection"

    def freeze(self, *inputs: Tensor) -> Selection:
        (x,) = inputs
        chosen = self.places(self._rows(x))
        places = self._rows(torch.arange(prod(self.before), device=x.device).view(1, *self.before))
        index = places.expand(x.shape[0], *places.shape[1:]).gather(-1, chosen)
        return Selection(self._back(index), self.before, len(self.before))

    def moves(self, *errors: Tensor) -> Tensor:
        """The k-th largest of some numbers moves no more than the one that moves most."""
        widest = self._rows(errors[0]).amax(-1, keepdim=True)
        count = prod(self.after) // max(1, prod(widest.shape[1:]))
        return self._back(widest.expand(*widest.shape[:-1], count))

    def contest(self, output: Shape) -> Contest:
        """One for each row; where k are chosen, it makes k elements of z."""
        places = self._rows(torch.arange(prod(self.before)).view(1, *self.before))
        rows = places.reshape(-1, places.shape[-1])
        numbers = torch.arange(prod(self.after)).view(1, *self.after)
        outputs = numbers.movedim(1 + self.axes[0], -1) if prod(self.after) > len(rows) else numbers
        extreme = EXTREMES.get(self.choose, 0)
        return Contest(rows, outputs.reshape(len(rows), -1), self.places, extreme, prod(self.before))

    def places(self, rows: Tensor) -> Tensor:
        """The places (…, k) of what is chosen of rows (…, M)."""
        return self.choose(rows)[1]

    def reach(self, inputs: Sequence[Placed], output: Shape) -> tuple[Follows | None, ...]:
        """Along the axes all positions come together; the others stay."""
        (x,) = inputs
        dropped = self.axes if len(output) < len(x.shape) else ()
        others = (d for d in x.dims if d not in self.axes)
        return ({d: (d - sum(axis < d for axis in dropped), identity(x.shape[d])) for d in others},)

    def layer(self) -> Callable[..., Tensor]:
        return self.picked

    def picked(self, x: Tensor) -> Tensor:
        """z by torch's own values, which can be captured anew wherever x can: no place is computed with."""
        values, _ = self.choose(self._rows(x))
        return self._back(values)

    def _rows(self, x: Tensor) -> Tensor:
        """x (N, …) with the axes as one, and last."""
        ends = tuple(range(-len(self.axes), 0))
        return x.movedim(tuple(1 + axis for axis in self.axes), ends).flatten(-len(self.axes))

    def _back(self, rows: Tensor) -> Tensor:
        """(N, …, k) as the value of the node: k where its axis was."""
        return rows.movedim(-1, 1 + self.axes[0]).reshape(rows.shape[0], *self.after)


@dataclass(frozen=True, eq=False)
class Where(Affine):
    """z = a where the fixed `condition` holds, b elsewhere; a, b data or constants, all of which may be broadcast.

    `sides` says for each data input whether it is a, `shapes` are theirs and `shape` that of z.
    """

    condition: Tensor
    sides: tuple[bool, ...]
    shapes: tuple[Shape, ...]
    shape: Shape
    constants: tuple[Constant, ...] = ()
    kind = "where"
    new_value = new_gradients = True

    @property
    def shared(self) -> bool:
        return self.condition.dim() <= len(self.shape) or len(self.condition) == 1

    def linear(self, *inputs: Tensor) -> Tensor:
        """`where` itself, which gives no NaN from 0 · ∞."""
        zero = inputs[0].new_zeros(())
        a, b = (dict(zip(self.sides, inputs, strict=True)).get(side, zero) for side in (True, False))
        z = torch.where(self.condition, a, b)
        return z.expand(inputs[0].shape[0], *self.shape)

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        zero = grad.new_zeros(())
        parts = (torch.where(self.condition == side, grad, zero) for side in self.sides)
        return tuple(sum_to(part, (grad.shape[0], *shape)) for part, shape in zip(parts, self.shapes, strict=True))

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        condition = np.broadcast_to(to_numpy(of_image(self.condition, image, len(self.shape))), self.shape)
        return tuple(
            selection(np.where(condition == side, np.broadcast_to(positions(shape), self.shape), -1), prod(shape))
            for side, shape in zip(self.sides, self.shapes, strict=True)
        )

    def reach(self, inputs: Sequence[Placed], output: Shape) -> tuple[Follows | None, ...]:
        return elementwise(inputs, output)

    def rounding(self, *inputs: Tensor) -> Rounding:
        """Moves only; where an input is broadcast, its adjoint adds up the copies."""
        copies = max(prod(self.shape) // max(1, prod(shape)) for shape in self.shapes)
        return Rounding(self.linear, 0, copies - 1)


@dataclass(frozen=True, eq=False)
class Extremum(Operator):
    """z = max(x_1, x_2), or min, element by element; `shapes` are the inputs', which may be broadcast to `shape`."""

    largest: bool
    shapes: tuple[Shape, Shape]
    shape: Shape

    @property
    def kind(self) -> str:
        return "maximum" if self.largest else "minimum"

    def freeze(self, *inputs: Tensor) -> Where:
        a, b = inputs
        return Where(a >= b if self.largest else a <= b, (True, False), self.shapes, self.shape)

    def reach(self, inputs: Sequence[Placed], output: Shape) -> tuple[Follows | None, ...]:
        return elementwise(inputs, output)

    def moves(self, *errors: Tensor) -> Tensor:
        """No more than the larger of the two errors."""
        return torch.maximum(*errors)

    def levels(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The difference of the two."""
        return (inputs[0] - inputs[1],)


# ---- the k-th largest of some ----


def _ranked(call: Call, kind: str, axes: tuple[int, ...], choose: Choice) -> Built:
    """`axes` count the batch dimension, or from the end."""
    x = call.one_data("self")
    total = len(x.shape) + call.leading
    inner = tuple(sorted(axis % total - call.leading for axis in axes)) or tuple(range(len(x.shape)))
    if -1 in inner:
        raise AcrossImages("this call chooses among the images of a batch: give it dimensions other than 0")
    return Ranked(choose, inner, x.shape, call.shape, kind), (x,)


def _largest(rows: Tensor) -> tuple[Tensor, Tensor]:
    values, places = rows.max(-1, keepdim=True)
    return values, places


def _smallest(rows: Tensor) -> tuple[Tensor, Tensor]:
    values, places = rows.min(-1, keepdim=True)
    return values, places


def _ordered(rows: Tensor, descending: bool = False, first: int = 0, end: int | None = None) -> tuple[Tensor, Tensor]:
    """In order of size, from the first to the one before the end; equals in the order of their places."""
    values, places = rows.sort(dim=-1, descending=descending, stable=True)
    return values[..., first:end], places[..., first:end]


def largest_of(count: int) -> Ranked:
    """The largest of so many numbers."""
    return Ranked(_largest, (0,), (count,), (1,), "max")


# The choices that look for the largest or the smallest alone.
EXTREMES: dict[Choice, int] = {_largest: 1, _smallest: -1}


@rule("max.dim", "min.dim", "amax", "amin")
def _extreme(call: Call) -> Built:
    """Over one dimension, or over several at once."""
    dim = call["dim"] if isinstance(call["dim"], list) else [call["dim"]]
    if not dim:
        raise AcrossImages("this call reduces over all dimensions, the images too: name the others in `dim`")
    largest = call.name.endswith("max")
    return _ranked(call, "max" if largest else "min", tuple(dim), _largest if largest else _smallest)


@rule("aminmax")
def _aminmax(call: Call) -> Built:
    if call["dim"] is None:
        raise AcrossImages("this call reduces over all dimensions, the images too: name another in `dim`")
    kind, choose = (("min", _smallest), ("max", _largest))[call.output or 0]
    return _ranked(call, kind, (call["dim"],), choose)


@rule("topk")
def _topk(call: Call) -> Built:
    if not call["sorted"]:
        raise LinregError("topk without order leaves open which output is which: use sorted=True")
    largest_first = partial(_ordered, descending=call["largest"], end=call["k"])
    return _ranked(call, "topk", (call["dim"],), largest_first)


@rule("sort")
def _sort(call: Call) -> Built:
    return _ranked(call, "sort", (call["dim"],), partial(_ordered, descending=call["descending"]))


@rule("kthvalue")
def _kthvalue(call: Call) -> Built:
    return _rank(call, "rank", call["k"] - 1)


@rule("median.dim")
def _median(call: Call) -> Built:
    """The lower of the two in the middle, as torch has it."""
    x = call.one_data("self")
    axis = call["dim"] % (len(x.shape) + call.leading) - call.leading
    return _rank(call, "median", (x.shape[axis] - 1) // 2)


def _rank(call: Call, kind: str, k: int) -> Built:
    """The k-th smallest, from 0."""
    return _ranked(call, kind, (call["dim"],), partial(_ordered, first=k, end=k + 1))


# ---- one of two ----


@rule("maximum", "fmax", "max.other", "minimum", "fmin", "min.other")
def _extremum(call: Call) -> Built:
    """Of two data; with a constant it is a gate."""
    largest, sides = "max" in call.name, [call["self"], call["other"]]
    data = tuple(side for side in sides if isinstance(side, Data))
    if len(data) == 1:
        (bound,) = (call.tensor(side) for side in sides if not isinstance(side, Data))
        return bounded(call, data[0], *((bound, None) if largest else (None, bound)))
    _same_dimensions(call, data)
    return Extremum(largest, (data[0].shape, data[1].shape), call.shape), data


@rule("where")
def _where(call: Call) -> Built:
    return where(call, call["condition"], call["self"], call["other"])


@rule("masked_fill")
def _masked_fill(call: Call) -> Built:
    return where(call, call["mask"], call["value"], call["self"])


def where(call: Call, condition: Any, *sides: Any) -> Built:
    """The first of two where a fixed condition holds, the second elsewhere; each is data, fixed, or a number."""
    if not isinstance(condition, Known):
        raise LinregError("its condition must be a comparison, or be fixed")
    data = tuple(side for side in sides if isinstance(side, Data))
    _same_dimensions(call, data)
    constants = []
    for fixed in (side for side in sides if not isinstance(side, Data)):
        value, zero = call.tensor(fixed), call.like.new_zeros(())
        parts = (value, zero) if fixed is sides[0] else (zero, value)
        constants.append(Constant("constant", torch.where(condition.value, *parts), getattr(fixed, "name", "")))
    kept = tuple(place == 0 for place, side in enumerate(sides) if isinstance(side, Data))
    return Where(condition.value, kept, tuple(x.shape for x in data), call.shape, tuple(constants)), data


@rule("max_unpool2d", "max_unpool3d")
def _unpool(call: Call) -> Built:
    """Of indices that are fixed, or those that a max pool gave."""
    x, index = call.one_data("self"), call["indices"].value
    places = index.flatten(-int(call.name[-2])).sort(-1).values
    if (places[..., 1:] == places[..., :-1]).any():
        why = "max_unpool puts two elements in one place, and which of them stays is not defined"
        raise LinregError(f"{why}: pool over windows that do not overlap")
    return Unpool(Selection(index, call.shape, int(call.name[-2]))), (x,)


def _same_dimensions(call: Call, data: tuple[Data, ...]) -> None:
    if any(len(x.shape) != len(call.shape) for x in data):
        raise LinregError("this call broadcasts over the batch dimension: give its arguments as many dimensions")
