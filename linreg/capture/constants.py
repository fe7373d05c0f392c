"""What does not depend on the input: parameters, buffers, and what the program computes from them and from N alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind

from linreg.capture.program import Program
from linreg.capture.refuse import Refused
from linreg.capture.sizes import SIZED
from linreg.operators.given import EMPTY
from linreg.operators.reasons import RANDOM
from linreg.operators.table import BATCH, Call, Known


def parameters(program: Program) -> dict[fx.Node, Any]:
    """What the placeholders of a program hold that are needed, but for the user's input: copies of its tensors.

    A constant that the forward makes of numbers is known, and has no name of its own.
    """
    placeholders = {call.name: call for call in program.needed if call.op == "placeholder"}
    tensors = program.tensors
    values: dict[fx.Node, Any] = {}
    for spec in program.exported.graph_signature.input_specs:
        call = placeholders.get(spec.arg.name)
        if call is None or call in program.inputs:
            continue
        assert spec.target is not None
        value = tensors[spec.target]
        lifted = spec.kind == InputKind.CONSTANT_TENSOR and "lifted" in spec.target
        name = "" if lifted else spec.target
        values[call] = Known(name, value.detach().clone()) if isinstance(value, Tensor) else value
    return values


def one_for_each(call: Call) -> bool:
    """Whether a call on constants alone gives one for each image.

    Raises Refused where it is random, and where it makes something else from N than N copies along dimension 0, as
    expand(N, …) and zeros(N, …) do.
    """
    if torch.Tag.nondeterministic_seeded in call.target.tags:
        raise Refused(RANDOM, call)
    uses = sum(leaf is BATCH for leaf in call.leaves)
    if uses == 0:
        return any(isinstance(leaf, Known) and leaf.each for leaf in call.leaves)
    size = call[SIZED.get(call.name, "")]
    comes_first = isinstance(size, list) and len(size) > 0 and size[0] is BATCH
    if comes_first and uses == 1:
        return True
    why = "it makes a constant from the number of images, other than one for each image"
    raise Refused(f"{why}: make it as (N, …) with N first, or fix its size", call, arranges=True)


def fold(call: Call, each: bool) -> Any:
    """What a call on constants alone gives, under the name of its one source if there is just one."""
    sources = {leaf.name for leaf in call.leaves if isinstance(leaf, Known)} - {""}
    value = call.evaluate()
    if not isinstance(value, Tensor | tuple | list):
        return value
    if isinstance(value, Tensor) and call.name in EMPTY:
        value = torch.zeros_like(value)
    return Known(sources.pop() if len(sources) == 1 else "", value, each)
