"""What only moves, copies or drops values: the reshape family, slices, concatenation, padding.

All are linear, so each is a line of the table; their adjoints come from their own forward (`LinearFunction`).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from linreg.errors import LinregError
from linreg.operators.base import Constant, LinearFunction
from linreg.operators.table import Built, Call, Data, as_linear, rule

RESHAPES = ("reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "squeeze_copy", "expand")
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


@rule(*RESHAPES)
def _reshape(call: Call) -> Built:
    return as_linear(call, "reshape")


@rule("view", "_unsafe_view")
def _view(call: Call) -> Built:
    """As a reshape: a value of ours need not have the strides that the model's had."""
    arguments = {"self": call["self"], "shape": call["size"]}
    return as_linear(replace(call, target=torch.ops.aten.reshape.default, arguments=arguments), "reshape")


@rule(*MOVES)
def _move(call: Call) -> Built:
    return as_linear(call, "permute")


@rule(*PIECES)
def _piece(call: Call) -> Built:
    return as_linear(call, "slice")


@rule("cat", "concat", "stack")
def _concatenate(call: Call) -> Built:
    return as_linear(call, "concat")


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
