"""What only moves, copies or drops values: the reshape family, slices, concatenation, padding.

All are linear, so each is a line of the table; adjoint and matrix come from their own forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod

import numpy as np
import torch
from scipy.sparse import csr_array, eye_array
from torch import Tensor

from linreg.errors import LinregError
from linreg.operators.base import Affine, Constant, LinearFunction, Shape
from linreg.operators.sparse import selection, to_numpy
from linreg.operators.table import Built, Call, Data, Known, rule
from linreg.rounding import Rounding, most

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
    """z_j = x_{i(j)}, or 0: each output is a copy of one element of one of the inputs x_1 … x_K."""

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        """Where each element came from, as the function itself tells: it is run on 1, 2, … in the place of values."""
        *firsts, _ = accumulate((prod(shape) for shape in self.shapes), initial=1)
        places = [
            torch.arange(first, first + prod(shape), dtype=torch.float64).view(1, *shape)
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


def _within(source: np.ndarray, size: int) -> np.ndarray:
    """−1 for what comes from elsewhere."""
    return np.where(source < size, source, -1)


def _move(call: Call, kind: str) -> Built:
    return Move(call.evaluate, tuple(data.shape for data in call.data), kind=kind), call.data


@rule(*RESHAPES)
def _reshape(call: Call) -> Built:
    """Each by the shapes that it had in the program, so that a batch of one stays a batch under squeeze()."""
    x = call.one_data("self")
    return Reshape(x.shape, call.shape), (x,)


@rule("expand", "repeat")
def _expand(call: Call) -> Built:
    return _move(call, "expand")


@rule(*MOVES)
def _permute(call: Call) -> Built:
    return _move(call, "permute")


@rule(*PIECES)
def _piece(call: Call) -> Built:
    return _move(call, "slice")


@rule("cat", "concat", "stack")
def _concatenate(call: Call) -> Built:
    """[x_1, …, x_K]; fixed parts (a class token) are constants: β holds them, and zeros in the places of the data."""
    parts = call["tensors"]
    fixed = [part.value for part in parts if isinstance(part, Known)]
    if not fixed:
        return _move(call, "concat")

    def joined(values: Sequence[Tensor], known: Sequence[Tensor]) -> Tensor:
        images, data, rest = values[0].shape[0], iter(values), iter(known)
        tensors = (next(data) if isinstance(p, Data) else next(rest) for p in parts)
        return call.target([tensor.expand(images, *tensor.shape[1:]) for tensor in tensors], call["dim"])

    def moved(*values: Tensor) -> Tensor:
        return joined(values, [values[0].new_zeros(1, *value.shape[1:]) for value in fixed])

    zeros = [call.like.new_zeros(max(len(value) for value in fixed), *data.shape) for data in call.data]
    constant = Constant("constant", joined(zeros, fixed))
    return Move(moved, tuple(data.shape for data in call.data), (constant,), "concat"), call.data


@rule("flip", "roll")
def _reorder(call: Call) -> Built:
    dims = call["dims"] or [0]
    if 0 in dims or -len(call.shape) - 1 in dims:
        raise LinregError("this call mixes the images of a batch: move dimensions other than 0")
    return _move(call, "permute")


@rule("pad", "constant_pad_nd")
def _pad(call: Call) -> Built:
    """Zeros, reflections or copies at the border; a constant other than 0 is a line of the ledger."""
    value = call["value"]
    if not value or call["mode"] not in (None, "constant"):
        return _move(call, "pad")
    x: Data = call["self"]
    zero = replace(call, arguments=call.arguments | {"value": 0.0})
    border: Tensor = call.evaluate(call.like.new_zeros(1, *x.shape))
    return Move(zero.evaluate, (x.shape,), (Constant("pad", border),), "pad"), (x,)
