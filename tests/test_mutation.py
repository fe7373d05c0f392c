"""Nothing is silently wrong: each operator is broken in some way, and what tests every operator must see it.

The check that `trace` makes against the model sees what is wrong with a value, and would raise; here it is only noted,
so that the triad of tests stands on its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import CASES
from torch import Tensor
from triad import TRIAD

import linreg
from linreg import LinregError, OperatorGraph
from linreg.ledger import Ledger
from linreg.operators import (
    Affine,
    Average,
    BatchNorm,
    Constant,
    Convolution,
    Diagonal,
    Linear,
    Move,
    Reshape,
    Scale,
    Selection,
)
from linreg.operators.arithmetic import Sum
from linreg.operators.base import LinearFunction
from linreg.operators.gates import Clamp, LeakyReLU, ReLU
from linreg.operators.pooling import MaxPool, Windows
from linreg.operators.stencil import Stencil
from linreg.operators.structure import Concat

Method = Callable[..., Any]


@dataclass(frozen=True)
class Mutation:
    """`wrong` makes, of the right method `name` of `owner`, the one that takes its place while `case` is tested.

    `traced` says that the trace's own check against the model sees it.
    """

    case: str
    owner: Any
    name: str
    wrong: Callable[[Method], Any]
    traced: bool = False


def changed(**wrong: Callable[[Any], Any]) -> Callable[[Method], Method]:
    """The method of an operator some of whose fields are others: wrong in it alone."""

    def mutate(right: Method) -> Method:
        def method(self: Any, *arguments: Any) -> Any:
            return right(
                replace(self, **{name: change(getattr(self, name)) for name, change in wrong.items()}), *arguments
            )

        return method

    return mutate


def result(change: Callable[[Any], Any]) -> Callable[[Method], Method]:
    """What the method gives, changed."""
    return lambda right: lambda self, *arguments: change(right(self, *arguments))


def instead(wrong: Any) -> Callable[[Method], Any]:
    return lambda right: wrong


def each(change: Callable[[Any], Any]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    return lambda values: tuple(map(change, values))


def none(constants: tuple[Constant, ...]) -> tuple[Constant, ...]:
    return ()


def ones(numbers: list[int]) -> list[int]:
    return [1] * len(numbers)


def unstrided(right: Method) -> Method:
    """The rows and columns of the gradient side by side, where the stride sets them apart."""

    def adjoint(self: Convolution, grad: Tensor) -> tuple[Tensor, ...]:
        wide = F.pad(grad, (0, self.shape[2] - grad.shape[3], 0, self.shape[1] - grad.shape[2]))
        return right(replace(self, stride=ones(self.stride)), wide)

    return adjoint


def overwritten(self: Selection, grad: Tensor) -> tuple[Tensor]:
    """What two windows choose gets the gradient of one of them."""
    zeros = grad.new_zeros(grad.shape[0], *self.shape)
    index, flat = self.index.expand(grad.shape).flatten(-self.dims), grad.flatten(-self.dims)
    return (zeros.flatten(-self.dims).scatter(-1, index, flat).view(zeros.shape),)


def next_one(pooled: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    value, index = pooled
    return value, (index + 1) % (index.max() + 1)


def leaky_at_the_other_side(self: LeakyReLU, z: Tensor) -> Diagonal:
    return Diagonal(torch.where(z < 0, z.new_ones(()), self.negative_slope))


def shift_twice(self: Scale, *inputs: Tensor) -> Tensor:
    return self.linear(*inputs) + 2 * self.constants[0].value


def leaky_and_closed(self: LeakyReLU, z: Tensor) -> Diagonal:
    return Diagonal((z > 0).to(z), switch=True)


def broadcast_kept(self: Sum, grad: Tensor) -> tuple[Tensor, ...]:
    """The first of the copies instead of their sum."""
    return tuple(
        grad[tuple(slice(n) for n in (len(grad), *shape))] * a
        for a, shape in zip(self.coefficients, self.shapes, strict=True)
    )


def reversed_reading(right: Method) -> Method:
    """The gradients of a node's inputs in the wrong order."""

    def pull(self: OperatorGraph, grads: Any, step: Method, *rest: Any, **options: Any) -> Any:
        return right(self, grads, lambda node, g: step(node, g)[::-1], *rest, **options)

    return pull


def readers_overwritten(right: Method) -> Method:
    """The gradient of the last reader instead of the sum over all."""
    return lambda self, grads, step, *rest, **options: right(self, grads, step, *rest, add=lambda a, b: b)


def with_constants(change: Callable[[tuple[Constant, ...]], tuple[Constant, ...]]) -> Callable[[Method], Method]:
    """The constants of an operator changed where the ledger enters them, and only there."""

    def changed(right: Method) -> Method:
        def behind(self: Affine, grad: Tensor) -> Any:
            affine, grad = right(self, grad)
            return SimpleNamespace(constants=change(affine.constants), adjoint=affine.adjoint), grad

        return behind

    return changed


forgotten = with_constants(lambda constants: ())


MUTATIONS = {
    # constants
    "bias missing in the value": Mutation("linear", Linear, "__call__", instead(lambda self, x: self.linear(x)), True),
    "bias missing in the ledger": Mutation("linear", Linear, "behind", forgotten),
    "bias of another sign in the ledger": Mutation("conv2d", Constant, "share", result(torch.neg)),
    "bias in the linear part": Mutation("linear", Linear, "linear", instead(lambda self, x: self(x))),
    "convolution's bias missing in the value": Mutation(
        "conv2d", Convolution, "__call__", changed(constants=none), True
    ),
    "constant entered twice": Mutation("linear", Linear, "behind", with_constants(lambda constants: 2 * constants)),
    "constant spread over positions": Mutation(
        "conv2d", Constant, "share", instead(lambda self, grad: grad.flatten(2).mean(2)[..., None, None] * self.value)
    ),
    "shift added twice": Mutation("batch norm of channels", BatchNorm, "__call__", instead(shift_twice), True),
    "shift missing in the ledger": Mutation("batch norm of channels", Scale, "behind", forgotten),
    "pad's constant missing in the ledger": Mutation("pad with a value", Move, "behind", forgotten),
    "gate's offset missing": Mutation("relu6", Clamp, "freeze", result(lambda gate: replace(gate, offset=None)), True),
    "gate's offset missing in the ledger": Mutation("hardtanh", Diagonal, "behind", forgotten),
    "c · x missing in the ledger": Mutation("linear", Ledger, "input", lambda right: property(lambda self: 0 * self.x)),
    # layers
    "weight turned over in the adjoint": Mutation("linear", Linear, "adjoint", changed(weight=lambda w: w.flip(0))),
    "stride missing in the adjoint": Mutation("conv2d strided, padded", Convolution, "adjoint", unstrided),
    "groups mixed up in the adjoint": Mutation(
        "conv2d grouped", Convolution, "adjoint", changed(weight=lambda weight: weight.roll(1, 0))
    ),
    "kernel flipped in the adjoint": Mutation("conv2d", Convolution, "adjoint", changed(weight=lambda w: w.flip(-1))),
    "kernel flipped everywhere": Mutation(
        "conv2d", Convolution, "_convolve", changed(weight=lambda w: w.flip(-1)), True
    ),
    "padding missing in the matrix": Mutation(
        "conv2d strided, padded", Stencil, "sparse", changed(padding=lambda padding: [0] * len(padding))
    ),
    "dilation missing in the matrix": Mutation("conv1d dilated", Stencil, "sparse", changed(dilation=ones)),
    "groups mixed up in the matrix": Mutation(
        "conv2d grouped", Stencil, "sparse", changed(weight=lambda weight: weight.roll(1, 0))
    ),
    "transposed convolution's matrix of another sign": Mutation(
        "transposed conv2d", Convolution, "sparse", result(each(lambda matrix: -matrix))
    ),
    "batch norm folded with another sign": Mutation(
        "conv and batch norm", Convolution, "scaled",
        lambda right: lambda self, factor, shift: right(self, -factor, shift), True,
    ),
    "bias not scaled by the batch norm": Mutation(
        "linear and batch norm", Linear, "scaled",
        lambda right: lambda self, factor, shift: replace(
            right(self, factor, shift), constants=(*self.constants, shift)
        ), True,
    ),
    "factor missing in the adjoint": Mutation("multiply", Scale, "adjoint", instead(lambda self, grad: (grad,))),
    "factor missing in the matrix": Mutation("multiply", Scale, "sparse", changed(factor=lambda a: torch.ones_like(a))),
    # gates
    "relu open where it is closed": Mutation(
        "relu", ReLU, "freeze", instead(lambda self, z: Diagonal((z < 0).to(z), switch=True)), True
    ),
    "relu open everywhere": Mutation(
        "relu", ReLU, "freeze", instead(lambda self, z: Diagonal(torch.ones_like(z))), True
    ),
    "gate turned in the adjoint": Mutation(
        "relu", Diagonal, "adjoint", instead(lambda self, grad: (grad * (1 - self.slope),))
    ),
    "gate turned in the matrix": Mutation("relu", Diagonal, "sparse", changed(slope=lambda s: 1 - s)),
    "gate ignored in the adjoint": Mutation("relu", Diagonal, "adjoint", instead(lambda self, grad: (grad,))),
    "leaky slope where z > 0": Mutation("leaky relu", LeakyReLU, "freeze", instead(leaky_at_the_other_side), True),
    "leaky slope as 0": Mutation("leaky relu", LeakyReLU, "freeze", instead(leaky_and_closed), True),
    "prelu's slopes of other channels": Mutation(
        "prelu of channels", LeakyReLU, "freeze", changed(negative_slope=lambda a: a.roll(1, 0)), True
    ),
    "clamp's upper bound at both ends": Mutation("clamp", Clamp, "freeze", changed(low=lambda low: None), True),
    "clamp's offset with the slope 1": Mutation(
        "hardtanh", Clamp, "freeze", result(lambda gate: replace(gate, slope=torch.ones_like(gate.slope))), True
    ),
    "offset of the other sign": Mutation(
        "clamp", Clamp, "freeze", result(lambda gate: replace(gate, offset=-gate.offset)), True
    ),
    # pools and selections
    "max pool's index off by one": Mutation("max pool", MaxPool, "pool", result(next_one), True),
    "adjoint of a selection overwrites": Mutation("max pool, overlapping", Selection, "adjoint", instead(overwritten)),
    "matrix of a selection off by one": Mutation(
        "max pool", Selection, "sparse", changed(index=lambda index: (index + 1) % (index.max() + 1))
    ),
    "matrix of the other image": Mutation(
        "max pool", Selection, "sparse", lambda right: lambda self, image=0: right(self, 1 - image)
    ),
    "average pool's matrix off in its divisor": Mutation(
        "average pool without padding", Windows, "sparse", changed(weights=lambda w: w[:1].repeat(len(w)))
    ),
    "average of a mean as a sum": Mutation("mean of positions", Average, "linear", result(lambda z: 30 * z), True),
    # arithmetic
    "coefficient's sign missing in the adjoint": Mutation(
        "subtract", Sum, "adjoint", changed(coefficients=each(abs))
    ),
    "coefficient's sign missing in the value": Mutation(
        "subtract", Sum, "linear", changed(coefficients=each(abs)), True
    ),
    "coefficient missing in the matrix": Mutation("add", Sum, "sparse", changed(coefficients=each(lambda a: 1))),
    "adjoint of broadcasting takes one copy": Mutation("add, broadcasting", Sum, "adjoint", instead(broadcast_kept)),
    # structure
    "permutation turned over in the adjoint": Mutation(
        "permute", LinearFunction, "adjoint",
        lambda right: lambda self, grad: (right(self, grad)[0].flatten(1).flip(1).view(len(grad), *self.shapes[0]),),
    ),
    "matrix of a permutation transposed": Mutation(
        "permute", Move, "sparse", result(each(lambda matrix: matrix.T.tocsr()))
    ),
    "reshape of the adjoint in another order": Mutation(
        "flatten", Reshape, "adjoint", instead(lambda self, grad: (grad.mT.reshape(len(grad), *self.before),))
    ),
    "gradients of parts in the wrong order": Mutation("subtract", OperatorGraph, "pull", reversed_reading),
    "gradients of parts of one shape exchanged": Mutation(
        "concatenate, by another name", Concat, "adjoint", result(lambda parts: parts[::-1])
    ),
    "of several readers the last one counts": Mutation("add, broadcasting", OperatorGraph, "pull", readers_overwritten),
    # promises
    "a view passed off as new": Mutation("flatten", Reshape, "new_value", instead(True)),
    "a view of the gradient passed off as new": Mutation("flatten", Reshape, "new_gradients", instead(True)),
    "one gradient for two passed off as two": Mutation("add", Sum, "new_gradients", instead(True)),
    "slopes of each image passed off as those of all": Mutation("relu", Diagonal, "shared", instead(True)),
}  # fmt: skip


TRACE = import_module("linreg.capture.attempts")


def failures(case: str) -> set[str]:
    """What fails for a case traced anew: checks of the triad, and "trace" for trace's own, which is but noted."""
    module, x, found = CASES[case].module(), CASES[case].input(), set[str]()

    def note(right: Method) -> Method:
        def check(*arguments: Any) -> None:
            try:
                right(*arguments)
            except LinregError:
                found.add("trace")

        return check

    with pytest.MonkeyPatch.context() as patch:
        for name in ("compare", "compare_batch"):
            patch.setattr(TRACE, name, note(getattr(TRACE, name)))
        lin = linreg.trace(module, x).linearize(x)
    return found | {name for name, check in TRIAD.items() if fails(partial(check, module, x, lin))}


def fails(check: Callable[[], None]) -> bool:
    try:
        check()
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the triad on its own, and by the trace before it where the value itself is wrong.

    That nothing fails without the mutation is what `test_triad` shows.
    """
    mutation = MUTATIONS[name]
    right = getattr(mutation.owner, mutation.name)
    monkeypatch.setattr(mutation.owner, mutation.name, mutation.wrong(right))
    found = failures(mutation.case)
    assert found - {"trace"}, f"the triad passes, found: {found}"
    assert ("trace" in found) == mutation.traced, found
