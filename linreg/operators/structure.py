"""What only moves, copies or drops values: the reshape family, slices, windows, concatenation, padding.

All are linear, so each is a line of the table; adjoint and matrix come from their own forward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array, eye_array
from torch import Tensor

from linreg.errors import LinregError
from linreg.operators.base import Affine, Constant, LinearFunction, Role, Shape
from linreg.operators.rounding import Rounding, most
from linreg.operators.sparse import selection, to_numpy
from linreg.operators.table import BATCH, Built, Call, Data, Known, Zeros, rule

RESHAPES = ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "unsqueeze", "squeeze", "squeeze_copy")
MOVES = ("permute", "transpose", "movedim", "swapaxes", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle")
PIECES = (
    "slice",
    "select",
    "split",
    "split_with_sizes",
    "chunk",
    "unbind",
    "narrow",
    "unsafe_chunk",
    "unsafe_split",
)


@dataclass(frozen=True, eq=False)
class Reshape(Affine):
    """z = x with other dimensions: from (N, *before) to (N, *after), in the same order."""

    before: Shape
    after: Shape
    kind = "reshape"
    shared = True

    def linear(self, *inputs: Tensor) -> Tensor:
        return inputs[0].reshape(inputs[0].shape[0], *self.after)

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        return (grad.reshape(grad.shape[0], *self.before),)

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        return (eye_array(prod(self.before), format="csr"),)

    def rounding(self, *inputs: Tensor) -> Rounding:
        return Rounding(self.linear, 0, 0)


@dataclass(frozen=True, eq=False)
class Move(LinearFunction):
    """z_j = x_{i(j)}, or 0: each output is a copy of one element of one of the inputs x_1 … x_K.

    `images` is how many images the function takes, where that is fixed; some moves put their inputs side by side, which
    their `role` says.
    """

    images: int | None = field(kw_only=True, default=None)
    role: Role = field(kw_only=True, default=Role.OTHER)

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        """Where each element came from, as the function itself tells: it is run on 1, 2, … in the place of values."""
        *firsts, _ = accumulate((prod(shape) for shape in self.shapes), initial=1)
        places = [
            torch.arange(first, first + prod(shape), dtype=torch.float64).view(shape).expand(self.images or 1, *shape)
            for first, shape in zip(firsts, self.shapes, strict=True)
        ]
        source = to_numpy(self.function(*places)[0]).astype(np.int64)
        return tuple(
            selection(_within(source - first, prod(shape)), prod(shape))
            for first, shape in zip(firsts, self.shapes, strict=True)
        )

    def rounding(self, *inputs: Tensor) -> Rounding:
        """Moves only; the adjoint adds up the copies of one element."""
        copies = self.adjoint(torch.ones_like(self.linear(*inputs)))
        return Rounding(self.linear, 0, most(copies) - 1)


@dataclass(frozen=True, eq=False)
class Concat(Move):
    """z = [x_1, …, x_K] along dimension `dim`; its adjoint only cuts, where that of its function would copy."""

    dim: int = field(kw_only=True)
    role: Role = field(kw_only=True, default=Role.CONCATENATION)

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        return grad.split([shape[self.dim - 1] for shape in self.shapes], self.dim)


@dataclass(frozen=True, eq=False)
class Border(Move):
    """z = x with zeros around it; its adjoint only cuts. `sides`: before and after, the last dimension's first."""

    sides: tuple[int, ...] = field(kw_only=True)

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        for dim, before in enumerate(self.sides[::2], start=1):
            grad = grad.narrow(-dim, before, self.shapes[0][-dim])
        return (grad,)


def _within(source: np.ndarray, size: int) -> np.ndarray:
    """−1 for what comes from elsewhere."""
    return np.where(source < size, source, -1)


def copied(
    call: Call, kind: str, *terms: str, form: Callable[..., LinearFunction] = Move, constant: str = "constant"
) -> Built:
    """A call that copies the elements of its arguments, or adds them up, as an operator of this `form`.

    Of the arguments named in `terms`, the fixed ones are a constant, the kind of which is `constant`: β holds them, and
    zeros in the place of the data; the linear part has zeros in their place.
    """
    shapes, images = tuple(data.shape for data in call.data), call.images
    if not any(_fixed(call[term]) for term in terms):
        return form(call.evaluate, shapes, kind=kind, images=images), call.data
    linear = replace(call, arguments=call.arguments | {term: _zeroed(call[term]) for term in terms})
    value: Tensor = call.evaluate(*(call.like.new_zeros(images or 1, *shape) for shape in shapes))
    constants = (Constant(constant, value),) if value.any() else ()
    return form(linear.evaluate, shapes, constants, kind, images=images), call.data


def _fixed(argument: Any) -> bool:
    """Whether any of it does not depend on the input."""
    if isinstance(argument, list):
        return any(_fixed(item) for item in argument)
    return not isinstance(argument, Data) and argument is not None


def _zeroed(argument: Any) -> Any:
    if isinstance(argument, list):
        return [_zeroed(item) for item in argument]
    if isinstance(argument, Known):
        return Zeros(tuple(argument.value.shape), argument.each)
    return 0.0 if isinstance(argument, int | float) else argument


def keeps_images(call: Call, *dims: int) -> None:
    """Raise LinregError where a call moves elements along dimension 0."""
    if any(dim % (len(call.data[0].shape) + 1) == 0 for dim in dims):
        raise LinregError("this call mixes the images of a batch: move dimensions other than 0")


@rule(*RESHAPES)
def _reshape(call: Call) -> Built:
    """Each by the shapes that it had in the program, so that a batch of one stays a batch under squeeze()."""
    x = call.one_data("self")
    return Reshape(x.shape, call.shape), (x,)


@rule("expand", "repeat", "tile")
def _expand(call: Call) -> Built:
    return copied(call, "expand")


@rule("copy")
def _copy(call: Call) -> Built:
    """What is copied onto a value, in the shape of that one; `copy` itself has no derivative."""
    arguments = {"self": call["src"], "size": [BATCH, *call.shape]}
    return copied(replace(call, target=torch.ops.aten.expand.default, arguments=arguments), "expand")


@rule("repeat_interleave")
def _repeat(call: Call) -> Built:
    keeps_images(call, call["dim"] or 0)
    call.one_data("self")
    return copied(call, "expand")


@rule(*MOVES)
def _permute(call: Call) -> Built:
    return copied(call, "permute")


@rule(*PIECES)
def _piece(call: Call) -> Built:
    return copied(call, "slice")


@rule("diagonal", "diag_embed", "tril", "triu")
def _diagonal(call: Call) -> Built:
    """Elements on, above or below a diagonal, or zeros with x for their diagonal."""
    keeps_images(call, *(call[name] for name in ("dim1", "dim2") if call.name == "diagonal"))
    return copied(call, "diagonal")


@rule("unfold", "im2col")
def _unfold(call: Call) -> Built:
    """Windows, as a dimension of their own."""
    keeps_images(call, *(call[name] for name in ("dimension",) if call.name == "unfold"))
    return copied(call, "unfold")


@rule("cat", "concat", "stack", "hstack", "dstack", "column_stack")
def _concatenate(call: Call) -> Built:
    """[x_1, …, x_K]; fixed parts (a class token) are constants."""
    parts, dim = call["tensors"], (call["dim"] or 0) % (len(call.shape) + 1)
    if call.name in ("cat", "concat") and dim > 0 and all(isinstance(part, Data) for part in parts):
        shapes = tuple(part.shape for part in parts)
        return Concat(call.evaluate, shapes, kind="concat", images=call.images, dim=dim), call.data
    return copied(call, "concat", "tensors", form=partial(Move, role=Role.CONCATENATION))


@rule("flip", "roll", "rot90", "fliplr")
def _reorder(call: Call) -> Built:
    keeps_images(call, *([1] if call.name == "fliplr" else call["dims"] or [0]))
    return copied(call, "permute")


@rule("pad", "constant_pad_nd")
def _pad(call: Call) -> Built:
    """Zeros, reflections or copies at the border; a constant other than 0 is a line of the ledger."""
    if call["mode"] not in (None, "constant"):
        return copied(call, "pad")
    terms = ("value",) if call["value"] else ()
    sides = tuple(call["pad"])[: 2 * len(call.shape)]  # what is beyond, of the batch, is 0
    form = partial(Border, sides=sides) if min(sides, default=0) >= 0 else Move
    return copied(call, "pad", *terms, form=form, constant="pad")
