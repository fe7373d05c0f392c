"""What only moves, copies or drops values: the reshape family, slices, concatenation, padding.

All are linear, so each is a line of the table; their adjoints come from their own forward (`LinearFunction`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from linreg.errors import LinregError
from linreg.operators.base import Affine, Constant, LinearFunction, Shape
from linreg.operators.table import Built, Call, Data, Known, as_linear, rule

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


@rule(*RESHAPES)
def _reshape(call: Call) -> Built:
    """Each by the shapes that it had in the program, so that a batch of one stays a batch under squeeze()."""
    x = call.one_data("self")
    return Reshape(x.shape, call.shape), (x,)


@rule("expand", "repeat")
def _expand(call: Call) -> Built:
    return as_linear(call, "expand")


@rule(*MOVES)
def _move(call: Call) -> Built:
    return as_linear(call, "permute")


@rule(*PIECES)
def _piece(call: Call) -> Built:
    return as_linear(call, "slice")


@rule("cat", "concat", "stack")
def _concatenate(call: Call) -> Built:
    """[x_1, …, x_K]; fixed parts (a class token) are constants: β holds them, and zeros in the places of the data."""
    parts = call["tensors"]
    fixed = [part.value for part in parts if isinstance(part, Known)]
    if not fixed:
        return as_linear(call, "concat")

    def joined(values: Sequence[Tensor], scale: float) -> Tensor:
        images, data = values[0].shape[0], iter(values)
        known = (
            part.value.expand(images, *part.value.shape[1:]) * scale if isinstance(part, Known) else None
            for part in parts
        )
        return call.target([next(data) if value is None else value for value in known], call["dim"])

    zeros = [call.like.new_zeros(max(len(value) for value in fixed), *data.shape) for data in call.data]
    constant = Constant("constant", joined(zeros, 1))
    shapes = tuple(data.shape for data in call.data)
    return LinearFunction(lambda *values: joined(values, 0), shapes, (constant,), "concat"), call.data


@rule("flip", "roll")
def _reorder(call: Call) -> Built:
    dims = call["dims"] or [0]
    if 0 in dims or -len(call.shape) - 1 in dims:
        raise LinregError("this call mixes the images of a batch: move dimensions other than 0")
    return as_linear(call, "permute")


@rule("pad", "constant_pad_nd")
def _pad(call: Call) -> Built:
    """Zeros, reflections or copies at the border; a constant other than 0 is a line of the ledger."""
    value = call["value"]
    if not value or call["mode"] not in (None, "constant"):
        return as_linear(call, "pad")
    x: Data = call["self"]
    zero = replace(call, arguments=call.arguments | {"value": 0.0})
    border: Tensor = call.evaluate(call.like.new_zeros(1, *x.shape))
    return LinearFunction(zero.evaluate, (x.shape,), (Constant("pad", border),), "pad"), (x,)
